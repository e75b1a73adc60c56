"""Hand-over between threads: bounded, and closable from either side.

Files put and wait (back-pressure); live streams put the newest and count what they pushed out.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):
    """The mailbox was closed: nothing can be put any more, or everything that was in it has been taken."""


class Mailbox(Generic[T]):
    """A first-in-first-out queue of at most `capacity` items, for any number of threads at both ends.

    Closing wakes all threads that wait. What is left in a closed mailbox can still be taken, unless it was
    closed with discard=True. Every wait ends by a result, by Closed, or by TimeoutError where a timeout was
    given.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity: must be at least 1, is {capacity}")
        self.capacity = capacity
        self._items: deque[T] = deque()
        self._closed = False
        self._lock = threading.Lock()  # guards _items and _closed
        self._not_empty = threading.Condition(self._lock)
        self._not_full = threading.Condition(self._lock)

    def put(self, item: T, timeout_s: float | None = None) -> None:
        """Add an item, waiting for room; raises Closed, or TimeoutError after timeout_s (None waits on)."""
        with self._lock:
            self._wait(self._not_full, lambda: len(self._items) < self.capacity, timeout_s)
            if self._closed:
                raise Closed
            self._items.append(item)
            self._not_empty.notify()

    def replace(self, item: T) -> T | None:
        """Add an item at once; the oldest is dropped when there is no room, and returned. Raises Closed."""
        with self._lock:
            if self._closed:
                raise Closed
            dropped = self._items.popleft() if len(self._items) >= self.capacity else None
            self._items.append(item)
            self._not_empty.notify()
            return dropped

    def get(self, timeout_s: float | None = None) -> T:
        """Take the oldest item, waiting for one; raises Closed, or TimeoutError after timeout_s."""
        with self._lock:
            self._wait(self._not_empty, lambda: bool(self._items), timeout_s)
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self._not_full.notify()
            return item

    def close(self, *, discard: bool = False) -> None:
        """Refuse new items and wake both sides; closing twice is fine."""
        with self._lock:
            self._closed = True
            if discard:
                self._items.clear()
            self._not_empty.notify_all()
            self._not_full.notify_all()

    @property
    def closed(self) -> bool:
        return (
            self._closed
        )  # without the lock: reading a bool is atomic, and put() and get() raise Closed anyway

    def __len__(self) -> int:
        return len(self._items)  # without the lock: atomic, and the answer may be old in any case

    def __iter__(self) -> Iterator[T]:
        """Take items until the mailbox is closed and empty."""
        while True:
            try:
                item = self.get()
            except Closed:
                return
            yield item

    def _wait(
        self, condition: threading.Condition, ready: Callable[[], bool], timeout_s: float | None
    ) -> None:
        """Return when ready() or closed; the lock is held on entry and on return."""
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not ready() and not self._closed:
            left_s = None if deadline is None else deadline - time.monotonic()
            if left_s is not None and left_s <= 0:
                raise TimeoutError(f"timed out after {timeout_s:g} s")
            condition.wait(left_s)
