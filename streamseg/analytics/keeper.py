"""The events of all streams while the daemon runs: counts in, messages out, each on the disk first."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import msgspec

from streamseg.analytics.counts import ZoneCounts
from streamseg.analytics.events import EventMessage, StreamEvents, Why
from streamseg.analytics.journal import EventJournal
from streamseg.analytics.media_clock import MediaClock
from streamseg.config import EventConfig, ZoneConfig
from streamseg.errors import did_you_mean
from streamseg.types import FrameSettings, LabelSet
from streamseg.wire import KeptEvent

log = logging.getLogger(__name__)

LOG_EVERY_S = TICK_S = 1.0
MOST_NAMES = 20  # of classes, in a line of the log
MOST_UNKNOWN = 3  # classes that are named where the network has none of that name

Zones = Mapping[str, ZoneConfig]
Events = Mapping[str, EventConfig]

Put = Callable[[str, list[list[bytes]], list[KeptEvent]], None]
"""Takes a stream's new messages, and what a snapshot of it now brings; publish.Publisher.put_events."""

_COMPARED = ("classes", "above", "below", "appears", "disappears", "changes_by", "within_s")
_SHAPE = ("polygon", "holes", "line", "width")


@dataclass(slots=True)
class _Stream:
    zones: Zones
    events: Events
    machines: StreamEvents
    rules: dict[str, str]
    clock: MediaClock = field(default_factory=MediaClock)
    labels: LabelSet | None = None  # of the last mask, whose names were compared with those of the events

    def now_s(self) -> float:
        return self.clock.now(time.monotonic())


