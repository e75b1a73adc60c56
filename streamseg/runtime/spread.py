"""One step of the loop on several threads at once, its results in the order of its items."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Generic, TypeVar

from streamseg.runtime.mailbox import Closed, Mailbox
from streamseg.runtime.stage import Stage

T = TypeVar("T")
U = TypeVar("U")


def spread(name: str, items: Iterator[T], works: Sequence[Callable[[T], U]]) -> Generator[U, None, None]:
    """Yield work(item) for each item, in order; each of `works` is called in a thread of its own.

    Items go round: the k-th to works[k % len(works)]. At most two for each are on their way. An error comes
    when its item's turn does. Closing the generator ends the threads.
    """
    hands = [_Hand(f"{name}-{i}", work) for i, work in enumerate(works)]
    waiting: deque[_Hand[T, U]] = deque()
    try:
        for k, item in enumerate(items):
            hand = hands[k % len(hands)]
            hand.give(item)
            waiting.append(hand)
            if len(waiting) >= 2 * len(hands):
                yield waiting.popleft().take()
        while waiting:
            yield waiting.popleft().take()
    finally:
        for hand in hands:
            hand.close()


class _Hand(Generic[T, U]):
    """A thread that works on what it is given, in order. At most two items are in it."""

    def __init__(self, name: str, work: Callable[[T], U]) -> None:
        self._work = work
        self._given: Mailbox[T] = Mailbox(2)
        self._done: Mailbox[U] = Mailbox(2)
        self._stage = Stage(name, self._run, lambda _: self._close_boxes())
        self._stage.start()

    def give(self, item: T) -> None:
        try:
            self._given.put(item)
        except Closed:
            self._stage.join()
            if self._stage.error is None:
                raise
            raise self._stage.error from None

    def take(self) -> U:
        try:
            return self._done.get()
        except Closed:
            self._stage.join()
            if self._stage.error is None:
                raise
            raise self._stage.error from None

    def close(self) -> None:
        self._given.close(discard=True)
        self._done.close(discard=True)
        self._stage.join()

    def _run(self) -> None:
        for item in self._given:
            self._done.put(self._work(item))

    def _close_boxes(self) -> None:
        self._given.close(discard=True)
        self._done.close()
