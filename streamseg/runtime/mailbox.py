"""How threads hand things over: a bounded queue, and the frame scheduler with one place for each stream.

Both can be closed from either side. Files put and wait (back-pressure); live streams replace what waits and
count what they replaced.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakSet

T = TypeVar("T")


class _HasStream(Protocol):
    @property
    def stream(self) -> str: ...


S = TypeVar("S", bound=_HasStream)


class Ended(Exception):
    """The group of a frame takes no more frames."""


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

    Frames may be in groups, of which each has takers of its own. A stream's frame then waits until those of
    its stream that another group took have left(), so that a stream that changes its group stays in order.
    """

    def __init__(self, group: Callable[[S], object] | None = None) -> None:
        """group: of a frame, which one, compared by identity."""
        self._group = group or (lambda _: None)
        self._grouped = group is not None
        self._changed = threading.Condition()  # guards all below
        self._waiting: dict[str, S] = {}
        self._served_ns: dict[str, int] = {}
        self._inside: dict[str, tuple[object, int]] = {}  # by stream: which group has how many of its frames
        self._ended: WeakSet[Any] = WeakSet()
        self._closed = False

    def replace(self, item: S) -> S | None:
        """Leave a live frame, never waiting; returns the one it replaced. Raises Closed, or Ended."""
        with self._changed:
            self._check(item)
            replaced = self._waiting.pop(item.stream, None)
            self._waiting[item.stream] = item
            self._changed.notify_all()
            return replaced

    def put(self, item: S) -> None:
        """Leave a frame that must not be lost: waits until its stream's place is free. Raises Closed, or
        Ended."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or item.stream not in self._waiting)
            self._check(item)
            self._waiting[item.stream] = item
            self._changed.notify_all()

    def take(self, most: int, alike: Callable[[S], object], group: object = None) -> list[S]:
        """Take up to `most` frames of different streams of a group, for which alike() is equal.

        Waits for the first one; the stream unserved longest comes first. Raises Closed once the scheduler is
        closed, or the group ended, and none of its frames waits.
        """
        with self._changed:
            while not (ready := self._ready(group)):
                over = self._closed or (group is not None and group in self._ended)
                if over and not any(self._group(item) is group for item in self._waiting.values()):
                    raise Closed
                self._changed.wait()
            order = sorted(ready, key=lambda s: self._served_ns.get(s, 0))
            kind = alike(self._waiting[order[0]])
            return self._pop([s for s in order if alike(self._waiting[s]) == kind][:most], group)

    @property
    def closed(self) -> bool:
        return self._closed  # without the lock: reading a bool is atomic

    def left(self, items: Iterable[S]) -> None:
        """Frames of a group have left its takers, in order: those behind them may go to another group."""
        with self._changed:
            for item in items:
                group, count = self._inside.pop(item.stream)
                if count > 1:
                    self._inside[item.stream] = (group, count - 1)
            self._changed.notify_all()

    def end(self, group: object) -> None:
        """Refuse new frames of a group, whose waiting ones can still be taken."""
        with self._changed:
            self._ended.add(group)
            self._changed.notify_all()

    def forget(self, stream: str) -> None:
        """Drop what is kept of a removed stream."""
        with self._changed:
            self._waiting.pop(stream, None)
            self._served_ns.pop(stream, None)
            self._changed.notify_all()

    def close(self, *, discard: bool = False) -> None:
        """Refuse new frames and wake all threads; the frames that wait can still be taken, or are dropped."""
        with self._changed:
            self._closed = True
            if discard:
                self._waiting.clear()
            self._changed.notify_all()

    def _ready(self, group: object) -> list[str]:
        """The streams of a group whose frame can be taken; the lock is held."""
        return [
            stream
            for stream, item in self._waiting.items()
            if self._group(item) is group and self._inside.get(stream, (group, 0))[0] is group
        ]

    def _pop(self, names: list[str], group: object) -> list[S]:
        """Take the frames of these streams; the lock is held."""
        now = time.monotonic_ns()
        for name in names:
            self._served_ns[name] = now
            if self._grouped:
                self._inside[name] = (group, self._inside.get(name, (group, 0))[1] + 1)
        taken = [self._waiting.pop(name) for name in names]
        self._changed.notify_all()
        return taken

    def _check(self, item: S) -> None:
        if self._closed:
            raise Closed
        if self._grouped and self._group(item) in self._ended:
            raise Ended
