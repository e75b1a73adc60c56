"""Shares of a zone over time → events that begin, go on and end. Arithmetic alone: live and recorded.

Times are seconds of the video, see media_clock.py; they never go back. A mask says nothing about an event
where too much of the zone is unknown, or its classes are none of the network's. When nothing has been known
for stale_s, there is no data: what was about to begin or end is forgotten, and an open event stays open.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from streamseg.analytics.counts import ZoneCounts
from streamseg.config import PICTURE, EventConfig
from streamseg.types import LabelSet, Stamp

EventState = Literal["begin", "update", "end"]
Why = Literal["", "below", "back", "steady", "removed", "changed", "restarted"]

_ENDS: dict[str, Why] = {"above": "below", "appears": "below", "disappears": "back", "changes_by": "steady"}


@dataclass(frozen=True, slots=True)
class EventMessage:
    """An event has begun, goes on or has ended; what of it nobody has numbered yet."""

    event: str
    zone: str
    classes: tuple[str, ...]
    state: EventState
    why: Why  # it ended
    no_data: bool
    value: float  # what is compared: the share; of changes_by, how far the share has changed
    peak: float  # the highest value since it began; of disappears the lowest
    begun_unix_ns: int
    at_unix_ns: int
    time_s: float  # of this message in the video; it began duration_s earlier
    duration_s: float
    stamp: Stamp  # of the last frame that something was known on


class EventMachine:
    """One event. step() takes what is known of each frame, tick() the time when there is none."""

    def __init__(self, name: str, config: EventConfig, before: EventMessage | None = None) -> None:
        """before: its last message, from before a restart of the daemon."""
        self.open = before is not None and before.state != "end"
        self._name, self._config = name, config
        self._kind, self._limit = _kind_of(config)
        self._window = _Window(config.within_s) if config.within_s is not None else None
        self._before = before  # until the first data
        self._armed = self._kind not in ("appears", "disappears")  # the opposite has been seen
        self._since: tuple[float, int] | None = None  # what may begin or end it holds: time_s, unix_ns
        self._known_s: float | None = None  # when something was known for the last time
        self._not_before_s = 0.0  # the end of the cooldown
        self._no_data = False
        self._updated_s = 0.0
        self._begun_s, self._begun_unix_ns = 0.0, 0
        self._value = self._peak = 0.0
        self._stamp: Stamp | None = None
        if before is not None:
            self._stamp, self._no_data = before.stamp, before.no_data
            self._value, self._peak = before.value, before.peak
            self._begun_unix_ns = before.begun_unix_ns

    def configure(self, config: EventConfig) -> None:
        """Take settings that compare the same with the same."""
        self._config = config

    def tick(self, time_s: float) -> list[EventMessage]:
        """Time goes on, and no mask came: no data after stale_s."""
        if self._known_s is None:
            self._known_s = time_s
            if self._before is not None:
                self._begun_s = time_s - self._before.duration_s
        if time_s - self._known_s <= self._config.stale_s:
            return []
        self._since = None
        if not self.open or self._no_data:
            return []
        self._no_data = True
        return [self._message("update", "", self._known_s + self._config.stale_s)]

    def step(self, time_s: float, share: float | None, stamp: Stamp) -> list[EventMessage]:
        """A frame's share of the zone; None where it says nothing of this event."""
        messages = self.tick(time_s)
        if share is None:
            return messages
        restarted = self._before is not None and self.open
        if self._before is not None:
            self._resume(time_s, stamp, self._before)
        self._known_s, self._stamp, self._before = time_s, stamp, None
        self._value = share if self._window is None else self._window.change(time_s, share)
        message = self._while_open(time_s, restarted) if self.open else self._while_closed(time_s, stamp)
        return messages if message is None else [*messages, message]

    def end(self, time_s: float, why: Why) -> list[EventMessage]:
        """End it, since its settings are gone or others; nothing where it is not open."""
        return [self._ended(time_s, why)] if self.open else []

    def _resume(self, time_s: float, stamp: Stamp, before: EventMessage) -> None:
        """The first data after a restart: how much time has gone by is known by the clock alone."""
        away_s = max(0.0, (stamp.captured_unix_ns - before.at_unix_ns) / 1e9)
        if self.open:
            self._begun_s = time_s - before.duration_s - away_s
        else:
            self._not_before_s = time_s + max(0.0, self._config.cooldown_s - away_s)

    def _while_open(self, time_s: float, restarted: bool) -> EventMessage | None:
        resumed, self._no_data = self._no_data, False
        self._peak = self._worse(self._peak)
        if not self._is_over():
            self._since = None
        elif restarted:
            return self._ended(time_s, "restarted")
        else:
            self._since = self._since or (time_s, 0)
            if time_s - self._since[0] >= self._config.for_s:
                return self._ended(time_s, _ENDS[self._kind])
        if resumed or restarted or time_s - self._updated_s >= self._config.update_s:
            return self._message("update", "", time_s)
        return None

    def _while_closed(self, time_s: float, stamp: Stamp) -> EventMessage | None:
        if not self._holds():
            self._since, self._armed = None, True
            return None
        if not self._armed:
            return None
        if self._since is None:
            self._since, self._peak = (time_s, stamp.captured_unix_ns), self._value
        self._peak = self._worse(self._peak)
        if time_s - self._since[0] < self._config.for_s or time_s < self._not_before_s:
            return None
        self.open = True
        self._begun_s, self._begun_unix_ns = self._since
        self._since = None
        return self._message("begin", "", time_s)

    def _worse(self, peak: float) -> float:
        return min(peak, self._value) if self._kind == "disappears" else max(peak, self._value)

    def _holds(self) -> bool:
        """Whether it may begin on this value."""
        return self._value < self._limit if self._kind == "disappears" else self._value >= self._limit

    def _is_over(self) -> bool:
        """Whether it may end on this value."""
        below = self._config.below
        return not self._holds() if below is None else self._value < below

    def _ended(self, time_s: float, why: Why) -> EventMessage:
        message = self._message("end", why, time_s)
        self.open, self._no_data, self._since, self._armed = False, False, None, True
        self._not_before_s = time_s + self._config.cooldown_s
        return message

    def _message(self, state: EventState, why: Why, time_s: float) -> EventMessage:
        assert self._stamp is not None
        self._updated_s = time_s
        silent_s = time_s - (time_s if self._known_s is None else self._known_s)
        return EventMessage(
            self._name,
            self._config.zone or PICTURE,
            self._config.classes,
            state,
            why,
            self._no_data,
            self._value,
            self._peak,
            self._begun_unix_ns,
            self._stamp.captured_unix_ns + max(0, round(silent_s * 1e9)),
            time_s,
            max(0.0, time_s - self._begun_s),
            self._stamp,
        )


