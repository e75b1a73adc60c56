"""The numbered messages of a stream's events: the last begins and ends, and what is open. No files."""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass
from fractions import Fraction
from typing import cast

from streamseg.analytics.events import EventMessage, Why
from streamseg.types import Stamp
from streamseg.wire import KEPT_EVENTS, VERSION, EventDocument, KeptEvent, encode_event

MOST_NAMES = 1024  # of events whose last message is remembered

_order = itertools.count()  # of all messages


@dataclass(frozen=True, slots=True)
class NumberedEvent:
    """A message with its number; `rule` says what was compared with what, see keeper.rule_of()."""

    document: EventDocument
    rule: str
    parts: list[bytes]
    order: int

    def before(self) -> EventMessage:
        """It, as an event goes on from it after a restart."""
        one = self.document
        stamp = Stamp(
            one.stream, one.epoch, one.seq, one.pts, Fraction(*one.time_base), one.at_unix_ns, "arrival"
        )
        return EventMessage(
            one.event, one.zone, tuple(one.classes), one.state, cast(Why, one.why),
            one.no_data, one.value, one.peak, one.begun_unix_ns, one.at_unix_ns, 0.0, one.duration_s, stamp,
        )  # fmt: skip


def numbered(document: EventDocument, rule: str) -> NumberedEvent:
    """A document to be kept; raises WireError for one that no message may carry."""
    return NumberedEvent(document, rule, encode_event(document), next(_order))


class StreamHistory:
    """Numbers the messages of one stream, and keeps those that a snapshot brings. Used by one thread."""

    def __init__(self, journal: str, next_n: int = 0) -> None:
        """journal: its messages are numbered, from next_n on."""
        self.next_n = next_n
        self._journal = journal
        self._previous_n: int | None = None
        self._lasting: deque[NumberedEvent] = deque(maxlen=KEPT_EVENTS)  # begins and ends
        self._open: dict[str, tuple[NumberedEvent, NumberedEvent]] = {}  # begin and last message, by id
        self._last: dict[str, NumberedEvent] = {}  # of each event, by its name

    def number(self, message: EventMessage, rule: str, run: int, unix_ns: int) -> NumberedEvent:
        """Give a message its number; it must then be added, or the number is given again."""
        stamp, last = message.stamp, self._last.get(message.event)
        if last is not None and last.document.state != "end":
            id = last.document.id
        else:
            id = f"{self._journal}-{stamp.stream}-{self.next_n}"
        document = EventDocument(
            version=VERSION,
            kind="event",
            stream=stamp.stream,
            run=run,
            journal=self._journal,
            event_n=self.next_n,
            previous_n=self._previous_n,
            id=id,
            event=message.event,
            zone=message.zone,
            classes=list(message.classes),
            state=message.state,
            why=message.why,
            no_data=message.no_data,
            value=message.value,
            peak=message.peak,
            begun_unix_ns=max(0, message.begun_unix_ns),
            at_unix_ns=max(0, message.at_unix_ns),
            duration_s=round(message.duration_s, 6),
            epoch=stamp.epoch,
            seq=stamp.seq,
            pts=stamp.pts,
            time_base=stamp.time_base.as_integer_ratio(),
            published_unix_ns=unix_ns,
        )
        return numbered(document, rule)

    def add(self, event: NumberedEvent) -> None:
        """Keep a message, in the order of their numbers; it may be of an earlier journal."""
        one = event.document
        self._last.pop(one.event, None)
        self._last[one.event] = event
        if len(self._last) > MOST_NAMES:
            del self._last[next(iter(self._last))]
        if one.journal == self._journal:
            self.next_n = max(self.next_n, one.event_n + 1)
            self._previous_n = self._previous_n if one.state == "update" else one.event_n
        if one.state == "update":
            begin = self._open.get(one.id, (event, event))[0]
            self._open[one.id] = (begin, event)
            return
        self._lasting.append(event)
        if one.state == "begin":
            self._open[one.id] = (event, event)
        else:
            self._open.pop(one.id, None)

    def copy(self) -> StreamHistory:
        other = StreamHistory(self._journal, self.next_n)
        other._previous_n = self._previous_n
        other._lasting, other._open, other._last = self._lasting.copy(), self._open.copy(), self._last.copy()
        return other

    def count_again(self, journal: str) -> None:
        """Go on in another journal, from 0."""
        self._journal, self.next_n, self._previous_n = journal, 0, None

    def last_of_each(self) -> dict[str, NumberedEvent]:
        """The last message of each event, by its name."""
        return dict(self._last)

    @property
    def is_open(self) -> bool:
        return bool(self._open)

    def kept(self) -> list[NumberedEvent]:
        """What a snapshot brings, in order."""
        found = {one.order: one for one in self._lasting}
        found |= {one.order: one for both in self._open.values() for one in both}
        return [found[order] for order in sorted(found)]

    def for_snapshots(self) -> list[KeptEvent]:
        """The same, as the publisher takes it."""
        return [KeptEvent(one.parts, one.document.id in self._open) for one in self.kept()]
