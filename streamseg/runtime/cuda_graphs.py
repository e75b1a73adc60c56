"""CUDA graphs: work on a GPU, recorded once and then run again by one launch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, TypeVar

T = TypeVar("T")

WARM_RUNS = 3  # before the recording: libraries choose their kernels and take their memory meanwhile

_ONE_AT_A_TIME = threading.Lock()  # CUDA records one graph at a time in a process


class Recorded(NamedTuple, Generic[T]):
    """A recorded graph; `result` is what the work returned, written again by each replay."""

    graph: Any
    result: T

    def replay(self) -> T:
        """Queue the work on the current stream; its result is there when that stream is waited for."""
        self.graph.replay()
        return self.result


def record(work: Callable[[], T], stream: Any, pool: Any = None) -> Recorded[T]:
    """Run `work` on `stream` a few times, then record it there.

    work reads and writes the same tensors each time, and neither asks the GPU for a number nor copies from
    pageable memory. stream is the caller's own torch.cuda.Stream; pool (torch.cuda.graph_pool_handle()) lets
    graphs share their memory that never run at the same time and whose results are copied before the next
    one runs. Other threads may use the GPU meanwhile; those that record wait.
    """
    import torch

    with _ONE_AT_A_TIME:
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_RUNS):
                work()
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            # Not torch.cuda.graph(), which waits for the whole device and empties the cache of its memory.
            graph.capture_begin(**({} if pool is None else {"pool": pool}), capture_error_mode="thread_local")
            try:
                result = work()
            finally:
                graph.capture_end()
        torch.cuda.current_stream().wait_stream(stream)
    return Recorded(graph, result)
