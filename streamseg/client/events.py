"""Receive events: each begin and each end once, in order, across reconnects and restarts of the daemon.

with subscribe_events("tcp://127.0.0.1:5570", since=saved) as events:
    for event in events:
        print(event.stream, event.event, event.state, event.value)
        saved = events.cursor  # JSON keeps it; what was read is not read again after a restart of ours
"""

from __future__ import annotations

import asyncio
import copy
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamseg.client.event_order import Cursor, EventOrder, Passed, advanced
from streamseg.client.reading import AsyncReading, Reading, ThreadReading, arrivals
from streamseg.client.receiver import Receiver
from streamseg.errors import WireError
from streamseg.net.curve_keys import ClientKeys, client_keys
from streamseg.runtime.mailbox import Closed
from streamseg.wire import EventDocument, parse_event

MOST_WAITING = 65536  # events that a reader may be behind; the oldest go, and are counted as lost
LOOK_EVERY_S = 0.25  # at what is held back


@dataclass(slots=True)
class EventStats:
    """Counted since the subscription began."""

    received: int = 0  # messages that arrived
    repeated: int = 0  # that were known, as snapshots bring them
    lost: int = 0  # begins and ends that the daemon does not keep any more, or that were read too late
    bad: int = 0  # messages that break the protocol


def subscribe_events(
    endpoint: str,
    streams: Sequence[str] | None = None,
    *,
    since: Cursor | None = None,
    snapshot: bool | str = True,
    timeout_s: float | None = None,
    server_key: str | Path | None = None,
    client_key_file: str | Path | None = None,
    keys: ClientKeys | None = None,
) -> EventSubscription:
    """Receive the events of these streams (all, when None) from a daemon or a relay.

    Each is a wire.EventDocument. Begins and ends come once each and in order, as long as the daemon keeps
    them (the last 256 of a stream); updates may be left out where a later one has come.

    since: the `cursor` of an earlier subscription; what came after it comes, and of streams that it does not
    name ({} names none) everything that the daemon keeps. None begins now: events that are open come first.
    The other arguments are those of subscribe().
    """
    keys = keys or client_keys(server_key, client_key_file)
    inbox = _EventInbox(since)
    return EventSubscription(_receiver(endpoint, streams, snapshot, inbox, keys), inbox, timeout_s)


def subscribe_events_async(
    endpoint: str,
    streams: Sequence[str] | None = None,
    *,
    since: Cursor | None = None,
    snapshot: bool | str = True,
    timeout_s: float | None = None,
    server_key: str | Path | None = None,
    client_key_file: str | Path | None = None,
    keys: ClientKeys | None = None,
) -> AsyncEventSubscription:
    """subscribe_events() for asyncio: `async for event in …`; the event loop must be running."""
    arrived, on_arrival = arrivals()
    keys = keys or client_keys(server_key, client_key_file)
    inbox = _EventInbox(since, on_arrival)
    receiver = _receiver(endpoint, streams, snapshot, inbox, keys)
    return AsyncEventSubscription(receiver, inbox, timeout_s, arrived)


def _receiver(
    endpoint: str,
    streams: Sequence[str] | None,
    snapshot: bool | str,
    inbox: _EventInbox,
    keys: ClientKeys | None,
) -> Receiver:
    topics = [b"event/"] if streams is None else [f"event/{stream}/".encode() for stream in streams]
    return Receiver(endpoint, topics, snapshot, inbox, keys, look=(LOOK_EVERY_S, inbox.look))


