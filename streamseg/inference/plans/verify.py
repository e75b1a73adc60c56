"""Whether a built engine computes the same as the network: its logits beside the fp32 reference."""

from __future__ import annotations

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
