"""A step run ahead gives the same as in place, ends with its reader, and hides no error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing

import pytest

from streamseg.runtime.prefetch import Ahead


def test_order_is_kept_and_nothing_is_lost() -> None:
    with closing(Ahead("count", iter(range(1000)))) as ahead:
        assert list(ahead) == list(range(1000))


def test_an_error_comes_after_what_came_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("gone")

    found: list[int] = []
    with closing(Ahead("fails", items())) as ahead, pytest.raises(OSError, match="gone"):
        found.extend(ahead)
    assert found == [1, 2]
    with closing(Ahead("fails", items())) as ahead:
        reader = iter(ahead)
        assert [next(reader), next(reader)] == [1, 2]


def test_closing_ends_the_thread_and_closes_the_generator_in_it() -> None:
    closed_in: list[str] = []

    def endless() -> Iterator[int]:
        try:
            while True:
                yield 1
        finally:
            closed_in.append(threading.current_thread().name)

    ahead = Ahead("endless", endless())
    assert next(iter(ahead)) == 1
    ahead.close()
    ahead.close()
    assert closed_in == ["endless"]


def test_it_runs_no_further_ahead_than_allowed() -> None:
    made: list[int] = []

    def items() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            yield i

    with closing(Ahead("bounded", items(), capacity=3)) as ahead:
        for i in ahead:
            assert len(made) <= i + 1 + 3 + 1  # taken, waiting, and one in the hand