class _Window:
    """The least and the greatest share of the last within_s."""

    def __init__(self, within_s: float) -> None:
        self._within_s = within_s
        self._least: deque[tuple[float, float]] = deque()  # (time, share); shares grow
        self._greatest: deque[tuple[float, float]] = deque()  # shares fall

    def change(self, time_s: float, share: float) -> float:
        """How far apart they are, with this one."""
        for ends, sign in ((self._least, 1.0), (self._greatest, -1.0)):
            while ends and sign * ends[-1][1] >= sign * share:
                ends.pop()
            ends.append((time_s, share))
            while time_s - ends[0][0] > self._within_s:
                ends.popleft()
        return self._greatest[0][1] - self._least[0][1]


class StreamEvents:
    """The events of one stream, in the order of their settings."""

    def __init__(
        self, events: Mapping[str, EventConfig], before: Mapping[str, EventMessage] | None = None
    ) -> None:
        """before: the last message of events that have the same rule, from before a restart."""
        known = before or {}
        self._configs = dict(events)
        self._machines = {name: EventMachine(name, one, known.get(name)) for name, one in events.items()}
        self._ids: tuple[LabelSet | None, dict[str, list[int]]] = (None, {})

    @property
    def open(self) -> Sequence[str]:
        """The names of those that are open."""
        return [name for name, machine in self._machines.items() if machine.open]

    def step(self, time_s: float, counts: ZoneCounts) -> list[EventMessage]:
        """What one mask's counts begin, go on with and end."""
        return [m for name, one in self._machines.items()
                for m in one.step(time_s, self._share(name, counts), counts.stamp)]  # fmt: skip

    def tick(self, time_s: float) -> list[EventMessage]:
        """What changes when no mask comes."""
        return [message for one in self._machines.values() for message in one.tick(time_s)]

    def end(self, time_s: float, why: Why, names: Sequence[str] | None = None) -> list[EventMessage]:
        """End those that are open; all, or these."""
        chosen = self._machines if names is None else names
        return [message for name in chosen for message in self._machines[name].end(time_s, why)]

    def change(
        self, time_s: float, events: Mapping[str, EventConfig], changed: Sequence[str]
    ) -> list[EventMessage]:
        """Take other settings: what is gone ends, so do those in `changed`; the others go on."""
        gone = [name for name in self._machines if name not in events]
        changed = [name for name in changed if name in self._machines]
        messages = self.end(time_s, "removed", gone) + self.end(time_s, "changed", changed)
        kept = {name: one for name, one in self._machines.items() if name in events and name not in changed}
        for name, one in kept.items():
            one.configure(events[name])
        self._machines = {name: kept.get(name) or EventMachine(name, one) for name, one in events.items()}
        self._configs = dict(events)
        self._ids = (None, {})
        return messages

    def _share(self, name: str, counts: ZoneCounts) -> float | None:
        config = self._configs[name]
        zone = counts.zone(config.zone or PICTURE)
        ids = self._class_ids(counts.label_set)[name]
        if zone is None or not zone.pixels or not ids:
            return None
        if zone.unknown / zone.pixels > config.max_unknown:
            return None
        return sum(int(zone.counts[i]) for i in ids) / zone.pixels

    def _class_ids(self, labels: LabelSet) -> dict[str, list[int]]:
        """The class ids of each event in these labels."""
        if self._ids[0] is not labels:
            ids = {name: list(_ids(one, labels)) for name, one in self._configs.items()}
            self._ids = (labels, ids)
        return self._ids[1]


def _ids(event: EventConfig, labels: LabelSet) -> Iterator[int]:
    return (i for i, name in enumerate(labels.names) if name in event.classes)


def _kind_of(config: EventConfig) -> tuple[str, float]:
    """What it compares, and with what."""
    for kind in ("above", "appears", "disappears", "changes_by"):
        limit = getattr(config, kind)
        if limit is not None:
            return kind, limit
    raise AssertionError("a setting of an event was not checked")
