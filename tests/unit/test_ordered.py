"""Work beside the reading thread: done at once, results in order, errors when it is their turn."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from streamseg.runtime.mailbox import Closed, Mailbox
from streamseg.runtime.ordered import OrderedWorkers, Prefetcher, map_ordered
from streamseg.runtime.stage import Stage
from tests.waiting import LIMIT_S


class Replicas:
    """Numbers from 0 on through several replicas, each as slow as `work` makes it."""

    def __init__(self, count: int, numbers: int) -> None:
        self.workers = OrderedWorkers()
        self.out: list[int] = []
        self._numbers = iter(range(numbers))
        self._stages = [Stage(f"replica-{i}", self._run, self._ended) for i in range(count)]

    def work(self, replica: str, number: int) -> None: ...

    def run(self) -> list[BaseException]:
        """To the end; the errors of the replicas."""
        for stage in self._stages:
            stage.start()
        for stage in self._stages:
            stage.join(LIMIT_S)
            assert not stage.is_alive(), "it hangs"
        return [stage.error for stage in self._stages if stage.error is not None]

    def _take(self) -> int:
        try:
            return next(self._numbers)
        except StopIteration:
            raise Closed from None

    def _run(self) -> None:
        while True:
            ticket, number = self.workers.take(self._take)
            self.work(threading.current_thread().name, number)
            with self.workers.leaving(ticket):
                self.out.append(number)

    def _ended(self, stage: Stage) -> None:
        self.workers.close()


def test_results_leave_in_the_order_of_the_work_whatever_the_speed_of_the_replicas() -> None:
    class Unequal(Replicas):
        def work(self, replica: str, number: int) -> None:
            time.sleep(random.Random(number).uniform(0, 0.003) * (replica == "replica-0"))

    replicas = Unequal(3, 400)
    assert replicas.run() == []
    assert replicas.out == list(range(400))


def test_two_replicas_do_work_at_once() -> None:
    meet = threading.Barrier(2)

    class Meeting(Replicas):
        def work(self, replica: str, number: int) -> None:
            meet.wait(LIMIT_S)  # each number needs the other one beside it

    replicas = Meeting(2, 20)
    assert replicas.run() == []
    assert replicas.out == list(range(20))


def test_the_last_results_leave_before_the_first_replica_ends() -> None:
    closed_at: list[int] = []

    class Late(Replicas):
        def work(self, replica: str, number: int) -> None:
            time.sleep(0.05 * (number == 19))

        def _ended(self, stage: Stage) -> None:
            closed_at.append(len(self.out))
            super()._ended(stage)

    assert Late(2, 20).run() == []
    assert closed_at == [20, 20]


@pytest.mark.parametrize("at", [0, 1, 7])
def test_no_replica_waits_for_one_that_failed(at: int) -> None:
    class Broken(Replicas):
        def work(self, replica: str, number: int) -> None:
            if number == at:
                raise RuntimeError("broken on purpose")

    replicas = Broken(3, 10_000)
    (error,) = replicas.run()
    assert "broken on purpose" in str(error)
    assert replicas.out == list(range(at))


def test_closing_wakes_those_that_wait_for_a_turn() -> None:
    workers = OrderedWorkers()
    counter = itertools.count()
    first, _ = workers.take(lambda: next(counter))
    second, _ = workers.take(lambda: next(counter))
    ended: Mailbox[str] = Mailbox(2)

    def wait() -> None:
        with pytest.raises(Closed), workers.leaving(second):
            raise AssertionError("it was not its turn")
        ended.put("woken")

    thread = threading.Thread(target=wait)
    thread.start()
    workers.close()
    assert ended.get(LIMIT_S) == "woken"
    thread.join(LIMIT_S)
    with pytest.raises(Closed), workers.leaving(first):
        raise AssertionError("it is closed")


def test_results_come_in_the_order_of_the_items_however_long_each_takes() -> None:
    gate = threading.Event()

    def slow(item: int) -> int:
        if item == 0:
            assert gate.wait(LIMIT_S)
        return item * 10

    def quick(item: int) -> int:
        gate.set()
        return item * 10

    assert list(map_ordered("x", iter(range(50)), [slow, quick])) == [i * 10 for i in range(50)]


def test_each_work_has_a_thread_of_its_own_and_gets_the_next_item_when_it_is_free() -> None:
    seen: dict[str, list[int]] = {"x-0": [], "x-1": []}
    both = threading.Barrier(2)

    def work_of(name: str) -> Callable[[int], int]:
        def work(item: int) -> int:
            assert threading.current_thread().name == name
            seen[name].append(item)
            if item < 2:
                both.wait(LIMIT_S)
            return item

        return work

    assert list(map_ordered("x", iter(range(10)), [work_of("x-0"), work_of("x-1")])) == list(range(10))
    assert sorted(seen["x-0"] + seen["x-1"]) == list(range(10))
    assert seen["x-0"] == sorted(seen["x-0"])
    assert seen["x-1"] == sorted(seen["x-1"])


def test_an_error_of_a_work_comes_after_the_results_before_it() -> None:
    def work(item: int) -> int:
        if item == 5:
            raise ValueError("five")
        return item

    found: list[int] = []
    with pytest.raises(ValueError, match="five"):
        found.extend(map_ordered("x", iter(range(100)), [work, work]))
    assert found == [0, 1, 2, 3, 4]


def test_an_error_of_the_items_comes_after_the_results_before_it() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise OSError("gone")

    found: list[int] = []
    with pytest.raises(OSError, match="gone"):
        found.extend(map_ordered("x", items(), [abs, abs, abs]))
    assert found == [0, 1, 2, 3, 4]


def test_leaving_early_ends_the_threads() -> None:
    results = map_ordered("early", iter(range(1000)), [str, str, str])
    assert next(results) == "0"
    results.close()
    assert not [t.name for t in threading.enumerate() if t.name.startswith("early")]


def test_prefetched_order_is_kept_and_nothing_is_lost() -> None:
    with closing(Prefetcher("count", iter(range(1000)))) as prefetched:
        assert list(prefetched) == list(range(1000))


def test_an_error_in_prefetched_items_comes_after_what_came_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    found: list[int] = []
    with closing(Prefetcher("fails", items())) as prefetched, pytest.raises(OSError, match="gone"):
        found.extend(prefetched)
    assert found == [1, 2]
    with closing(Prefetcher("fails", items())) as prefetched:
        reader = iter(prefetched)
        assert [next(reader), next(reader)] == [1, 2]


def test_closing_a_prefetcher_ends_the_thread_and_closes_the_generator_in_it() -> None:
    closed_in: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread().name)

    prefetched = Prefetcher("endless", endless())
    assert next(iter(prefetched)) == 1
    prefetched.close()
    prefetched.close()
    assert closed_in == ["endless"]


def test_a_prefetcher_runs_no_further_ahead_than_allowed() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with closing(Prefetcher("bounded", items(), capacity=3)) as prefetched:
        for i in prefetched:
            assert len(made) <= i + 1 + 3 + 1  # taken, waiting, and one in the hand
