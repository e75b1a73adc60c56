"""From NVDEC to labels, with the picture staying on the GPU and by way of memory, by turns on one clip."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import time
from fractions import Fraction
from pathlib import Path

import av
import cv2
import msgspec
import numpy as np

from streamseg.bench.summary import Spread, spread_of
from streamseg.config import EngineConfig, StreamConfig
from streamseg.errors import UsageError
from streamseg.inference.engine import Engine
from streamseg.inference.infer import accepts_device_frames, infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.types import U8, Frame, Size
from tools.demo import draw_scene

WARM_UP = 10  # pictures of each form that are not counted: shapes are recorded then


class RouteResult(msgspec.Struct, frozen=True, kw_only=True):
    """One engine on one clip. Times are of a frame, from decoded to labels of its size on the host."""

    engine: str
    frame_size: Size
    stays: Spread
    by_memory: Spread
    ratio: float  # of the medians, by_memory / stays
    decode: Spread  # of NVDEC, in either form; by memory, copying and converting come on top
    same_labels_percent: float


def bench_route(config: EngineConfig, clip: Path, frames: int = 200) -> RouteResult:
    """Measure; raises UsageError where pictures do not stay. `frames` of each form, from a looped clip."""
    stays: list[float] = []
    by_memory: list[float] = []
    decoded: list[float] = []
    same: list[float] = []
    stream = StreamConfig(source=str(clip), hwaccel="cuda")
    with contextlib.closing(load_engine(config)) as engine:
        while len(by_memory) < frames + WARM_UP:
            with open_source(stream, "bench") as source:
                for one, other in itertools.pairwise(decode(source, "bench")):
                    if not accepts_device_frames(engine, one):
                        raise UsageError(f"{engine.info.id}: pictures do not stay on the GPU here")
                    _, took_ms = _labels(engine, one)
                    stays.append(took_ms)
                    _, took_ms = _labels(engine, other, by_memory=True)
                    by_memory.append(took_ms)
                    decoded.append(one.decode_us / 1000)
                    if len(by_memory) >= frames + WARM_UP:
                        break
                same.append(
                    float(np.mean(_labels(engine, one)[0] == _labels(engine, one, by_memory=True)[0]))
                )
        on_device, by_host = spread_of(stays[WARM_UP:]), spread_of(by_memory[WARM_UP:])
        return RouteResult(
            engine=engine.info.id,
            frame_size=one.size,
            stays=on_device,
            by_memory=by_host,
            ratio=round(by_host.p50_ms / on_device.p50_ms, 2),
            decode=spread_of(decoded[WARM_UP:]),
            same_labels_percent=round(100 * float(np.mean(same)), 3),
        )


def _labels(engine: Engine, frame: Frame, *, by_memory: bool = False) -> tuple[U8, float]:
    """A frame's labels, and the milliseconds that took."""
    begun = time.perf_counter()
    if by_memory:
        frame = dataclasses.replace(frame, picture=frame.rgb)
    (logits,) = infer(engine, [frame])
    labels, _ = labels_of(logits, frame.size)
    return labels, (time.perf_counter() - begun) * 1000


def street_clip(path: Path, size: Size = (1080, 1920), frames: int = 50) -> Path:
    """Write the drawn street as H.264 4:2:0 of this size."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = *size, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for i in range(frames):
            picture = np.asarray(cv2.resize(draw_scene(i / 25)[0], size[::-1]), np.uint8)
            image = av.VideoFrame.from_ndarray(picture, format="rgb24")
            image.pts, image.time_base = i, Fraction(1, 25)
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    return path
