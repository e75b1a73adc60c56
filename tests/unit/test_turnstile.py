"""The ordered_workers: replicas work at once, and leave in the order in which they took."""

from __future__ import annotations

import itertools
import random
import threading
import time

import pytest

from streamseg.runtime.mailbox import Closed, Mailbox
from streamseg.runtime.ordered import OrderedWorkers
from streamseg.runtime.stage import Stage
from tests.waiting import LIMIT_S


class Replicas:
    """Numbers from 0 on through several replicas, each as slow as `work` makes it."""

    def __init__(self, count: int, numbers: int) -> None:
        self.ordered_workers = OrderedWorkers()
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
            ticket, number = self.ordered_workers.take(self._take)
            self.work(threading.current_thread().name, number)
            with self.ordered_workers.leaving(ticket):
                self.out.append(number)

    def _ended(self, stage: Stage) -> None:
        self.ordered_workers.close()


def test_results_leave_in_the_order_of_the_work_whatever_the_speed_of_the_lanes() -> None:
    class Unequal(Replicas):
        def work(self, replica: str, number: int) -> None:
            time.sleep(random.Random(number).uniform(0, 0.003) * (replica == "replica-0"))

    replicas = Unequal(3, 400)
    assert replicas.run() == []
    assert replicas.out == list(range(400))


def test_two_lanes_do_work_at_once() -> None:
    meet = threading.Barrier(2)

    class Meeting(Replicas):
        def work(self, replica: str, number: int) -> None:
            meet.wait(LIMIT_S)  # each number needs the other one beside it

    replicas = Meeting(2, 20)
    assert replicas.run() == []
    assert replicas.out == list(range(20))


def test_the_last_results_leave_before_the_first_lane_ends() -> None:
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
def test_nobody_waits_for_a_lane_that_failed(at: int) -> None:
    class Broken(Replicas):
        def work(self, replica: str, number: int) -> None:
            if number == at:
                raise RuntimeError("broken on purpose")

    replicas = Broken(3, 10_000)
    (error,) = replicas.run()
    assert "broken on purpose" in str(error)
    assert replicas.out == list(range(at))


def test_closing_wakes_who_waits_for_a_turn() -> None:
    ordered_workers = OrderedWorkers()
    counter = itertools.count()
    first, _ = ordered_workers.take(lambda: next(counter))
    second, _ = ordered_workers.take(lambda: next(counter))
    ended: Mailbox[str] = Mailbox(2)

    def wait() -> None:
        with pytest.raises(Closed), ordered_workers.leaving(second):
            raise AssertionError("it was not its turn")
        ended.put("woken")

    thread = threading.Thread(target=wait)
    thread.start()
    ordered_workers.close()
    assert ended.get(LIMIT_S) == "woken"
    thread.join(LIMIT_S)
    with pytest.raises(Closed), ordered_workers.leaving(first):
        raise AssertionError("it is closed")
