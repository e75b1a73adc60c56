"""What fusion costs a frame: CPU time of one thread with and without it, on the same frames.

The frames of the source at two sizes, each with masks of the frame's size and of the network input's; all by
turns in one run.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field, replace
from threading import Event

import click
import msgspec

from benchmarks import print_json, run_command
from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.cli.settings import as_json
from streamseg.config import CrfConfig, EngineConfig, StreamConfig
from streamseg.errors import StreamsegError
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits, mask_size_of
from streamseg.refinement.crf_step import CrfSetup, crf_setup, refine_picture
from streamseg.refinement.flow import one_thread
from streamseg.refinement.fusion import Fusion
from streamseg.sources.live import frames
from streamseg.types import F32, Frame, Size
from streamseg.types.picture import scale_picture
from streamseg.types.sizes import MaskSize

WARM_UP = 5  # frames left out
EVERY, DELAY = 5, 2  # a keyframe each so many frames, refined so many frames later
SIZES: tuple[Size, ...] = ((360, 480), (1080, 1920))
MASK_SIZES: tuple[MaskSize, ...] = ("frame", "input")


class FusionResult(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of CPU time from logits to labels."""

    engine: str
    size: Size
    mask_size: str
    plain: Spread
    fused: Spread
    costs_ms: float  # fused − plain, medians
    machine: Machine


@dataclass(eq=False)
class _Kind:
    """Frames of one size with masks of one size, and the memory of their fusion."""

    size: Size
    mask_size: MaskSize
    fusion: Fusion
    answers: dict[int, tuple[Frame, F32]] = field(default_factory=dict)  # of keyframes, on their way
    plain_ms: list[float] = field(default_factory=list)
    fused_ms: list[float] = field(default_factory=list)

    def add(self, index: int, frame: Frame, engine: Engine, setup: CrfSetup) -> None:
        picture = scale_picture(frame.rgb, self.size)
        (logits,) = infer(engine, [replace(frame, picture=picture)])
        seen, keyframe = logits.geometry.input_size, index % EVERY == 0
        if keyframe:
            refined = refine_picture(setup, logits.array, logits.frame.scaled(seen)).log_probabilities
            assert refined is not None
            self.answers[index + DELAY] = frame, refined
        wanted = mask_size_of(self.mask_size, self.size, seen)
        begun = time.thread_time()
        labels_from_logits(logits.array, wanted)
        between = time.thread_time()
        if index in self.answers:
            of, answer = self.answers.pop(index)
            self.fusion.refine(of.epoch, of.seq, answer)
        self.fusion.step(logits, keyframe=keyframe).labels(wanted)
        self.plain_ms.append(1000 * (between - begun))
        self.fused_ms.append(1000 * (time.thread_time() - between))


def bench_fusion(config: EngineConfig, source: str, count: int = 60) -> list[FusionResult]:
    """Measure on the first frames of a source; raises StreamsegError."""
    one_thread()
    engine = load_engine(config)
    try:
        setup = crf_setup(CrfConfig(), engine.info.spec)
        kinds = [_Kind(size, mask, Fusion(setup.thin)) for size in SIZES for mask in MASK_SIZES]
        played = frames(StreamConfig(source=source, loop=True), "bench", Event(), lambda event: None)
        for index, frame in enumerate(itertools.islice(played, count)):
            for kind in kinds:
                kind.add(index, frame, engine, setup)
    finally:
        engine.close()
    return [_result(kind, engine.info.id, source) for kind in kinds]


def _result(kind: _Kind, engine: str, source: str) -> FusionResult:
    if len(kind.fused_ms) <= WARM_UP:
        raise StreamsegError(
            f"{source}: {len(kind.fused_ms)} frames are too few; must be more than {WARM_UP}"
        )
    plain, fused = spread_of(kind.plain_ms[WARM_UP:]), spread_of(kind.fused_ms[WARM_UP:])
    return FusionResult(
        engine=engine,
        size=kind.size,
        mask_size=str(kind.mask_size),
        plain=plain,
        fused=fused,
        costs_ms=round(fused.p50_ms - plain.p50_ms, 3),
        machine=this_machine("numpy", "opencv-python-headless"),
    )


@click.command()
@click.option("--source", default="demo:", help="Where the frames come from.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@click.option("--frames", type=click.IntRange(10), default=60, help="How many frames.")
@as_json
def command(source: str, name: str, frames: int, as_json: bool) -> None:
    """What fusion costs a frame: CPU time of one thread from logits to labels, with it and without."""
    for result in bench_fusion(EngineConfig(name=name), source, frames):
        if as_json:
            print_json(result)
            continue
        click.echo(f"{result.size[1]}x{result.size[0]}, masks of {result.mask_size} size")
        for what, times in {"plain": result.plain, "fused": result.fused}.items():
            click.echo(f"  {what:6} p50 {times.p50_ms:.2f} ms   p95 {times.p95_ms:.2f} ms of CPU time")
        click.echo(f"  fusion costs {result.costs_ms:.2f} ms a frame")


if __name__ == "__main__":
    run_command(command)
