"""Upsampling and argmax on the device that has the logits, in torch: one byte for each pixel comes back."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from streamseg.errors import EngineError, one_line
from streamseg.inference.holes import LARGEST
from streamseg.inference.label_view import LabelView
from streamseg.inference.scaling import labels_from_logits
from streamseg.types import F32, IGNORE, U8, Size

MOST_CLASSES = 255
_MOST_FLOATS = 1 << 26  # of upsampled logits at once: 1080p with 30 classes, 256 MB


class TensorLogits:
    """One frame's logits (C, h, w) in torch; see streamseg.types.DeviceLogits. It owns its tensor.

    On a GPU each thread works on a stream of its own, behind what computes the logits and nothing else.
    """

    def __init__(self, logits: Tensor, ready: Any = None) -> None:
        """ready: a CUDA event after which they are there; None: they are."""
        if logits.dtype != torch.float32 or logits.dim() != 3:
            raise TypeError(
                f"TensorLogits: must be float32 (C, h, w); is {logits.dtype} {tuple(logits.shape)}"
            )
        self._logits, self._ready = logits, ready
        self._on_host: F32 | None = None  # two threads that ask at once copy it twice, equally

    def to_host(self) -> F32:
        if self._on_host is None:
            with self._behind():
                self._on_host = np.ascontiguousarray(_to_host(self._logits))
        return self._on_host

    def labels(
        self,
        size: Size,
        view: LabelView | None = None,
        probabilities: bool = False,
        temperature: float = 1.0,
    ) -> U8:
        with torch.inference_mode(), self._behind():
            largest = self._logits.abs().amax()  # looked at when the labels are there
            labels: U8 = _to_host(device_labels(self._logits, size, view, probabilities, temperature))
            if largest.item() <= LARGEST:
                return labels
        # not all are numbers
        return labels_from_logits(self.to_host(), size, False, probabilities, temperature, view)[0]

    @contextlib.contextmanager
    def _behind(self) -> Iterator[None]:
        """What is queued inside waits for the logits; raises EngineError where the GPU failed."""
        try:
            if self._ready is None:
                yield
                return
            stream = _own_stream()
            stream.wait_event(self._ready)
            with torch.cuda.stream(stream):
                yield
        except EngineError:
            raise
        except RuntimeError as error:
            raise EngineError(f"the GPU failed on a network or its labels: {one_line(error)}") from error


def device_labels(
    logits: Tensor,
    size: Size,
    view: LabelView | None = None,
    probabilities: bool = False,
    temperature: float = 1.0,
) -> Tensor:
    """Scale logits (C, h, w) float32 bilinearly → labels (H, W) uint8, on their device.

    The arithmetic of inference.scaling, in its order: aligned pixel centres, rows first, and of equal logits
    the lower class wins. Labels differ only where rounding decides. view as in labels_from_logits.
    """
    classes, h, w = logits.shape
    if not 1 <= classes <= MOST_CLASSES:
        raise ValueError(f"upsampling logits of {classes} classes: must be 1 to {MOST_CLASSES}")
    height, width = size
    above, below, down = _taps(h, height, str(logits.device))
    left, right, along = _taps(w, width, str(logits.device))
    labels = torch.empty(size, dtype=torch.uint8, device=logits.device)
    rows_at_once = max(1, _MOST_FLOATS // (classes * width))
    for y in range(0, height, rows_at_once):
        rows = slice(y, y + rows_at_once)
        band = _between(logits, 1, above[rows], below[rows], down[rows, None])  # (C, rows, w)
        wide = _between(band, 2, left, right, along)  # (C, rows, W)
        ids = wide.argmax(0)
        labels[rows] = (
            ids.to(torch.uint8) if view is None else _viewed(wide, ids, view, probabilities, temperature)
        )
    return labels


def _viewed(wide: Tensor, ids: Tensor, view: LabelView, probabilities: bool, temperature: float) -> Tensor:
    """The published labels of rows (C, rows, W), of which `ids` are the highest; the rows are overwritten."""
    table = torch.from_numpy(view.table).to(wide.device)
    labels = table[ids]
    if not view.least:
        return labels
    shares = wide if probabilities else torch.softmax(wide.mul_(1 / temperature), 0)
    if view.merges:
        sure = torch.zeros_like(shares[0])
        for share, label in zip(shares, table.tolist(), strict=False):
            sure += torch.where(labels == label, share, 0)
    else:
        sure = shares.gather(0, ids[None])[0]
    return labels.masked_fill_((255 * sure.clamp(0, 1) + 0.5).floor() < view.least, IGNORE)


def _between(values: Tensor, axis: int, first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    start = values.index_select(axis, first)
    return values.index_select(axis, second).sub_(start).mul_(weight).add_(start)


@functools.lru_cache(maxsize=64)
def _taps(source: int, target: int, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """The samples before and after each pixel, and the weight of the latter."""
    at = np.clip((np.arange(target) + 0.5) * (source / target) - 0.5, 0, source - 1)
    first = np.minimum(at.astype(np.int64), max(source - 2, 0))
    second = np.minimum(first + 1, source - 1)
    weight = (at - first).astype(np.float32)
    before, after, share = (torch.from_numpy(a).to(device) for a in (first, second, weight))
    return before, after, share


_of_thread = threading.local()


def _own_stream() -> Any:
    """This thread's stream."""
    if not hasattr(_of_thread, "stream"):
        _of_thread.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    return _of_thread.stream


def _to_host(tensor: Tensor) -> Any:
    """Copy to the host, through pinned memory, which torch reuses; the caller owns the array."""
    if tensor.device.type == "cpu":
        return tensor.numpy()
    pinned = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    pinned.copy_(tensor, non_blocking=True)
    torch.cuda.current_stream().synchronize()
    return pinned.numpy()
