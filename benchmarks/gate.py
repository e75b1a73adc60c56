"""What the motion gate saves and what it costs: streams held with and without it, and what it is late for.

python -m benchmarks.gate seen CLIP --class person --engine voc05
python -m benchmarks.gate held CLIP --count 24 --count 72
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from threading import Event
from typing import Any

import av
import click
import cv2
import msgspec
import numpy as np

from benchmarks import print_json, run_command
from streamseg.bench.streams import bench_streams
from streamseg.bench.summary import Machine, this_machine
from streamseg.cli.settings import given, options_from
from streamseg.config import Config, EngineConfig, StreamConfig, build_settings
from streamseg.errors import UsageError
from streamseg.inference.infer import infer, input_size
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.live.gate import Gate
from streamseg.sources.live import frames
from streamseg.types import U8, Frame, FrameSettings, Size

FPS = 8
WINDOWS = 8  # parts of the clip, which streams play side by side: cameras are not in step
WINDOW = 240  # frames
LEAST_SHARE = 0.001  # of the picture, of something that appears
LASTS = 3  # frames that it is there for, so that a mistake of the network for one frame is none
SLOWEST_S = 0.25


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """One setting of the gate on a clip whose every frame the network was run on."""

    gate_min_s: float
    run: float  # share of the frames that the network would be run on
    agreement: float  # of pixels with the labels of the frame itself, mean over all frames
    worst: float  # of the worst frame
    late: int  # appearances that the network saw later than SLOWEST_S after it could
    slowest_s: float
    gate_us: float  # median CPU time, with scaling


class SeenResult(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate shows of a clip, against all frames."""

    clip: str
    engine: str
    frames: int
    appearances: int
    gates: list[Seen]
    machine: Machine


class Held(msgspec.Struct, frozen=True, kw_only=True):
    """Live streams with one setting of the gate."""

    clip: str
    gate: str
    gate_min_s: float
    engine: str
    streams: int
    held: int
    masks_per_s: float
    unchanged: float | None
    cpu_ms_a_mask: float | None
    by_cpu: float  # streams that the cores would hold if nothing else ran on them
    load: float


def played(clip: str) -> Iterator[Frame]:
    """The frames of a clip at FPS, as fast as they are taken, with the clip's own clock."""
    settings = FrameSettings()
    config = StreamConfig(source=clip, max_fps=FPS)
    for frame in frames(config, "clip", Event(), lambda event: None, 0, lambda: settings):
        yield replace(frame, decoded_ns=10**9 + (frame.pts_ns or 0))


def shown(taken: Sequence[Frame], size: Size, gate_min_s: float) -> tuple[list[int], float]:
    """Which frame's labels are shown for each frame, and the median CPU time of the gate in µs."""
    settings = FrameSettings(gate="motion", gate_min_s=gate_min_s)
    gate = Gate(lambda _: None, lambda _: None, lambda kind, stream: False, lambda _: False)
    last, found, took = 0, [], []
    for i, frame in enumerate(replace(frame, settings=settings) for frame in taken):
        begun = time.thread_time()
        if not gate.passes(frame, size):
            gate.taken(frame)
            gate.answered(frame)
            last = i
        took.append(time.thread_time() - begun)
        found.append(last)
    return found, 1e6 * statistics.median(took)


def appearances(labels: Sequence[U8], of: int) -> list[int]:
    """The frames in which something of a class is where nothing of it was a frame before, and which stays."""
    found = []
    least = LEAST_SHARE * labels[0].size
    there = [(one == of).astype(np.uint8) for one in labels]
    for i in range(1, len(there) - LASTS):
        around = cv2.dilate(there[i - 1], np.ones((9, 9), np.uint8))
        _, parts, stats, _ = cv2.connectedComponentsWithStats(there[i])
        for part in range(1, len(stats)):
            mine = parts == part
            if stats[part][cv2.CC_STAT_AREA] >= least and not around[mine].any():
                near = cv2.dilate(mine.astype(np.uint8), np.ones((41, 41), np.uint8)) > 0
                if all((there[i + k][near]).sum() >= least for k in range(1, LASTS)):
                    found.append(i)
    return found


def write_windows(clip: str, folder: Path) -> list[Path]:
    """Parts of a clip from all over it, each FPS frames a second, as small files that can be looped."""
    pictures = [frame.rgb for frame in played(clip)]
    starts = [round(i * len(pictures) / WINDOWS) for i in range(WINDOWS)]
    paths = []
    for i, start in enumerate(starts):
        paths.append(folder / f"{Path(clip).stem}-{i}.mp4")
        write(paths[-1], [pictures[(start + k) % len(pictures)] for k in range(WINDOW)])
    return paths


