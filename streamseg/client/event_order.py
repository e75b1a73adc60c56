"""Events, each once and in order, out of messages that are lost, repeated or early. No sockets, no clock."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from streamseg.wire import EventDocument

Cursor = Mapping[str, Mapping[str, int]]
"""The last event_n by stream and journal: what a reader has. JSON keeps it."""

MOST_JOURNALS = 8  # of a stream, whose numbers are remembered
MOST_STREAMS = 4096  # more can only be an attack
MOST_HELD = 1024  # events of a stream that wait for a snapshot
ASK_EVERY_S, GIVE_UP_S = 1.0, 10.0


@dataclass(slots=True)
class _Stream:
    last: OrderedDict[str, int] = field(default_factory=OrderedDict)  # event_n by journal
    held: list[EventDocument] = field(default_factory=list)  # too early
    held_since_s: float = 0.0


class Passed(NamedTuple):
    """An event that nothing before is missing of."""

    event: EventDocument
    wanted: bool = True  # else it was over before the reader began


class EventOrder:
    """Used by one thread. Each call gives what may be handed on now.

    since: what the reader has; of streams that it does not name everything that is kept comes. None: nothing
    comes of what was over when the first snapshot was made, of what was open its messages do.
    """

    def __init__(self, since: Cursor | None = None) -> None:
        self.lost = 0  # at least so many begins and ends did not come
        self.repeated = 0
        self._skip_past = since is None
        self._ready = False  # the first snapshot has come, or is not waited for any more
        self._streams: dict[str, _Stream] = {}
        self._ask_at_s = 0.0
        self._connected = False
        self._confirm_at_s: float | None = None
        for stream, numbers in (since or {}).items():
            self._streams[stream] = _Stream(OrderedDict(numbers))

    def live(self, event: EventDocument, now_s: float) -> list[Passed]:
        """A message that was published just now."""
        stream = self._stream(event.stream)
        if stream is None:
            return []
        if event.event_n <= stream.last.get(event.journal, -1):
            self.repeated += 1
            return []
        if self._ready and not stream.held and not _is_early(stream, event):
            return [self._passed(stream, event)]
        if not stream.held:
            stream.held_since_s = now_s
        stream.held.append(event)
        return self._given_up(stream) if len(stream.held) > MOST_HELD else []

    def snapshot(self, events: Sequence[EventDocument]) -> list[Passed]:
        """The events of a reply, in its order."""
        skipping, self._ready, self._skip_past = self._skip_past, True, False
        over = {event.id for event in events if event.state == "end"} if skipping else set()
        known = {name for name, stream in self._streams.items() if stream.last}
        passed = []
        for event in events:
            stream = self._stream(event.stream)
            if stream is None:
                continue
            if event.event_n <= stream.last.get(event.journal, -1):
                self.repeated += 1
                continue
            self.lost += event.stream in known and event.journal in stream.last and _is_early(stream, event)
            passed.append(self._passed(stream, event, wanted=event.id not in over))
        for stream in self._streams.values():
            passed += self._released(stream)
        return passed

    def tick(self, now_s: float, *, connected: bool = True) -> list[Passed]:
        """Time goes on: what has waited for GIVE_UP_S of a connection waits no more."""
        passed: list[Passed] = []
        if connected and not self._connected:
            self._confirm_at_s = now_s + ASK_EVERY_S
        self._connected = connected
        for stream in self._streams.values():
            if not connected:
                stream.held_since_s = now_s
            elif stream.held and now_s - stream.held_since_s >= GIVE_UP_S:
                self._ready, self._skip_past = True, False
                passed += self._given_up(stream)
        return passed

    def must_ask(self, now_s: float) -> bool:
        """Whether to ask for a snapshot now; not more often than every ASK_EVERY_S.

        Also once after each connection, beside what was asked for at once: that may have been answered just
        before the subscription came, and what was published in between would be missed until the next event.
        """
        if now_s < self._ask_at_s:
            return False
        confirm = self._confirm_at_s is not None and now_s >= self._confirm_at_s
        if self._ready and not confirm and not any(stream.held for stream in self._streams.values()):
            return False
        if confirm:
            self._confirm_at_s = None
        self._ask_at_s = now_s + ASK_EVERY_S
        return True

    def _stream(self, name: str) -> _Stream | None:
        if name not in self._streams and len(self._streams) >= MOST_STREAMS:
            return None
        return self._streams.setdefault(name, _Stream())

    def _passed(self, stream: _Stream, event: EventDocument, wanted: bool = True) -> Passed:
        stream.last[event.journal] = event.event_n
        stream.last.move_to_end(event.journal)
        if len(stream.last) > MOST_JOURNALS:
            stream.last.popitem(last=False)
        return Passed(event, wanted)

    def _released(self, stream: _Stream) -> list[Passed]:
        """What is not early any more."""
        passed = []
        while stream.held and not _is_early(stream, stream.held[0]):
            event = stream.held.pop(0)
            if event.event_n <= stream.last.get(event.journal, -1):
                self.repeated += 1
            else:
                passed.append(self._passed(stream, event))
        return passed

    def _given_up(self, stream: _Stream) -> list[Passed]:
        """What is held, though something before it is lost."""
        passed = []
        for event in stream.held:
            self.lost += _is_early(stream, event)
            passed.append(self._passed(stream, event))
        stream.held.clear()
        return passed


def _is_early(stream: _Stream, event: EventDocument) -> bool:
    """Whether a begin or an end before it has not come."""
    return event.previous_n is not None and event.previous_n > stream.last.get(event.journal, -1)


def advanced(cursor: dict[str, dict[str, int]], event: EventDocument) -> None:
    """Note in a cursor that an event has been taken."""
    numbers = cursor.setdefault(event.stream, {})
    numbers.pop(event.journal, None)
    numbers[event.journal] = event.event_n
    while len(numbers) > MOST_JOURNALS:
        del numbers[next(iter(numbers))]
