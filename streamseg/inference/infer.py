"""Frames → logits, in one call of the engine for each input size."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import cast

import numpy as np

from streamseg.inference.backends.protocol import Engine, TensorEngine
from streamseg.inference.preprocess import fit_size, make_batch
from streamseg.sources.surface import Surface
from streamseg.types import F32, DeviceLogits, Frame, Geometry, Logits, Size


def input_size(engine: Engine, frame_size: Size) -> Size:
    """The size at which this engine sees frames of frame_size."""
    return fit_size(frame_size, engine.info.input_size, engine.info.spec.size_multiple)


def accepts_device_frames(engine: Engine, frame: Frame) -> bool:
    """Whether a frame's picture lies on a GPU, where this engine takes it."""
    return isinstance(frame.picture, Surface) and frame.picture.device == engine.info.tensors


def infer(engine: Engine, frames: Sequence[Frame]) -> list[Logits]:
    """Run frames that share one input size as a batch; one Logits for each, in order.

    Pictures that lie where the engine takes them are scaled there, and the logits stay there: neither comes
    here until somebody asks. stage_us gains wait (decoded until taken here), preprocess and infer, the latter
    two of the whole batch; what is prepared on a GPU is waited for in infer.
    """
    begun = time.monotonic_ns()
    size = input_size(engine, frames[0].size)
    logits: list[F32 | DeviceLogits]
    surfaces = [f.picture for f in frames if accepts_device_frames(engine, f)]
    if len(surfaces) == len(frames):
        from streamseg.inference.preprocess_device import (
            make_device_batch,  # torch: only where such frames come from
        )
        from streamseg.inference.upsample_device import TensorLogits

        tensors = make_device_batch(cast(list[Surface], surfaces), size)  # (N, h, w, 3)
        prepared = time.monotonic_ns()
        answer = cast(TensorEngine, engine).on_device(tensors)
        logits = [one if isinstance(one, np.ndarray) else TensorLogits(one) for one in answer]
    else:
        batch = make_batch([f.rgb for f in frames], size)  # (N, h, w, 3)
        prepared = time.monotonic_ns()
        logits = list(engine(batch))  # (N, C, h / output_stride, w / output_stride)
    done = time.monotonic_ns()
    return [
        Logits(
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
