"""Networks alone: every engine × precision × batch on real frames, with its agreement with fp32."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence

import msgspec
import numpy as np

from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.config import EngineConfig, StreamConfig
from streamseg.decode import decode
from streamseg.engine import Engine, find_engine, load_engine
from streamseg.infer import input_size
from streamseg.preprocess import make_batch
from streamseg.sources import open_source
from streamseg.types import U8


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One engine in one form."""

    engine: str
    threads: int
    batch: int
    input_size: tuple[int, int]
    time: Spread  # of one call
    fps: float  # frames per second at the median
    agreement: float  # share of logits whose argmax is the fp32 engine's, in per cent


class EngineResult(msgspec.Struct, frozen=True, kw_only=True):
    """The table of `streamseg bench engine`."""

    source: str
    rows: list[EngineRow]
    machine: Machine


def bench_engines(
    names: Sequence[str], source: str, *, batches: Sequence[int] = (1,), threads: int = 0, repeats: int = 50
) -> EngineResult:
    """Time engines in turn on frames of `source`, all forms interleaved in one run, so that ratios hold."""
    pictures = _pictures(source, max(batches))
    rows = []
    for name in names:
        _, spec = find_engine(name)
        engines = [
            load_engine(EngineConfig(name=name, precision=p, threads=threads))  # type: ignore[arg-type]
            for p in spec.weights
        ]
        for batch in batches:
            rows += _rows(engines, pictures[:batch], repeats)
        for engine in engines:
            engine.close()
    return EngineResult(source=source, rows=rows, machine=this_machine("onnxruntime", "numpy"))


def _rows(engines: list[Engine], pictures: list[U8], repeats: int) -> list[EngineRow]:
    frame_size = (pictures[0].shape[0], pictures[0].shape[1])
    batches = [make_batch(pictures, input_size(engine, frame_size)) for engine in engines]
    reference = engines[0](batches[0]).argmax(1)
    times: list[list[float]] = [[] for _ in engines]
    agreement = [0.0] * len(engines)
    for _ in range(repeats):
        for i, engine in enumerate(engines):
            begun = time.perf_counter()
            logits = engine(batches[i])
            times[i].append((time.perf_counter() - begun) * 1000)
            agreement[i] = float(np.mean(logits.argmax(1) == reference)) * 100
    return [
        EngineRow(
            engine=engine.info.id,
            threads=engine.info.threads,
            batch=len(pictures),
            input_size=(batch.shape[1], batch.shape[2]),
            time=spread_of(taken),
            fps=round(len(pictures) * 1000 / spread_of(taken).p50_ms, 1),
            agreement=round(agree, 2),
        )
        for engine, batch, taken, agree in zip(engines, batches, times, agreement, strict=True)
    ]


def _pictures(source: str, count: int) -> list[U8]:
    with open_source(StreamConfig(source=source), "bench") as opened:
        return [frame.rgb for frame in itertools.islice(decode(opened, "bench"), count)]
