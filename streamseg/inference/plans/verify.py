"""Whether a built engine computes the same as the network: its logits beside the fp32 reference."""

from __future__ import annotations

import contextlib
import time
from itertools import islice

import msgspec
import numpy as np

from streamseg.config import StreamConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import BuildSpec, backend_of
from streamseg.inference.engine import Engine
from streamseg.inference.plans.cache import Agreement
from streamseg.inference.scaling import make_batch
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.sources.target import DEMO
from streamseg.types import F32, U8

TIMED_S = 0.5
CLEARLY = 1.1
MOST_MEAN_DIFFERENCE = 0.5  # of the reference's standard deviation; int8 has about 0.1, a wrong graph 1


def check_agreement(engine: Engine, spec: BuildSpec) -> Agreement:
    """Compare with ONNX Runtime in fp32; raises EngineError when the logits differ too much."""
    reference = reference_engine(spec)
    try:
        size = spec.shapes.usual[1:]
        pairs = [(engine(b), reference(b)) for picture in _pictures() for b in [make_batch([picture], size)]]
    finally:
        reference.close()
    found = agreement_of(pairs)
    if not found.mean_difference < MOST_MEAN_DIFFERENCE:
        raise EngineError(
            f"engine {engine.info.id}: the plan does not compute what the network does: its logits differ by "
            f"{found.mean_difference:.2g} of their standard deviation; it is not used"
        )
    return found


class Cost(msgspec.Struct, frozen=True):
    """What a picture costs, at best: time, and CPU time of all threads, which a busy machine changes less."""

    ms: float
    cpu_ms: float

    def clearly_above(self, other: Cost) -> bool:
        """Whether both are, by more than runs of one engine differ."""
        return self.ms > CLEARLY * other.ms and self.cpu_ms > CLEARLY * other.cpu_ms


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """A form of an engine beside others on real pictures."""

    agreement: Agreement  # with ONNX Runtime in fp32
    cost: Cost
    fp32: Cost
    onnx: Cost | None = None  # of ONNX Runtime in the same precision, where it has that


def measure(engine: Engine, spec: BuildSpec) -> Measured:
    """Compare with ONNX Runtime: labels with fp32's, times by turns. Blocks for about a second."""
    onnx = backend_of("onnx")
    with contextlib.ExitStack() as owned:
        engines = [engine, owned.enter_context(contextlib.closing(reference_engine(spec)))]
        if (
            engine.info.device == "cpu"
            and engine.info.backend != onnx.name
            and not onnx.why_not(spec.precision)
        ):
            engines.append(owned.enter_context(contextlib.closing(onnx.load(spec, None))))
        batches = [make_batch([picture], spec.shapes.usual[1:]) for picture in _pictures()]
        answers = [[one(batch) for batch in batches] for one in engines]
        runs: list[list[Cost]] = [[] for _ in engines]
        begun_s = time.perf_counter()
        while time.perf_counter() - begun_s < TIMED_S:
            for one, costs in zip(engines, runs, strict=True):
                costs.append(_cost(one, batches[0]))
    best = [Cost(min(c.ms for c in costs), min(c.cpu_ms for c in costs)) for costs in runs]
    agreement = agreement_of(list(zip(*answers[:2], strict=True)))
    return Measured(agreement=agreement, cost=best[0], fp32=best[1], onnx=best[2] if len(best) > 2 else None)


def _cost(engine: Engine, batch: U8) -> Cost:
    begun_s, begun_cpu_s = time.perf_counter(), time.process_time()
    engine(batch)
    cpu_s, took_s = time.process_time() - begun_cpu_s, time.perf_counter() - begun_s
    return Cost(round(1000 * took_s, 2), round(1000 * cpu_s, 2))


def _pictures() -> list[U8]:
    """Three pictures of the demo clip, 3.3 s apart: RGB (H, W, 3) uint8."""
    with open_source(StreamConfig(source=DEMO), "demo") as source:
        return [frame.rgb for frame in islice(decode(source, "demo"), 0, 201, 100)]


def reference_engine(spec: BuildSpec) -> Engine:
    """The same network in ONNX Runtime, fp32."""
    return backend_of("onnx").load(msgspec.structs.replace(spec, precision="fp32"), None)


def agreement_of(pairs: list[tuple[F32, F32]]) -> Agreement:
    """Agreement of (logits, reference logits), each (N, C, h, w)."""
    same, largest, total, spread = [], 0.0, [], []
    for got, want in pairs:
        if got.shape != want.shape or not np.isfinite(got).all():
            return Agreement(
                pictures=len(pairs),
                argmax_percent=0.0,
                max_difference=float("inf"),
                mean_difference=float("inf"),
            )
        ids = want.shape[1] == 1  # class ids
        difference = np.abs(got - want) if not ids else (got != want).astype(np.float32)
        same.append(float(np.mean(got == want if ids else got.argmax(1) == want.argmax(1))))
        largest = max(largest, float(difference.max()))
        total.append(float(difference.mean()))
        spread.append(1.0 if ids else float(want.std()))
    return Agreement(
        pictures=len(pairs),
        argmax_percent=round(100 * float(np.mean(same)), 3),
        max_difference=float(f"{largest:.4g}"),
        mean_difference=float(f"{np.mean(total) / max(float(np.mean(spread)), 1e-9):.4g}"),
    )
