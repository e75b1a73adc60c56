"""The board: newest frame of each stream, longest unserved first."""

from __future__ import annotations

import threading
from dataclasses import dataclass

import pytest

from streamseg.runtime.mailbox import Closed
from streamseg.runtime.scheduler import FrameScheduler


@dataclass(frozen=True)
class Item:
    stream: str
    number: int = 0
    size: int = 0


def same(_: Item) -> int:
    return 0


def test_a_live_frame_replaces_the_one_that_waits() -> None:
    board: FrameScheduler[Item] = FrameScheduler()
    assert board.replace(Item("a", 1)) is None
    assert board.replace(Item("a", 2)) == Item("a", 1)
    assert board.take(4, same) == [Item("a", 2)]


def test_a_file_waits_until_its_frame_is_taken() -> None:
    board: FrameScheduler[Item] = FrameScheduler()
    board.put(Item("a", 1))
    put = threading.Thread(target=board.put, args=(Item("a", 2),))
    put.start()
    assert board.take(1, same) == [Item("a", 1)]
    put.join(5)
    assert not put.is_alive()
    assert board.take(1, same) == [Item("a", 2)]


def test_the_stream_unserved_longest_is_served_first() -> None:
    board: FrameScheduler[Item] = FrameScheduler()
    served = []
    for _ in range(6):
        for stream in ("fast", "slow", "other"):
            board.replace(Item(stream))
        served.append(board.take(1, same)[0].stream)
    assert sorted(served[:3]) == ["fast", "other", "slow"]
    assert served[3:] == served[:3]


def test_a_batch_holds_only_frames_that_are_alike() -> None:
    board: FrameScheduler[Item] = FrameScheduler()
    for item in (Item("a", size=1), Item("b", size=2), Item("c", size=1)):
        board.replace(item)
    assert {i.stream for i in board.take(8, lambda i: i.size)} == {"a", "c"}
    assert [i.stream for i in board.take(8, lambda i: i.size)] == ["b"]


def test_a_batch_is_never_larger_than_asked() -> None:
    board: FrameScheduler[Item] = FrameScheduler()
    for name in "abcde":
        board.replace(Item(name))
    assert len(board.take(3, same)) == 3
    assert len(board.take(3, same)) == 2


def test_closing_wakes_who_takes_and_who_puts() -> None:
    board: FrameScheduler[Item] = FrameScheduler()
    ended = []

    def take() -> None:
        with pytest.raises(Closed):
            board.take(1, same)
        ended.append("take")

    thread = threading.Thread(target=take)
    thread.start()
    board.close()
    thread.join(5)
    with pytest.raises(Closed):
        board.put(Item("a"))
    with pytest.raises(Closed):
        board.replace(Item("a"))
    assert ended == ["take"]


def test_what_lies_on_a_closed_board_can_still_be_taken() -> None:
    board: FrameScheduler[Item] = FrameScheduler()
    board.replace(Item("a", 1))
    board.close()
    assert board.take(1, same) == [Item("a", 1)]
    with pytest.raises(Closed):
        board.take(1, same)


def test_a_forgotten_stream_leaves_nothing_behind() -> None:
    board: FrameScheduler[Item] = FrameScheduler()
    board.replace(Item("a"))
    board.replace(Item("b"))
    board.forget("a")
    assert [i.stream for i in board.take(8, same)] == ["b"]
