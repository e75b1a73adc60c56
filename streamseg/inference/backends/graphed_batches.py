"""Batches on a GPU by CUDA graphs: some sizes are recorded, other batches are filled up to the next one."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

MOST_SHAPES = 32  # kept for the shapes used last; each has its tensors, and they share their working memory


class Work(NamedTuple):
    """What runs one batch: `start` queues it on the current stream, and writes `logits`."""

    image: torch.Tensor  # on the GPU, read
    logits: torch.Tensor  # on the GPU
    start: Callable[[], object]


class _Shape(NamedTuple):
    work: Work
    host_image: torch.Tensor  # pinned
    host_logits: torch.Tensor  # pinned


class GraphedBatches:
    """Runs batches of any number of pictures. Belongs to one thread at a time; has a stream of its own.

    For each size of pictures that comes, batches of 1, 2, 4, … and `most_batch` are prepared at once, so that
    nothing is recorded later: a recording takes as long as many frames.
    """

    def __init__(
        self, prepare: Callable[[tuple[int, ...], torch.dtype], Work], most_batch: int, device: str = "cuda"
    ) -> None:
        """prepare: makes the work for batches (N, …) of a shape and dtype; `stream` is current then."""
        import torch

        self._torch: Any = torch
        self._prepare, self._most_batch, self._device = prepare, most_batch, device
        self._shapes: OrderedDict[tuple[int, tuple[int, ...], torch.dtype], _Shape] = OrderedDict()
        self.stream: Any = self._torch.cuda.Stream()
        self.prepared = 0  # shapes, since it was made

    def run(self, feed: Array | torch.Tensor) -> Array:
        """The logits of a batch, on the host; the caller owns them."""
        count, shape = len(feed), self._started(feed)
        with self._torch.cuda.stream(self.stream):
            shape.host_logits[:count].copy_(shape.work.logits[:count], non_blocking=True)
        self.stream.synchronize()
        return np.array(shape.host_logits[:count].numpy(), np.float32)  # its memory is written again

    def on_device(self, batch: torch.Tensor) -> torch.Tensor:
        """The logits of a batch, left on the GPU; the caller owns them."""
        shape = self._started(batch)
        current = self._torch.cuda.current_stream()
        current.wait_stream(self.stream)
        logits = shape.work.logits[: len(batch)].clone()  # its memory is written again
        current.synchronize()
        return logits

    def close(self) -> None:
        """Let go of graphs and memory."""
        self._shapes.clear()

    def _started(self, batch: Array | torch.Tensor) -> _Shape:
        """Start computing a batch on our stream; returns the memory that will hold its logits."""
        torch, count = self._torch, len(batch)
        self.stream.wait_stream(torch.cuda.current_stream())  # which may still be writing the batch
        with torch.cuda.stream(self.stream):
            given = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else torch.from_dlpack(batch)
            shape = self._of(count, tuple(given.shape[1:]), given.dtype)
            if not given.is_cuda:
                given = shape.host_image[:count].copy_(given)
            shape.work.image[:count].copy_(given, non_blocking=True)
            shape.work.start()
        return shape

    def _of(self, count: int, picture: tuple[int, ...], dtype: torch.dtype) -> _Shape:
        """The memory for a batch: that of the next number of pictures that is prepared."""
        wanted = self._filled_up(count)
        key = (wanted, picture, dtype)
        if key not in self._shapes:
            numbers = {min(2**i, self._most_batch) for i in range(self._most_batch.bit_length() + 1)}
            for number in [*sorted(numbers - {wanted}), wanted]:  # what is needed now is kept longest
                if (number, picture, dtype) not in self._shapes:
                    self._add(number, picture, dtype)
        self._shapes.move_to_end(key)
        return self._shapes[key]

    def _filled_up(self, count: int) -> int:
        power = 1 << (count - 1).bit_length()
        return self._most_batch if count <= self._most_batch < power else power

    def _add(self, number: int, picture: tuple[int, ...], dtype: torch.dtype) -> None:
        torch, pinned = self._torch, self._device == "cuda"
        while len(self._shapes) >= MOST_SHAPES:
            self._shapes.popitem(last=False)
        work = self._prepare((number, *picture), dtype)
        host_image = torch.empty((number, *picture), dtype=dtype, pin_memory=pinned)
        host_logits = torch.empty(work.logits.shape, dtype=work.logits.dtype, pin_memory=pinned)
        self._shapes[number, picture, dtype] = _Shape(work, host_image, host_logits)
        self.prepared += 1
