"""How threads hand things over: a bounded queue, and the frame scheduler with one place for each stream.

Both can be closed from either side. Files put and wait (back-pressure); live streams replace what waits and
count what they replaced.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class _HasStream(Protocol):
    @property
    def stream(self) -> str: ...


S = TypeVar("S", bound=_HasStream)


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
            raise ValueError(f"capacity: must be at least 1; is {capacity}")
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


class FrameScheduler(Generic[S]):
    """One place for each stream. A live frame replaces the one that waits; a file's waits for its turn.

    The stream that went unserved longest comes first, and not the first frame: so a slow camera keeps its
    share beside fast ones on an engine that is too slow for all.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all below
        self._waiting: dict[str, S] = {}
        self._served_ns: dict[str, int] = {}
        self._closed = False

    def replace(self, item: S) -> S | None:
        """Leave a live frame, never waiting; returns the one it replaced. Raises Closed."""
        with self._changed:
            if self._closed:
                raise Closed
            replaced = self._waiting.pop(item.stream, None)
            self._waiting[item.stream] = item
            self._changed.notify_all()
            return replaced

    def put(self, item: S) -> None:
        """Leave a frame that must not be lost: waits until its stream's place is free. Raises Closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or item.stream not in self._waiting)
            if self._closed:
                raise Closed
            self._waiting[item.stream] = item
            self._changed.notify_all()

    def take(self, most: int, alike: Callable[[S], object]) -> list[S]:
        """Take up to `most` frames of different streams for which alike() is equal.

        Waits for the first one; the stream unserved longest comes first. Raises Closed once the scheduler is
        closed and empty.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._waiting)
            if not self._waiting:
                raise Closed
            order = sorted(self._waiting, key=lambda s: self._served_ns.get(s, 0))
            kind = alike(self._waiting[order[0]])
            names = [s for s in order if alike(self._waiting[s]) == kind][:most]
            now = time.monotonic_ns()
            for name in names:
                self._served_ns[name] = now
            taken = [self._waiting.pop(name) for name in names]
            self._changed.notify_all()
            return taken

    def forget(self, stream: str) -> None:
        """Drop what is kept of a removed stream."""
        with self._changed:
            self._waiting.pop(stream, None)
            self._served_ns.pop(stream, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Refuse new frames and wake all threads that wait; the frames that wait can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
