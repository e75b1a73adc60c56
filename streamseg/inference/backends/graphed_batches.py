"""Batches on a GPU by CUDA graphs: some sizes are recorded, other batches are filled up to the next one."""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from streamseg.inference.engine import Queued

if TYPE_CHECKING:
    import torch

Array = np.ndarray[Any, np.dtype[Any]]

MOST_SHAPES = 32  # kept for the shapes used last; each has its tensors, and they share their working memory
SLOTS = 2  # batches on their way: one is copied to the GPU while another one is computed


class Work(NamedTuple):
    """What runs one batch: `start` queues it on the current stream, and writes `logits`."""

    image: torch.Tensor  # on the GPU, read
    logits: torch.Tensor  # on the GPU
    start: Callable[[], object]


class GraphedBatches:
    """Runs batches of any number of pictures. Belongs to one thread at a time; has streams of its own.

    For each size of pictures that comes, batches of 1, 2, 4, … and `most_batch` are prepared at once, so that
    nothing is recorded later: a recording takes as long as many frames.

    A batch from the host goes through one of SLOTS of pinned memory, on a stream for copies, and is computed
    on another: start() returns when it is queued, and waits only where both slots are under way.
    """

    def __init__(
        self, prepare: Callable[[tuple[int, ...], torch.dtype], Work], most_batch: int, device: str = "cuda"
    ) -> None:
        """prepare: makes the work for batches (N, …) of a shape and dtype; `stream` is current then."""
        import torch

        self._torch: Any = torch
        self._prepare, self._most_batch, self._device = prepare, most_batch, device
        self._shapes: OrderedDict[tuple[int, tuple[int, ...], torch.dtype], Work] = OrderedDict()
        self.stream: Any = self._torch.cuda.Stream()
        self._copies: Any = self._torch.cuda.Stream()
        self._slots = [_Slot(torch, device) for _ in range(SLOTS)]
        self._answer = _Pinned(torch, device)
        self._turn = 0
        self.prepared = 0  # shapes, since it was made

    def start(self, batch: Array | torch.Tensor) -> Queued:
        """Queue a batch from the host or the GPU; the caller owns the logits, which stay on the GPU.

        An array may be written again at once, a tensor on the GPU must be left as it is until they are ready.
        """
        torch = self._torch
        slot = self._slots[self._turn]
        self._turn = (self._turn + 1) % SLOTS
        slot.wait()
        given: Any = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
        if not isinstance(given, torch.Tensor):  # something else that speaks DLPack
            given = torch.from_dlpack(given)
        if is_on_gpu(given):
            self.stream.wait_stream(torch.cuda.current_stream())  # which may still be writing it
        else:
            given = slot.uploaded(given, self._copies, self.stream)
        with torch.cuda.stream(self.stream):
            work = self._of(len(given), tuple(given.shape[1:]), given.dtype)
            work.image[: len(given)].copy_(given, non_blocking=True)
            work.start()
            logits = work.logits[: len(given)].clone()  # its memory is written again
            slot.release_after(self.stream, given)
        return Queued(logits, slot.computed)

    def run(self, batch: Array | torch.Tensor) -> Array:
        """The logits of a batch, on the host; the caller owns them."""
        torch = self._torch
        logits = self.start(batch).logits
        with torch.cuda.stream(self.stream):
            host = self._answer.like(logits)
            host.copy_(logits, non_blocking=True)
        self.stream.synchronize()
        return np.array(host.numpy(), np.float32)  # its memory is written again

    def close(self) -> None:
        """Wait for what is queued, and let go of graphs and memory."""
        with contextlib.suppress(RuntimeError):  # a GPU that failed was reported where it was used
            self.stream.synchronize()
        self._shapes.clear()
        self._slots, self._answer = [], _Pinned(self._torch, self._device)

    def _of(self, count: int, picture: tuple[int, ...], dtype: torch.dtype) -> Work:
        """The work for a batch: that of the next number of pictures that is prepared."""
        wanted = self._filled_up(count)
        key = (wanted, picture, dtype)
        if key not in self._shapes:
            numbers = {min(2**i, self._most_batch) for i in range(self._most_batch.bit_length() + 1)}
            for number in [*sorted(numbers - {wanted}), wanted]:  # what is needed now is kept longest
                if (number, picture, dtype) not in self._shapes:
                    while len(self._shapes) >= MOST_SHAPES:
                        self._shapes.popitem(last=False)
                    self._shapes[number, picture, dtype] = self._prepare((number, *picture), dtype)
                    self.prepared += 1
        self._shapes.move_to_end(key)
        return self._shapes[key]

    def _filled_up(self, count: int) -> int:
        power = 1 << (count - 1).bit_length()
        return self._most_batch if count <= self._most_batch < power else power


def is_on_gpu(tensor: torch.Tensor) -> bool:
    """Whether the tensor need not be uploaded."""
    return tensor.is_cuda


class _Pinned:
    """Memory of the host that a GPU copies from and to by itself; grows to what was largest."""

    def __init__(self, torch: Any, device: str) -> None:
        self._torch, self._pinned = torch, device == "cuda"
        self._bytes: Any = torch.empty(0, dtype=torch.uint8)

    def like(self, tensor: torch.Tensor) -> torch.Tensor:
        """A tensor of this shape and type in it. Nothing may be copying from or to it."""
        if self._bytes.numel() < tensor.nbytes:
            self._bytes = self._torch.empty(tensor.nbytes, dtype=self._torch.uint8, pin_memory=self._pinned)
        view: torch.Tensor = self._bytes[: tensor.nbytes].view(tensor.dtype).view(tensor.shape)
        return view


class _Slot:
    """What one batch on its way needs: pinned memory, memory on the GPU, and events."""

    def __init__(self, torch: Any, device: str) -> None:
        self._torch, self._device = torch, device
        self._host = _Pinned(torch, device)
        self._copied: Any = torch.cuda.Event()
        self.computed: Any = torch.cuda.Event(blocking=True)  # of the batch that has it
        self._kept: torch.Tensor | None = None  # read on the GPU until then

    def wait(self) -> None:
        """Wait until the batch that has the slot is computed; its memory is free then."""
        self.computed.synchronize()
        self._kept = None

    def uploaded(self, given: torch.Tensor, copies: Any, computes: Any) -> torch.Tensor:
        """Copy a batch to the GPU on one stream, and have another one wait for that."""
        host = self._host.like(given)
        host.copy_(given)
        with self._torch.cuda.stream(copies):
            there: torch.Tensor = self._torch.empty(given.shape, dtype=given.dtype, device=self._device)
            there.copy_(host, non_blocking=True)
            self._copied.record(copies)
        computes.wait_event(self._copied)
        return there

    def release_after(self, stream: Any, reads: torch.Tensor) -> None:
        """Free the slot when what is queued on the stream until now has been computed."""
        self._kept = reads
        self.computed = self._torch.cuda.Event(blocking=True)  # the last one is with its logits
        self.computed.record(stream)