def write_still(folder: Path) -> list[Path]:
    """A drawn street with a camera's noise, in which nothing happens."""
    rng = np.random.default_rng(0)
    scene = cv2.resize(rng.uniform(40, 200, (9, 12, 3)), (480, 360), interpolation=cv2.INTER_CUBIC)
    scene[220:] = (90, 90, 95)
    noisy = (scene + rng.normal(0, 2.5, scene.shape) for _ in range(WINDOW))
    path = folder / "still.mp4"
    write(path, [one.round().clip(0, 255).astype(np.uint8) for one in noisy])
    return [path]


def write(path: Path, pictures: Sequence[U8]) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "crf": "23"})
        stream.height, stream.width = pictures[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        for i, rgb in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


@click.group()
def command() -> None:
    """Measure the motion gate."""


@command.command()
@click.argument("clip")
@click.option("--engine", "name", default=EngineConfig().name)
@click.option("--class", "of", required=True, help="What appears, by its class's name.")
@click.option("--gate-min-s", "minima", type=float, multiple=True, default=(0.0, 0.25))
@options_from(EngineConfig, "precision", "threads")
def seen(clip: str, of: str, minima: Sequence[float], **options: Any) -> None:
    """Run the network on every frame of a clip at 8 fps, and say what the gate would have shown instead."""
    engine = load_engine(EngineConfig(**given(**options)))
    taken, labels = [], []
    try:
        names = engine.info.labels.names
        if of not in names:
            raise UsageError(f"--class: must be one of {', '.join(names)}; is {of!r}")
        for frame in played(clip):
            size = input_size(engine, frame.size)
            taken.append(frame)
            labels.append(labels_of(infer(engine, [frame])[0], size)[0])
        spec = engine.info
    finally:
        engine.close()
    found = appearances(labels, names.index(of))
    gates = []
    for gate_min_s in minima:
        refs, gate_us = shown(taken, labels[0].shape[:2], gate_min_s)
        agree = [float((labels[i] == labels[ref]).mean()) for i, ref in enumerate(refs)]
        delays = [next((k for k, ref in enumerate(refs[i:]) if ref >= i), len(refs) - i) for i in found]
        gates.append(
            Seen(
                gate_min_s=gate_min_s,
                run=round(statistics.mean(ref == i for i, ref in enumerate(refs)), 3),
                agreement=round(statistics.mean(agree), 5),
                worst=round(min(agree), 4),
                late=sum(delay / FPS > SLOWEST_S for delay in delays),
                slowest_s=max(delays, default=0) / FPS,
                gate_us=round(gate_us),
            )
        )
    print_json(
        SeenResult(
            clip=Path(clip).name, engine=spec.id, frames=len(taken), appearances=len(found), gates=gates,
            machine=this_machine("onnxruntime", "av", "numpy"),
        )
    )  # fmt: skip


@command.command()
@click.argument("clip", required=False)
@click.option("--count", "counts", type=int, multiple=True, default=(20, 60), help="Streams at once.")
@click.option("--gate-min-s", type=float, default=0.25, help="Measured beside 0.")
@click.option("--engine", "name", default=EngineConfig().name)
@options_from(EngineConfig, "precision", "threads", "replicas", "max_batch")
@click.option("--seconds", type=float, default=12.0, help="Of each run.")
@click.option("--rounds", type=int, default=1, help="Of all settings, one after the other.")
def held(
    clip: str | None, counts: Sequence[int], gate_min_s: float, seconds: float, rounds: int, **options: Any
) -> None:
    """Run live streams at 8 fps, without the gate and with it by turns; CLIP unset: a drawn still scene."""
    kinds: list[dict[str, Any]] = [{}, {"gate": "motion"}, {"gate": "motion", "gate_min_s": gate_min_s}]
    with tempfile.TemporaryDirectory() as folder:
        paths = write_windows(clip, Path(folder)) if clip else write_still(Path(folder))
        for _ in range(rounds):
            for count in counts:
                for kind in kinds if clip else kinds[:2]:
                    print_json(_held(clip or "still", paths, count, kind, seconds, given(**options)))


def _held(
    clip: str, paths: Sequence[Path], count: int, kind: dict[str, Any], seconds: float, engine: dict[str, Any]
) -> Held:
    base = {"realtime": True, "loop": True, "max_fps": FPS, "max_age_ms": 250.0, "mask_size": "input"}
    streams = {f"s{i:03}": base | kind | {"source": str(paths[i % len(paths)])} for i in range(count)}
    tree = {"streams": streams, "engine": engine, "publish": {"endpoint": "tcp://127.0.0.1:0"}}
    result = bench_streams(build_settings(Config, tree), seconds, FPS)
    cost = result.cpu_ms_a_mask or float("inf")
    return Held(
        clip=Path(clip).name,
        gate=kind.get("gate", "none"),
        gate_min_s=kind.get("gate_min_s", 0.0),
        engine=result.engine,
        streams=count,
        held=result.held,
        masks_per_s=result.masks_per_s,
        unchanged=result.unchanged,
        cpu_ms_a_mask=result.cpu_ms_a_mask,
        by_cpu=round(1000 * result.machine.cores / (FPS * cost), 1),
        load=result.load,
    )


if __name__ == "__main__":
    run_command(command)
