"""Hand-over between threads: the bounded queue; the newest frame of each stream, longest unserved first."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import pytest

from streamseg.runtime.mailbox import Closed, Ended, FrameScheduler, Mailbox
from streamseg.types import EngineKey
from tests.waiting import LIMIT_S


def in_thread(work: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    """Run work in a thread; its result or its exception lands in the list."""
    results: list[object] = []

    def run() -> None:
        try:
            results.append(work())
        except (Closed, TimeoutError) as error:
            results.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, results


def test_items_come_out_in_the_order_they_went_in() -> None:
    box: Mailbox[int] = Mailbox(3)
    for i in range(3):
        box.put(i)
    assert [box.get(), box.get(), box.get()] == [0, 1, 2]
    assert len(box) == 0


def test_a_full_mailbox_makes_the_putter_wait_for_room() -> None:
    box: Mailbox[int] = Mailbox(1)
    box.put(1)
    thread, results = in_thread(lambda: box.put(2, timeout_s=LIMIT_S))
    assert box.get(LIMIT_S) == 1
    assert box.get(LIMIT_S) == 2
    thread.join(LIMIT_S)
    assert results == [None]


def test_waits_end_at_their_deadline() -> None:
    box: Mailbox[int] = Mailbox(1)
    with pytest.raises(TimeoutError):
        box.get(0.01)
    box.put(1)
    with pytest.raises(TimeoutError):
        box.put(2, 0.01)
    assert box.get(0) == 1


def test_replace_lets_the_oldest_go_and_returns_it() -> None:
    box: Mailbox[int] = Mailbox(2)
    assert [box.replace(i) for i in range(4)] == [None, None, 0, 1]
    assert [box.get(), box.get()] == [2, 3]


def test_closing_wakes_a_getter_and_a_putter() -> None:
    empty: Mailbox[int] = Mailbox(1)
    full: Mailbox[int] = Mailbox(1)
    full.put(1)
    getter, got = in_thread(empty.get)
    putter, put = in_thread(lambda: full.put(2))
    empty.close()
    full.close()
    getter.join(LIMIT_S)
    putter.join(LIMIT_S)
    assert isinstance(got[0], Closed)
    assert isinstance(put[0], Closed)


def test_what_was_put_before_closing_can_still_be_taken() -> None:
    box: Mailbox[int] = Mailbox(3)
    box.put(1)
    box.put(2)
    box.close()
    box.close()
    assert box.closed
    assert list(box) == [1, 2]
    with pytest.raises(Closed):
        box.get()
    with pytest.raises(Closed):
        box.put(3)
    with pytest.raises(Closed):
        box.replace(3)


def test_closing_with_discard_leaves_nothing() -> None:
    box: Mailbox[int] = Mailbox(3)
    box.put(1)
    box.close(discard=True)
    with pytest.raises(Closed):
        box.get()


def test_nothing_is_lost_or_doubled_among_many_threads() -> None:
    box: Mailbox[int] = Mailbox(4)
    putters = [in_thread(lambda k=k: [box.put(i) for i in range(k * 500, k * 500 + 500)]) for k in range(4)]
    getters = [in_thread(lambda: list(box)) for _ in range(3)]
    for thread, _ in putters:
        thread.join(LIMIT_S)
    box.close()
    for thread, _ in getters:
        thread.join(LIMIT_S)
    taken = [item for _, results in getters for items in results for item in items]  # type: ignore[attr-defined]
    assert sorted(taken) == list(range(2000))


def test_a_mailbox_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Mailbox(0)


@dataclass(frozen=True)
class Item:
    stream: str
    number: int = 0
    size: int = 0


def same(_: Item) -> int:
    return 0


def test_a_live_frame_replaces_the_one_that_waits() -> None:
    scheduler: FrameScheduler[Item] = FrameScheduler()
    assert scheduler.replace(Item("a", 1)) is None
    assert scheduler.replace(Item("a", 2)) == Item("a", 1)
    assert scheduler.take(4, same) == [Item("a", 2)]


def test_a_file_waits_until_its_frame_is_taken() -> None:
    scheduler: FrameScheduler[Item] = FrameScheduler()
    scheduler.put(Item("a", 1))
    put = threading.Thread(target=scheduler.put, args=(Item("a", 2),))
    put.start()
    assert scheduler.take(1, same) == [Item("a", 1)]
    put.join(LIMIT_S)
    assert not put.is_alive()
    assert scheduler.take(1, same) == [Item("a", 2)]


def test_the_stream_unserved_longest_is_served_first() -> None:
    scheduler: FrameScheduler[Item] = FrameScheduler()
    served = []
    for _ in range(6):
        for stream in ("fast", "slow", "other"):
            scheduler.replace(Item(stream))
        served.append(scheduler.take(1, same)[0].stream)
    assert sorted(served[:3]) == ["fast", "other", "slow"]
    assert served[3:] == served[:3]


def test_a_batch_holds_only_frames_that_are_alike() -> None:
    scheduler: FrameScheduler[Item] = FrameScheduler()
    for item in (Item("a", size=1), Item("b", size=2), Item("c", size=1)):
        scheduler.replace(item)
    assert {i.stream for i in scheduler.take(8, lambda i: i.size)} == {"a", "c"}
    assert [i.stream for i in scheduler.take(8, lambda i: i.size)] == ["b"]


def test_a_batch_is_never_larger_than_asked() -> None:
    scheduler: FrameScheduler[Item] = FrameScheduler()
    for name in "abcde":
        scheduler.replace(Item(name))
    assert len(scheduler.take(3, same)) == 3
    assert len(scheduler.take(3, same)) == 2


def test_closing_wakes_who_takes_and_who_puts() -> None:
    scheduler: FrameScheduler[Item] = FrameScheduler()
    ended = []

    def take() -> None:
        with pytest.raises(Closed):
            scheduler.take(1, same)
        ended.append("take")

    thread = threading.Thread(target=take)
    thread.start()
    scheduler.close()
    thread.join(LIMIT_S)
    with pytest.raises(Closed):
        scheduler.put(Item("a"))
    with pytest.raises(Closed):
        scheduler.replace(Item("a"))
    assert ended == ["take"]


def test_what_lies_on_a_closed_scheduler_can_still_be_taken() -> None:
    scheduler: FrameScheduler[Item] = FrameScheduler()
    scheduler.replace(Item("a", 1))
    scheduler.close()
    assert scheduler.take(1, same) == [Item("a", 1)]
    with pytest.raises(Closed):
        scheduler.take(1, same)


def test_a_forgotten_stream_leaves_nothing_behind() -> None:
    scheduler: FrameScheduler[Item] = FrameScheduler()
    scheduler.replace(Item("a"))
    scheduler.replace(Item("b"))
    scheduler.forget("a")
    assert [i.stream for i in scheduler.take(8, same)] == ["b"]


class Grouped(NamedTuple):
    stream: str
    value: int
    group: object


def grouped() -> FrameScheduler[Grouped]:
    return FrameScheduler(lambda item: item.group)


def take_of(scheduler: FrameScheduler[Grouped], group: object) -> list[Grouped]:
    return scheduler.take(4, lambda _: 0, group)


def test_each_group_takes_its_own_frames() -> None:
    scheduler = grouped()
    for item in (Grouped("a", 0, "x"), Grouped("b", 0, "y"), Grouped("c", 0, "x")):
        scheduler.replace(item)
    assert [item.stream for item in take_of(scheduler, "y")] == ["b"]
    assert [item.stream for item in take_of(scheduler, "x")] == ["a", "c"]


def test_a_stream_that_changes_its_group_waits_for_its_frames_in_the_other() -> None:
    scheduler = grouped()
    scheduler.replace(Grouped("a", 0, "x"))
    first = take_of(scheduler, "x")
    scheduler.replace(Grouped("a", 1, "y"))
    came: list[Grouped] = []
    thread = threading.Thread(target=lambda: came.extend(take_of(scheduler, "y")))
    thread.start()
    scheduler.replace(Grouped("b", 0, "y"))  # the other stream's frame is taken meanwhile
    thread.join(LIMIT_S)
    assert [item.stream for item in came] == ["b"]
    scheduler.left(came)
    scheduler.left(first)
    assert take_of(scheduler, "y") == [Grouped("a", 1, "y")]


def test_a_group_that_ends_is_emptied_and_takes_no_more() -> None:
    x, y = EngineKey("x"), EngineKey("y")
    scheduler = grouped()
    scheduler.put(Grouped("a", 0, x))
    scheduler.end(x)
    with pytest.raises(Ended):
        scheduler.replace(Grouped("b", 0, x))
    assert [item.stream for item in scheduler.take(4, lambda _: 0, x)] == ["a"]
    with pytest.raises(Closed):
        scheduler.take(4, lambda _: 0, x)
    scheduler.replace(Grouped("b", 0, y))
    scheduler.close(discard=True)
    with pytest.raises(Closed):
        scheduler.take(4, lambda _: 0, y)