class EventKeeper:
    """Used by one thread, but for kept(), which is called before.

    The journal is opened when the first event is configured, or is there from before. It may wait for the
    disk: nothing that masks pass through may call this.
    """

    def __init__(self, journal: EventJournal, run: int, put: Put, streams: Collection[str] = ()) -> None:
        """run: of the publisher that `put` belongs to. streams: all that there are at the start.

        What is open from before of other streams ends.
        """
        self._journal = journal
        self._run, self._put = run, put
        self._present: set[str] | None = set(streams)  # until others have been looked at
        self._tick_s = 0.0  # when to look at the time again; monotonic
        self._streams: dict[str, _Stream] = {}
        self._logged: dict[str, tuple[float, int]] = {}  # when again, and how many were not

    def kept(self) -> dict[str, list[KeptEvent]]:
        """What was kept from before, for snapshots; to be published before anybody can ask for one."""
        if self._journal.exists():
            self._journal.open()
        return {name: history.for_snapshots() for name, history in self._journal.streams().items()}

    def changed(self, stream: str, settings: FrameSettings | None) -> None:
        """A stream has come, has other settings, or was removed (None)."""
        self._begin()
        if settings is None:
            self._forget(stream)
        else:
            self._configure(stream, settings.zones, settings.events)

    def counted(self, counts: ZoneCounts, settings: FrameSettings) -> None:
        """Take the counts of a mask, made with these settings; older ones than the last count for nothing."""
        self._begin()
        if counts.stream not in self._streams:
            self._configure(counts.stream, settings.zones, settings.events)
        stream = self._streams.get(counts.stream)
        if stream is not None and stream.zones == settings.zones and stream.events == settings.events:
            if stream.labels is not counts.label_set:
                stream.labels = counts.label_set
                _log_unknown(counts, settings.events)
            time_s = stream.clock.frame(counts.stamp, time.monotonic())
            self._report(counts.stream, stream, stream.machines.step(time_s, counts))

    def tick(self) -> None:
        """Time goes on; to be called once a second, or more often."""
        self._begin()
        now_s = time.monotonic()
        if now_s < self._tick_s:
            return
        self._tick_s = now_s + TICK_S
        for name, stream in self._streams.items():
            self._report(name, stream, stream.machines.tick(stream.now_s()))

    def close(self) -> None:
        """Closing twice is fine. What is open stays so, for the next start."""
        self._journal.close()

    def _begin(self) -> None:
        """End what is open from before in streams that are there no more."""
        present, self._present = self._present, None
        if present is not None:
            for stream in self._journal.streams():
                if stream not in present:
                    self._end_all(stream, "removed")

    def _configure(self, stream: str, zones: Zones, events: Events) -> None:
        """Take a stream's settings, new or changed: what compares something else now ends."""
        known = self._streams.get(stream)
        if known is not None and known.zones == zones and known.events == events:
            return
        rules = {name: rule_of(event, zones) for name, event in events.items()}
        if known is None:
            if events:
                self._journal.open()
            before = self._restored(stream, rules) if stream in self._journal.streams() else {}
            if events:
                self._streams[stream] = _Stream(zones, events, StreamEvents(events, before), rules)
            return
        changed = [name for name, rule in rules.items() if known.rules.get(name, rule) != rule]
        ends = known.machines.change(known.now_s(), events, changed)
        self._send(stream, [(message, known.rules[message.event]) for message in ends])
        known.zones, known.events, known.rules, known.labels = zones, events, rules, None

    def _forget(self, stream: str) -> None:
        """A stream was removed: its events end."""
        known = self._streams.pop(stream, None)
        if known is not None:
            self._report(stream, known, known.machines.end(known.now_s(), "removed"))
        elif stream in self._journal.streams():
            self._end_all(stream, "removed")

    def _restored(self, stream: str, rules: Mapping[str, str]) -> dict[str, EventMessage]:
        """The last messages of events that have the same rule; those that are open and have not end now."""
        last = self._journal.history(stream).last_of_each()
        self._end(stream, "removed", lambda name, _: name not in rules)
        self._end(stream, "changed", lambda name, rule: rules.get(name, rule) != rule)
        return {name: last[name].before() for name, rule in rules.items()
                if name in last and last[name].rule == rule}  # fmt: skip

    def _end_all(self, stream: str, why: Why) -> None:
        self._end(stream, why, lambda *_: True)

    def _end(self, stream: str, why: Why, chosen: Callable[[str, str], bool]) -> None:
        """End those that are open from before and chosen by their name and rule."""
        ends = []
        for name, last in self._journal.history(stream).last_of_each().items():
            if last.document.state != "end" and chosen(name, last.rule):
                ends.append((replace(last.before(), state="end", why=why), last.rule))
        self._send(stream, ends)

    def _report(self, name: str, stream: _Stream, messages: Sequence[EventMessage]) -> None:
        self._send(name, [(message, stream.rules[message.event]) for message in messages])

    def _send(self, stream: str, messages: Sequence[tuple[EventMessage, str]]) -> None:
        if not messages:
            return
        added = self._journal.add(stream, self._run, messages)
        for message, _ in messages:
            if message.state != "update":
                self._log(stream, message)
        kept = self._journal.history(stream).for_snapshots()
        self._put(stream, [event.parts for event in added], kept)

    def _log(self, stream: str, message: EventMessage) -> None:
        """Log a begin or an end; of a stream that has many, one line a second."""
        next_s, more = self._logged.get(stream, (0.0, 0))
        now_s = time.monotonic()
        if now_s < next_s:
            self._logged[stream] = next_s, more + 1
            return
        self._logged[stream] = now_s + LOG_EVERY_S, 0
        log.info("%s: %s%s", stream, _told(message), f"; {more} more before it" if more else "")


def rule_of(event: EventConfig, zones: Zones) -> str:
    """What is compared with what: events of different rules are different ones, whatever their name is."""
    zone = zones.get(event.zone) if event.zone is not None else None
    parts = [getattr(event, name) for name in _COMPARED]
    parts += [event.zone, [getattr(zone, name) for name in _SHAPE] if zone is not None else None]
    return hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:16]


def _log_unknown(counts: ZoneCounts, events: Events) -> None:
    """Say which classes of events these masks never have, as such an event says nothing."""
    names = counts.label_set.names
    unknown = [(event, one) for event, config in events.items() for one in config.classes if one not in names]
    for event, one in unknown[:MOST_UNKNOWN]:
        hint = did_you_mean(one, names, kind="classes", most=MOST_NAMES)
        log.warning(
            "%s: events.%s.classes: engine %s has no class %r; %s",
            counts.stream, event, counts.engine, one, hint,
        )  # fmt: skip
    if len(unknown) > MOST_UNKNOWN:
        log.warning(
            "%s: events: more classes that it does not have: %d",
            counts.stream,
            len(unknown) - MOST_UNKNOWN,
        )


def _told(message: EventMessage) -> str:
    if message.state == "begin":
        return f"event {message.event} begins: {message.value:.0%} of {message.zone}"
    return f"event {message.event} ends after {message.duration_s:.1f} s ({message.why})"
