"""Frames → logits, in one call of the engine for each input size."""

from __future__ import annotations

import time
from collections.abc import Sequence

from streamseg.engine import Engine
from streamseg.preprocess import fit_size, make_batch
from streamseg.types import Frame, Geometry, Scores, Size


def input_size(engine: Engine, frame_size: Size) -> Size:
    """The size at which this engine sees frames of frame_size."""
    return fit_size(frame_size, engine.info.input_size, engine.info.spec.size_multiple)


def infer(engine: Engine, frames: Sequence[Frame]) -> list[Scores]:
    """Run frames that share one input size as a batch; one Scores for each, in order.

    stage_us gains wait (decoded until taken here), preprocess and infer, the latter two of the whole batch.
    """
    begun = time.monotonic_ns()
    size = input_size(engine, frames[0].size)
    batch = make_batch([f.rgb for f in frames], size)  # (N, h, w, 3)
    prepared = time.monotonic_ns()
    logits = engine(batch)  # (N, C, h / output_stride, w / output_stride)
    done = time.monotonic_ns()
    return [
        Scores(
            frame,
            logits[i],
            Geometry(frame.size, size),
            {
                "decode": frame.decode_us,
                "wait": (begun - frame.decoded_ns) // 1000,
                "preprocess": (prepared - begun) // 1000,
                "infer": (done - prepared) // 1000,
            },
            engine.info.id,
        )
        for i, frame in enumerate(frames)
    ]