class _EventInbox:
    """Events on their way from the receiver's thread to the reader's."""

    def __init__(self, since: Cursor | None, on_arrival: Callable[[], None] | None = None) -> None:
        self.stats = EventStats()
        self._order = EventOrder(since)  # used by the receiver's thread alone
        self._on_arrival = on_arrival
        self._waiting: deque[Passed] = deque()  # the first one is wanted
        self._cursor = {stream: dict(numbers) for stream, numbers in (since or {}).items()}
        self._begun = since is not None  # it is known what the reader has
        self._dropped = 0  # begins and ends that were read too late
        self._closed = False
        self._changed = threading.Condition()  # guards what is above, from _waiting on

    def put(self, parts: Sequence[bytes], *, snapshot: bool = False) -> None:
        event = self._parsed(parts)
        if event is not None:
            self._hand_on(self._order.live(event, time.monotonic()))

    def put_snapshot(self, messages: Sequence[Sequence[bytes]]) -> None:
        events = [event for parts in messages if (event := self._parsed(parts)) is not None]
        self._hand_on(self._order.snapshot(events), begun=True)

    def put_bad(self) -> None:
        self.stats.bad += 1

    def look(self, connected: bool, ask: Callable[[], None]) -> None:
        """Called again and again by the receiver's thread: asks for what is missing, or gives it up."""
        now_s = time.monotonic()
        self._hand_on(self._order.tick(now_s, connected=connected))
        if connected and self._order.must_ask(now_s):
            ask()

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._on_arrival is not None:
            self._on_arrival()

    def take(self, timeout_s: float | None = None) -> EventDocument:
        """The next event; raises Closed, or TimeoutError after timeout_s."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s):
                raise TimeoutError("no event came")
            if not self._waiting:
                raise Closed
            event = self._waiting.popleft().event
            advanced(self._cursor, event)
            self._pass_over()
            return event

    def cursor(self) -> dict[str, dict[str, int]] | None:
        with self._changed:
            return copy.deepcopy(self._cursor) if self._begun or self._cursor else None

    def _pass_over(self) -> None:
        while self._waiting and not self._waiting[0].wanted:
            advanced(self._cursor, self._waiting.popleft().event)

    def _parsed(self, parts: Sequence[bytes]) -> EventDocument | None:
        try:
            event = parse_event(parts)
        except WireError:
            self.stats.bad += 1
            return None
        self.stats.received += 1
        return event

    def _hand_on(self, events: Sequence[Passed], *, begun: bool = False) -> None:
        self.stats.repeated = self._order.repeated
        with self._changed:
            self._begun = self._begun or begun
            self._waiting.extend(events)
            while len(self._waiting) > MOST_WAITING:
                oldest = self._waiting.popleft()
                self._dropped += oldest.wanted and oldest.event.state != "update"
            self._pass_over()
            self.stats.lost = self._order.lost + self._dropped
            self._changed.notify_all()
        if events and self._on_arrival is not None:
            self._on_arrival()


class _EventSubscription(Reading[EventDocument]):
    """What both forms have in common."""

    def __init__(self, receiver: Receiver, inbox: _EventInbox, timeout_s: float | None) -> None:
        super().__init__(receiver, timeout_s)
        self._inbox = inbox

    @property
    def stats(self) -> EventStats:
        return self._inbox.stats

    @property
    def cursor(self) -> dict[str, dict[str, int]] | None:
        """What has been read so far, for `since`; plain JSON, a copy.

        None until the daemon has been reached for the first time, where `since` was None.
        """
        return self._inbox.cursor()

    def _take(self, timeout_s: float | None) -> EventDocument:
        return self._inbox.take(timeout_s)

    def _none_came(self, timeout_s: float | None) -> str:
        return f"{self._receiver.endpoint}: no event came for {timeout_s or 0:g} s"


class EventSubscription(_EventSubscription, ThreadReading[EventDocument]):
    """An iterator of events, and a context manager. Reading waits; it ends when close() is called."""


class AsyncEventSubscription(_EventSubscription, AsyncReading[EventDocument]):
    """Events for `async for`; `async with` closes it at a known moment. Belongs to one event loop."""

    def __init__(
        self,
        receiver: Receiver,
        inbox: _EventInbox,
        timeout_s: float | None,
        arrived: asyncio.Event,
    ) -> None:
        super().__init__(receiver, inbox, timeout_s)
        self._arrived = arrived
