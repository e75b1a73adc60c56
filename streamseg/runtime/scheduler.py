"""The frame scheduler: the newest frame of each stream waits; the stream unserved longest comes first."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from streamseg.runtime.mailbox import Closed


class _HasStream(Protocol):
    @property
    def stream(self) -> str: ...


T = TypeVar("T", bound=_HasStream)


class FrameScheduler(Generic[T]):
    """One place for each stream. A live frame replaces the one that waits; a file's waits for its turn.

    The stream that went unserved longest comes first, and not the first frame: so a slow camera keeps its
    share beside fast ones on an engine that is too slow for all.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards all below
        self._waiting: dict[str, T] = {}
        self._served_ns: dict[str, int] = {}
        self._closed = False

    def replace(self, item: T) -> T | None:
        """Leave a live frame, never waiting; returns the one it replaced. Raises Closed."""
        with self._changed:
            if self._closed:
                raise Closed
            replaced = self._waiting.pop(item.stream, None)
            self._waiting[item.stream] = item
            self._changed.notify_all()
            return replaced

    def put(self, item: T) -> None:
        """Leave a frame that must not be lost: waits until its stream's place is free. Raises Closed."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or item.stream not in self._waiting)
            if self._closed:
                raise Closed
            self._waiting[item.stream] = item
            self._changed.notify_all()

    def take(self, most: int, alike: Callable[[T], object]) -> list[T]:
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
