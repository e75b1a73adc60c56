"""A GPU that computes late: what is queued on a stream is done when it must be, or at random before.

What reads memory too early, or writes it again too soon, gets other numbers here than it should: an event
that is not waited for, pinned memory that is filled while it is copied. CUDA's rules for copies hold: those
that are non-blocking read and write the host's memory when the stream comes to them.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves

Step = tuple["Stream", int] | Callable[[], object]  # a wait for so many steps of a stream, or work

_VIEWS = {"view", "unbind", "slice", "select", "alias", "detach", "as_strided", "permute", "transpose"}


class Gpu:
    """Its streams, which of the host's tensors stand for its memory, and when it works."""

    def __init__(self, seed: int | None) -> None:
        """seed: of what is computed before it must be; None: nothing."""
        self.streams: list[Stream] = []
        self.memory: set[int] = set()  # storages
        self._kept: list[torch.Tensor] = []  # so that no storage gets another one's number
        self._random = None if seed is None else random.Random(seed)
        self.current = Stream(self)

    def own(self, tensor: torch.Tensor) -> torch.Tensor:
        self.memory.add(tensor.untyped_storage().data_ptr())
        self._kept.append(tensor)
        return tensor

    def owns(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and value.untyped_storage().data_ptr() in self.memory

    def work_a_little(self) -> None:
        while self._random is not None and self._random.random() < 0.6:
            stream = self._random.choice(self.streams)
            if stream.done < len(stream.steps):
                stream.run(stream.done + 1)


class Stream:
    """In place of torch.cuda.Stream."""

    def __init__(self, gpu: Gpu) -> None:
        self.gpu = gpu
        self.steps: list[Step] = []
        self.done = 0
        gpu.streams.append(self)

    def add(self, step: Step) -> None:
        self.steps.append(step)
        self.gpu.work_a_little()

    def run(self, until: int) -> None:
        while self.done < until:
            step = self.steps[self.done]
            if isinstance(step, tuple):
                step[0].run(step[1])
            else:
                with _disable_current_modes(), torch.inference_mode():
                    step()
            self.done += 1

    def wait_stream(self, other: Stream) -> None:
        self.add((other, len(other.steps)))

    def wait_event(self, event: Event) -> None:
        if event.at is not None:
            self.add(event.at)

    def synchronize(self) -> None:
        self.run(len(self.steps))


class Event:
    """In place of torch.cuda.Event."""

    def __init__(self, **_: Any) -> None:
        self.at: tuple[Stream, int] | None = None

    def record(self, stream: Stream) -> None:
        self.at = stream, len(stream.steps)

    def synchronize(self) -> None:
        if self.at is not None:
            self.at[0].run(self.at[1])

    @property
    def happened(self) -> bool:
        return self.at is None or self.at[0].done >= self.at[1]


class _Queue(TorchDispatchMode):
    """Puts operations on the GPU's memory on the current stream."""

    def __init__(self, gpu: Gpu) -> None:
        super().__init__()
        self._gpu = gpu

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        gpu, kwargs = self._gpu, kwargs or {}
        leaves = tree_leaves((args, kwargs))
        if not any(gpu.owns(leaf) for leaf in leaves):
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        if name in _VIEWS:
            return func(*args, **kwargs)
        if name in ("_local_scalar_dense", "item"):
            gpu.current.synchronize()
            return func(*args, **kwargs)
        if name.endswith("_"):
            gpu.current.add(lambda: func(*args, **kwargs))
            blocking = (
                name == "copy_" and not (len(args) > 2 and args[2]) and not all(map(gpu.owns, args[:2]))
            )
            if blocking:
                gpu.current.synchronize()
            return args[0]
        result = func(*args, **kwargs)  # of numbers that may be wrong: for its shape
        for one in tree_leaves(result):
            gpu.own(one)

        def compute() -> None:
            for kept, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                kept.copy_(new)

        gpu.current.add(compute)
        return result


@contextlib.contextmanager
def late_cuda(monkeypatch: pytest.MonkeyPatch, seed: int | None = None) -> Iterator[Gpu]:
    """Inside, torch.cuda's streams and events are these, and tensors made with a device are the GPU's."""
    gpu = Gpu(seed)

    @contextlib.contextmanager
    def current(stream: Stream) -> Iterator[None]:
        before, gpu.current = gpu.current, stream
        try:
            yield
        finally:
            gpu.current = before

    monkeypatch.setattr(torch.cuda, "Stream", lambda: Stream(gpu))
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: gpu.current)
    for name in ("empty", "zeros"):
        make = getattr(torch, name)

        def made(*args: Any, make: Any = make, **kwargs: Any) -> torch.Tensor:
            tensor: torch.Tensor = make(*args, **kwargs)
            return gpu.own(tensor) if "device" in kwargs else tensor

        monkeypatch.setattr(torch, name, made)
    with _Queue(gpu):
        yield gpu
