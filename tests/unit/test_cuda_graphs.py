"""Recording CUDA graphs, on stand-ins: one at a time, on the caller's stream, no wait for the device."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from streamseg.runtime.cuda_graphs import WARM_RUNS, record  # noqa: E402
from tests.cuda_standin import Graph, Stream, put_in_place_of_cuda  # noqa: E402


@pytest.fixture(autouse=True)
def _cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    put_in_place_of_cuda(monkeypatch)


def test_threads_record_one_after_another() -> None:
    """Warm runs, too: a library that chooses its kernels meanwhile may not be recorded."""
    runs: list[int] = []
    together = threading.Barrier(4)

    def recorded(number: int) -> None:
        def work() -> None:
            runs.append(number)
            time.sleep(0)  # another thread's turn, if it may

        together.wait(10)
        for _ in range(5):
            record(work, Stream())

    threads = [threading.Thread(target=recorded, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert Graph.made == 20
    groups = [runs[at : at + WARM_RUNS + 1] for at in range(0, len(runs), WARM_RUNS + 1)]
    assert len(groups) == 20
    assert all(len(set(group)) == 1 for group in groups)


def test_all_of_it_runs_on_the_stream_that_is_given_and_nothing_waits_for_the_whole_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entered: list[Any] = []
    begun: list[dict[str, Any]] = []
    usual, begin = torch.cuda.stream, Graph.capture_begin

    def stream(one: Any) -> Any:
        entered.append(one)
        return usual(one)

    def capture_begin(graph: Graph, **options: Any) -> None:
        begun.append(options)
        begin(graph)

    def refuse(*_: Any) -> None:
        raise AssertionError("the whole device is waited for")

    monkeypatch.setattr(torch.cuda, "stream", stream)
    monkeypatch.setattr(Graph, "capture_begin", capture_begin)
    for name in ("synchronize", "empty_cache", "graph"):
        monkeypatch.setattr(torch.cuda, name, refuse)
    own, given = Stream(), torch.arange(3.0)
    graph = record(lambda: 2 * given, own, "a pool")
    record(lambda: 2 * given, own)
    assert entered == [own, own]
    assert begun == [
        {"pool": "a pool", "capture_error_mode": "thread_local"},
        {"capture_error_mode": "thread_local"},
    ]
    given += 1
    assert graph.replay().tolist() == [2.0, 4.0, 6.0]


def test_work_that_fails_leaves_the_next_to_be_recorded() -> None:
    given = torch.arange(3.0)
    with pytest.raises(RuntimeError, match="cannot be recorded"):
        record(lambda: given * float(given[0].item()), Stream())
    assert not Graph.recording
    assert record(lambda: given + 1, Stream()).replay().tolist() == [1.0, 2.0, 3.0]
