"""Work on several threads comes back in order, and errors when it is their turn."""

from __future__ import annotations

import threading

import pytest

from streamseg.runtime.spread import spread


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    gate = threading.Event()

    def slow(item: int) -> int:
        if item == 0:
            assert gate.wait(10)
        return item * 10

    def quick(item: int) -> int:
        gate.set()
        return item * 10

    assert list(spread("x", iter(range(50)), [slow, quick])) == [i * 10 for i in range(50)]


def test_each_work_has_a_thread_of_its_own_and_every_second_item() -> None:
    seen: dict[str, list[int]] = {"x-0": [], "x-1": []}

    def work(item: int) -> int:
        seen[threading.current_thread().name].append(item)
        return item

    list(spread("x", iter(range(10)), [work, work]))
    assert seen == {"x-0": [0, 2, 4, 6, 8], "x-1": [1, 3, 5, 7, 9]}


def test_an_error_comes_after_the_results_before_it() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item

    found: list[int] = []
    with pytest.raises(ValueError, match="five"):
        found.extend(spread("x", iter(range(100)), [work, work]))
    assert found == [0, 1, 2, 3, 4]


def test_leaving_early_ends_the_threads() -> None:
    results = spread("early", iter(range(1000)), [str, str, str])
    assert next(results) == "0"
    results.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("early")]
