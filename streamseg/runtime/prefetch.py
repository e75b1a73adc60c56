"""A step of a plain loop, run ahead in a thread of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Generic, TypeVar

from streamseg.runtime.mailbox import Mailbox
from streamseg.runtime.stage import Stage

T = TypeVar("T")


class Ahead(Generic[T]):
    """Iterates over `items` in a thread, at most `capacity` ahead of whoever iterates over this.

    Order is kept and nothing is lost, so a loop gives the same with and without it. The thread owns `items`:
    a generator opens and closes what it holds in there. An error in it is raised here, after the items that
    came before it. Closing stops the thread and waits for it; closing twice is fine.
    """

    def __init__(self, name: str, items: Iterator[T], capacity: int = 4) -> None:
        self._items = items
        self._box: Mailbox[T] = Mailbox(capacity)
        self._stage = Stage(name, self._work, lambda _: self._box.close())
        self._stage.start()

    def __iter__(self) -> Iterator[T]:
        yield from self._box
        self._stage.join()
        if self._stage.error is not None:
            raise self._stage.error

    def close(self) -> None:
        self._box.close(discard=True)
        self._stage.join()

    def _work(self) -> None:
        try:
            for item in self._items:
                self._box.put(item)
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
