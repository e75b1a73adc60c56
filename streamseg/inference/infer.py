"""Frames → logits, in one call of the engine for each input size; and where a stream's pictures lie."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from streamseg.inference.engine import Engine, TensorEngine
from streamseg.inference.forms import letterbox_size, listed
from streamseg.inference.scaling import fit_size, stacked
from streamseg.sources.hardware import why_not_on_gpu
from streamseg.sources.surface import Surface
from streamseg.types import F32, DeviceLogits, EngineKey, Frame, Geometry, Logits, Size

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)


def input_size(engine: Engine, frame_size: Size) -> Size:
    """The size at which this engine sees frames of frame_size: stretched, where it takes one size only.

    With fit = "letterbox" it is their size between the bars.
    """
    info = engine.info
    if info.limits.size is None:
        return fit_size(frame_size, info.input_size, info.spec.size_multiple)
    if info.spec.fit == "letterbox":
        return letterbox_size(frame_size, info.limits.size, info.spec.output_stride or 1)
    return info.limits.size


def accepts_device_frames(engine: Engine, frame: Frame) -> bool:
    """Whether a frame's picture lies on a GPU, where this engine takes it."""
    return isinstance(frame.picture, Surface) and frame.picture.device == engine.info.tensors


def batch_key(engine: Engine, frame: Frame) -> tuple[Size, bool]:
    """Equal for frames that infer() may take as one batch."""
    return input_size(engine, frame.size), accepts_device_frames(engine, frame)


def infer(engine: Engine, frames: Sequence[Frame]) -> list[Logits]:
    """Run frames that share one input size as a batch; one Logits for each, in order.

    Pictures on the engine's device are scaled on it, others are scaled on the host; the logits of an engine
    on a GPU stay there, and neither is copied to the host until it is asked for. stage_us gains wait (from
    decoded until now), preprocess and infer, the latter two of the whole batch. On a GPU infer is the wait
    for the batch before the last one, and what is left of this one is waited for where labels are made.
    """
    begun = time.monotonic_ns()
    size = input_size(engine, frames[0].size)
    logits: list[F32 | DeviceLogits]
    surfaces = [f.picture for f in frames if accepts_device_frames(engine, f)]
    if len(surfaces) == len(frames):
        # torch: imported only where such frames come from
        from streamseg.inference.preprocess_device import make_device_batch

        tensors = make_device_batch(cast(list[Surface], surfaces), size)  # (N, h, w, 3)
        prepared = time.monotonic_ns()
        logits = _left_on_device(engine, tensors)
    else:
        batch = stacked([f.scaled(size) for f in frames])  # (N, h, w, 3)
        prepared = time.monotonic_ns()
        if engine.info.tensors == "cuda":
            import torch

            logits = _left_on_device(engine, torch.from_numpy(batch))
        else:
            logits = list(engine(batch))  # (N, C, h / output_stride, w / output_stride)
    if engine.info.kind == "labels":
        logits = [listed(cast(F32, one), len(engine.info.spec.classes)) for one in logits]
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
            engine.info.kind,
            engine.info.spec.temperature,
            engine.info.labels,
        )
        for i, frame in enumerate(frames)
    ]


def _left_on_device(engine: Engine, batch: Tensor) -> list[F32 | DeviceLogits]:
    """The logits of each frame where the engine computes them: labels are made there."""
    from streamseg.inference.upsample_device import TensorLogits

    answer = cast(TensorEngine, engine).on_device(batch)
    if isinstance(answer, np.ndarray):
        return list(answer)
    return [TensorLogits(one, answer.ready) for one in answer.logits]


class FramePlacement:
    """Decides for each frame whether its picture stays on the GPU, and logs when that changes for a stream.

    apply() is called in the stream's decode thread, so that a picture is copied in that thread and not in
    the network's; in stage_us that counts as `wait`. engine.info may change meanwhile:
    a stale answer costs one copy.
    """

    def __init__(
        self, engine_of: Callable[[EngineKey], Engine | None], needed_on_host: Callable[[Frame], bool]
    ) -> None:
        """engine_of: None for one that has ended. needed_on_host: for the CRF or fusion."""
        self._engine_of = engine_of
        self._needed_on_host = needed_on_host
        self._reasons: dict[str, str] = {}  # last logged, by stream; each is written in its stream's thread

    def apply(self, frame: Frame) -> None:
        """Copy a stream's next picture to the host if something needs it on the host."""
        if frame.settings.hwaccel != "cuda" and not isinstance(frame.picture, Surface):
            return  # the device's pictures, if there is one, are in host memory anyway
        reason = self._why_on_host(frame)
        if reason and isinstance(frame.picture, Surface):
            frame.picture.brought()
        if self._reasons.get(frame.stream) == reason:
            return
        self._reasons[frame.stream] = reason
        if reason:
            log.info("%s: pictures are copied to host memory: %s", frame.stream, reason)
        else:
            log.info("%s: pictures stay on the GPU", frame.stream)

    def forget(self, stream: str) -> None:
        """Drop what is kept of a removed stream."""
        self._reasons.pop(stream, None)

    def _why_on_host(self, frame: Frame) -> str:
        if not isinstance(frame.picture, Surface):
            return why_not_on_gpu("cuda") or "cuda does not decode this stream, or not to 4:2:0"
        engine = self._engine_of(frame.settings.engine)
        if engine is None or not accepts_device_frames(engine, frame):
            return f"{engine.info.id if engine else 'the engine'} reads pictures on the host"
        if self._needed_on_host(frame):
            return "the CRF or fusion needs them on the host"
        return ""
