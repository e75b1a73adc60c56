"""CUDA's streams and graphs on a machine without a GPU: what is recorded is computed again.

A recording is the list of torch's operations on the tensors that they had. So a replay reads what is in those
tensors then, and writes into the same results: what reads numbers, copies from the host or makes a result
elsewhere is as wrong here as on a GPU.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from streamseg.inference.backends.graphed_batches import GraphedBatches
from streamseg.inference.backends.torch import recorded_work

UNSAFE = ("_local_scalar_dense", "lift_fresh", "nonzero", "unique", "masked_select", "scalar_tensor")


class Recorder(TorchDispatchMode):
    """Writes operations down, and refuses those that a CUDA graph cannot record."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in UNSAFE):
            raise RuntimeError(f"{func} cannot be recorded")
        result = func(*args, **(kwargs or {}))
        self.steps.append((func, args, kwargs or {}, result))
        return result


class Graph:
    """In place of torch.cuda.CUDAGraph."""

    recording = False
    made = 0

    def capture_begin(self, **_: Any) -> None:
        assert not Graph.recording, "CUDA records one graph at a time"
        Graph.recording = True
        self._recorder = Recorder()
        self._recorder.__enter__()

    def capture_end(self) -> None:
        self._recorder.__exit__(None, None, None)
        Graph.recording = False
        Graph.made += 1

    @torch.inference_mode()
    def replay(self) -> None:
        for func, args, kwargs, result in self._recorder.steps:
            again = func(*args, **kwargs)
            for kept, new in zip(tree_leaves(result), tree_leaves(again), strict=True):
                if isinstance(kept, torch.Tensor) and kept.data_ptr() != new.data_ptr():
                    kept.copy_(new)


class Stream:
    """In place of torch.cuda.Stream: work is done when it is queued."""

    def wait_stream(self, other: Stream) -> None: ...

    def wait_event(self, event: Event) -> None: ...

    def synchronize(self) -> None: ...


class Event:
    """In place of torch.cuda.Event: what it waits for is done."""

    def __init__(self, **_: Any) -> None: ...

    def record(self, stream: Stream) -> None: ...

    def synchronize(self) -> None: ...


class Patch(Protocol):
    """pytest's monkeypatch, or setattr itself."""

    def setattr(self, target: Any, name: str, value: Any, /) -> None: ...


def put_in_place_of_cuda(monkeypatch: Patch) -> None:
    default = Stream()

    @contextlib.contextmanager
    def current(stream: Stream) -> Iterator[None]:
        yield

    monkeypatch.setattr(Graph, "made", 0)
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "stream", current)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda *_: default)


def with_graphs(engine: Any, most_batch: int) -> None:
    """Have a TorchEngine on the CPU run its batches as one on a GPU does; put_in_place_of_cuda() first."""
    engine._batches = GraphedBatches(
        lambda shape, dtype: recorded_work(engine._module, torch.zeros(shape, dtype=dtype), Stream(), None),
        most_batch,
        device="cpu",
    )
