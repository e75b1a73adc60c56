"""What comes from the daemon: events into the queue, each begin and end once and in order; else the newest.

The order is that of client/event_order.py: what was missed is brought by the daemon's snapshots.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from streamseg.client.event_order import EventOrder, Passed
from streamseg.errors import WireError
from streamseg.forward.latest import Latest
from streamseg.forward.store import Cursor, Store
from streamseg.wire import (
    Header,
    MaskMessage,
    parse_event,
    parse_message,
    parse_picture,
    parse_same,
    parse_status,
    parse_zones,
)

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25  # at what waits for a snapshot
MOST_WAITING = 10_000  # events between the receiving thread and the disk; when it is slower, the thread waits
MOST_AT_ONCE = 1000  # events in one transaction


class Intake:
    """A client.receiver.Sink: the receiving thread puts, another one takes."""

    def __init__(self, store: Store, latest: Latest, *, past: bool) -> None:
        """past: of streams that were never met, take also what was over before."""
        self.bad = 0  # messages that break the protocol
        self._store = store
        self._latest = latest
        since = store.cursors()
        self._order = EventOrder(since if since is not None else {} if past else None)
        self._lost = 0  # of which it was logged
        self._told_bad = False
        self._passed: deque[Passed] = deque()
        self._begun = since is not None  # a snapshot has come: what was over is known
        self._woken = self._closed = False
        self._changed = threading.Condition()  # guards the four above

    def put(self, parts: Sequence[bytes], *, snapshot: bool = False) -> None:
        try:
            if parts and parts[0].startswith(b"event/"):
                self._hand_on(self._order.live(parse_event(parts), time.monotonic()))
            else:
                self._put_newest(parts)
        except WireError as error:
            self._put_wrong(error)

    def put_snapshot(self, messages: Sequence[Sequence[bytes]]) -> None:
        events = []
        for parts in messages:
            if not parts or not parts[0].startswith(b"event/"):
                self.put(parts, snapshot=True)
                continue
            try:
                events.append(parse_event(parts))
            except WireError as error:
                self._put_wrong(error)
        self._hand_on(self._order.snapshot(events), begun=True)

    def put_bad(self) -> None:
        self.bad += 1

    def look(self, connected: bool, ask: Callable[[], None]) -> None:
        """Called every LOOK_EVERY_S by the receiving thread; ask() for what is missing."""
        now_s = time.monotonic()
        self._hand_on(self._order.tick(now_s, connected=connected))
        if connected and self._order.must_ask(now_s):
            ask()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def wake(self) -> None:
        """Make the running or the next take() return. From any thread."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> int:
        """Bring what has come to the queue, waiting at most timeout_s for it; how many messages that was."""
        with self._changed:
            self._changed.wait_for(lambda: self._passed or self._woken or self._closed, timeout_s)
            self._woken = False
            begun = self._begun
            passed = [self._passed.popleft() for _ in range(min(len(self._passed), MOST_AT_ONCE))]
            self._changed.notify_all()
        if passed or begun:
            self._store.add(
                [msgspec.json.encode(one.event) for one in passed if one.wanted],
                [Cursor(one.event.stream, one.event.journal, one.event.event_n) for one in passed],
                begun=begun,
            )
        return len(passed)

    def _hand_on(self, passed: Sequence[Passed], *, begun: bool = False) -> None:
        with self._changed:
            self._changed.wait_for(lambda: len(self._passed) < MOST_WAITING or self._closed)
            self._begun = self._begun or begun
            self._passed.extend(passed)
            if passed or begun:
                self._changed.notify_all()
        if self._order.lost > self._lost:
            log.warning(
                "%d begins and ends of events have not come, and the daemon keeps them no longer",
                self._order.lost - self._lost,
            )
            self._lost = self._order.lost

    def _put_newest(self, parts: Sequence[bytes]) -> None:
        topic = parts[0] if parts else b""
        if topic.startswith(b"zones/"):
            self._latest.put(parse_zones(parts).stream, "zones", parts[1])
        elif topic.startswith(b"rle/"):
            mask = parse_message(parts)
            if isinstance(mask, MaskMessage):
                self._latest.put(mask.header.stream, "masks", parts[1], _without_labels(mask.header))
        elif topic.startswith(b"same/"):
            self._latest.put_unchanged(parse_same(parts))
        elif topic.startswith(b"status/"):
            self._latest.put_status(parse_status(parts))
        elif topic.startswith(b"picture/"):
            picture = parse_picture(parts)
            self._latest.put(picture.stream, "pictures", picture.jpeg)

    def _put_wrong(self, error: WireError) -> None:
        self.put_bad()
        if not self._told_bad:
            self._told_bad = True
            log.warning("a message breaks the protocol: %s", error)


def _without_labels(header: Header) -> Header:
    """What an rle document says of its mask, without the run lengths: they are in its bytes already."""
    return Header(**{name: getattr(header, name) for name in Header.__struct_fields__})
