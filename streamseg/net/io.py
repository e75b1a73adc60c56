"""What one thread waits for, and what it sends to whom. Of ZMTP only how messages are framed."""

from __future__ import annotations

import heapq
import itertools
import os
import select
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame."""

JOIN_BELOW = 16 << 10  # bytes of a piece that is copied to its neighbours, to be sent to many faster
MOST_TOPICS = 4096  # whose subscribers are remembered
MOST_PIECES = 1024  # that the kernel takes at once (IOV_MAX)

Buffer = bytes | memoryview


class HasFileno(Protocol):
    def fileno(self) -> int: ...


class Loop:
    """Calls back what is ready, in poll(). All but wake() and call() belong to the thread that opens it."""

    def __init__(self) -> None:
        self._epoll: select.epoll
        self._watched: dict[int, tuple[int, Callable[[int], None]]] = {}
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._calls: deque[Callable[[], None]] = deque()
        self._wake_lock = threading.RLock()  # guards _wake_fd; a signal may come while it is held
        self._wake_fd = -1

    def open(self) -> Loop:
        self._epoll = select.epoll()
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._epoll.register(self._wake_fd, READ)
        return self

    def wake(self) -> None:
        """Make the running or the next poll() return. Any thread; never waits; nothing unless it is open."""
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

    def call(self, callback: Callable[[], None]) -> None:
        """Have this called by poll(). From any thread."""
        self._calls.append(callback)
        self.wake()

    def watch(self, source: HasFileno, events: int, callback: Callable[[int], None]) -> None:
        """Call back with READ, WRITE or both when a source is ready for these events; 0 for none of them."""
        fd = source.fileno()
        before = self._watched.get(fd)
        if not events:
            self.unwatch(source)
            return
        if before is None:
            self._epoll.register(fd, events)
        elif before[0] != events:
            self._epoll.modify(fd, events)
        elif before[1] is callback:
            return
        self._watched[fd] = events, callback

    def unwatch(self, source: HasFileno) -> None:
        """Wait for this no more; before it is closed."""
        if self._watched.pop(source.fileno(), None) is not None:
            self._epoll.unregister(source.fileno())

    def later(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back once, so much later."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), callback))

    def poll(self, timeout_ms: float | None = None) -> None:
        """Wait until something is ready, for wake(), or until timeout_ms (None: without end); call back."""
        wait_s = -1.0 if timeout_ms is None else timeout_ms / 1000
        if self._timers:
            due_s = max(0.0, self._timers[0][0] - time.monotonic())
            wait_s = due_s if wait_s < 0 else min(wait_s, due_s)
        for fd, events in self._epoll.poll(wait_s):
            if fd == self._wake_fd:
                os.eventfd_read(fd)
            elif watched := self._watched.get(fd):  # an earlier one may have ended it
                watched[1](events if events & (READ | WRITE) == events else READ | WRITE)
        while self._calls:
            self._calls.popleft()()
        now_s = time.monotonic()
        while self._timers and self._timers[0][0] <= now_s:
            heapq.heappop(self._timers)[2]()

    def close(self) -> None:
        """Closing twice is fine."""
        with self._wake_lock:
            wake_fd, self._wake_fd = self._wake_fd, -1
        if wake_fd >= 0:
            os.close(wake_fd)
            self._epoll.close()
        self._timers.clear()
        self._calls.clear()


class Outgoing:
    """A message on its way to any number of peers; it is framed once for all that need no sealing."""

    def __init__(self, parts: Sequence[Buffer]) -> None:
        self.parts = parts
        self._plain: list[Buffer] | None = None

    def plain(self) -> list[Buffer]:
        if self._plain is None:
            last = len(self.parts) - 1
            pieces: list[Buffer] = []
            for at, part in enumerate(self.parts):
                pieces += (frame_head(MORE if at < last else 0, len(part)), part)
            self._plain = joined(pieces)
        return self._plain.copy()


class Outbox:
    """What waits to be sent to one peer: messages, and one answer to a PING between them. Never waits."""

    def __init__(
        self, sock: socket.socket, on_change: Callable[[], None], on_broken: Callable[[], object]
    ) -> None:
        """on_change is called when it becomes empty or not; then flush() when sock takes more."""
        self.closed = False
        self.taken_s = time.monotonic()  # when the peer last took something
        self.seal: Callable[[Outgoing], list[Buffer]] | None = None  # where messages do not travel open
        self._sock, self._on_change, self._on_broken = sock, on_change, on_broken
        # The rest of the first one first. Messages are framed and sealed when it is their turn: the other end
        # takes what is sealed in this order only, and a PONG overtakes those that have not begun.
        self._waiting: deque[list[Buffer] | Outgoing] = deque()
        self._pong: list[Buffer] | None = None  # among those

    def __len__(self) -> int:
        return len(self._waiting)

    def send(self, message: Outgoing, queue: int) -> bool:
        """Send a message; False where it is closed, or `queue` of them wait already."""
        if self.closed or len(self._waiting) >= queue:
            return False
        self.add(message)
        return not self.closed

    def add(self, what: list[Buffer] | Outgoing) -> None:
        """Send this behind what waits."""
        self._waiting.append(what)
        if len(self._waiting) == 1 and not self._send_waiting():
            self._on_change()

    def add_pong(self, frame: bytes) -> None:
        """Send this behind the message that is on its way, unless there is one already."""
        if self._pong is not None:
            return
        self._pong = [frame]
        if self._waiting:
            self._waiting.insert(1, self._pong)
        else:
            self.add(self._pong)

    def flush(self) -> None:
        """Send what the kernel takes now."""
        if self._waiting and self._send_waiting():
            self._on_change()

    def _send_waiting(self) -> bool:
        """Send what the kernel takes; whether that was all."""
        while self._waiting:
            pieces = self._first()
            try:
                sent = self._sock.sendmsg(pieces[:MOST_PIECES], (), socket.MSG_NOSIGNAL)
            except BlockingIOError:
                return False
            except OSError:
                self._on_broken()
                return False
            self.taken_s = time.monotonic()
            while pieces and sent >= len(pieces[0]):
                sent -= len(pieces.pop(0))
            if pieces:
                pieces[0] = memoryview(pieces[0])[sent:]
                continue
            if pieces is self._pong:
                self._pong = None
            self._waiting.popleft()
        return True

    def _first(self) -> list[Buffer]:
        """The pieces of the first message."""
        first = self._waiting[0]
        if isinstance(first, Outgoing):
            first = self._waiting[0] = self.seal(first) if self.seal is not None else first.plain()
        return first

    def close(self) -> None:
        """Send nothing more."""
        self.closed = True
        self._waiting.clear()


class Subscribers:
    """Who has subscribed to what, and so gets which messages."""

    def __init__(self, queue: int) -> None:
        """queue: messages kept for one that is slow; it loses those beyond."""
        self._queue = queue
        self._of: dict[bytes, set[Outbox]] = {}  # by prefix
        self._matching: dict[bytes, list[Outbox]] = {}  # who gets a topic, until a subscription changes

    def add(self, prefix: bytes, outbox: Outbox) -> None:
        self._of.setdefault(prefix, set()).add(outbox)
        self._matching.clear()

    def remove(self, prefix: bytes, outbox: Outbox) -> bool:
        """End a subscription that there is; whether it was the prefix's last."""
        subscribers = self._of[prefix]
        subscribers.remove(outbox)
        self._matching.clear()
        if not subscribers:
            del self._of[prefix]
        return not subscribers

    def publish(self, message: Sequence[Buffer], beyond: int = 0) -> None:
        """Send a message to all who have subscribed to the beginning of its first part, once to each.

        beyond: as many more may wait for one that is slow.
        """
        topic = bytes(message[0])
        outboxes = self._matching.get(topic)
        if outboxes is None:
            if len(self._matching) >= MOST_TOPICS:
                self._matching.clear()
            found = {outbox for end in range(len(topic) + 1) for outbox in self._of.get(topic[:end], ())}
            outboxes = self._matching[topic] = list(found)
        outgoing = Outgoing(message)
        for outbox in outboxes:
            outbox.send(outgoing, self._queue + beyond)


def frame_head(flags: int, size: int) -> bytes:
    return bytes((flags, size)) if size < 256 else struct.pack(">BQ", flags | LONG, size)


def joined(pieces: list[Buffer]) -> list[Buffer]:
    """The same bytes in fewer pieces: the small ones are put together."""
    found: list[Buffer] = []
    small: list[Buffer] = []
    for piece in pieces:
        if len(piece) < JOIN_BELOW:
            small.append(piece)
            continue
        found += (b"".join(small), piece) if small else (piece,)
        small = []
    return [*found, b"".join(small)] if small else found
