"""Hand-over between threads."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from streamseg.runtime.mailbox import Closed, Mailbox


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
    thread, results = in_thread(lambda: box.put(2, timeout_s=10))
    assert box.get(10) == 1
    assert box.get(10) == 2
    thread.join(10)
    assert results == [None]


def test_waits_end_at_their_deadline() -> None:
    box: Mailbox[int] = Mailbox(1)
    with pytest.raises(TimeoutError):
        box.get(0.01)
    box.put(1)
    with pytest.raises(TimeoutError):
        box.put(2, 0.01)
    assert box.get(0) == 1


def test_put_newest_lets_the_oldest_go_and_returns_it() -> None:
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
    getter.join(10)
    putter.join(10)
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
        thread.join(30)
    box.close()
    for thread, _ in getters:
        thread.join(30)
    taken = [item for _, results in getters for items in results for item in items]  # type: ignore[attr-defined]
    assert sorted(taken) == list(range(2000))


def test_a_mailbox_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Mailbox(0)
