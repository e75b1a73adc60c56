"""Workers side by side, their results in the order in which they took their work."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from streamseg.runtime.mailbox import Closed

T = TypeVar("T")


class OrderedWorkers:
    """Several workers take work one after the other, do it at once, and leave one after the other.

    A worker that failed never leaves: whoever sees that calls close(), so that no other worker waits for it.
    """

    def __init__(self) -> None:
        # Guards that tickets are in the order of the work; held while waiting for work.
        self._taking = threading.Lock()
        self._given = 0  # tickets; of who takes
        self._left = threading.Condition()  # guards the two below
        self._turn = 0  # the ticket that may leave
        self._closed = False

    def take(self, take: Callable[[], T]) -> tuple[int, T]:
        """A ticket, and what take() gives, which may wait; no other replica takes meanwhile.

        Where take() raises Closed, the work is at its end: so does this, once all who took before have left.
        """
        with self._taking:
            try:
                taken = take()
            except Closed:
                self._wait(self._given)
                raise
            ticket, self._given = self._given, self._given + 1
        return ticket, taken

    @contextmanager
    def leaving(self, ticket: int) -> Iterator[None]:
        """Wait for this ticket's turn, which ends with the block, unless that raises. Raises Closed."""
        self._wait(ticket)
        yield
        with self._left:
            self._turn = ticket + 1
            self._left.notify_all()

    def close(self) -> None:
        """Wake all who wait; nobody leaves any more. Closing twice is fine."""
        with self._left:
            self._closed = True
            self._left.notify_all()

    def _wait(self, ticket: int) -> None:
        with self._left:
            self._left.wait_for(lambda: self._closed or self._turn == ticket)
            if self._closed:
                raise Closed
