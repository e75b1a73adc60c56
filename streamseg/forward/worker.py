"""The thread of one place: takes what waits for it, in order, and tries again while it is away.

So a place that hangs or is away delays no other, and nothing that comes in.
"""

from __future__ import annotations

import logging
import threading
import time

import msgspec

from streamseg.config.redact import redact
from streamseg.errors import ConfigError
from streamseg.forward.latest import Latest
from streamseg.forward.settings import SinkConfig
from streamseg.forward.sink import Message, News, Sink, SinkError
from streamseg.forward.store import Event, Store
from streamseg.runtime.backoff import Backoff
from streamseg.wire.event import EventDocument

log = logging.getLogger(__name__)

IDLE_S = 1.0  # between two looks at the streams, where no event wakes the thread
LOOK_AGAIN_S = 0.2  # where shares are due and none have come
MOST_TOLD = 8  # different reasons of one outage that are logged
MOST_COOLING = 4096  # events whose last begin is remembered


class Worker:
    """Feeds one sink. run() is the thread's; everything else may come from any."""

    def __init__(self, name: str, sink: Sink, config: SinkConfig, store: Store, latest: Latest) -> None:
        self.name = name
        self.delivered = 0  # events
        self.refused = 0  # events that the place will never take
        self.away = ""  # why it cannot be reached; empty when it can
        self._sink = sink
        self._config = config
        self._store = store
        self._latest = latest
        self._begun: dict[tuple[str, str], tuple[str, float]] = {}  # the last event passed on, for cooldown_s
        self._seen: dict[str, dict[str, int]] = {}
        self._shown_s: dict[str, float] = {}  # when each kind was shown last
        self._delivering: dict[str, bool] = {}
        self._every_s = {
            "zones": config.shares_every_s,
            "pictures": sink.pictures_every_s,
            "masks": sink.masks_every_s,
        }
        self._up = False
        self._told: set[str] = set()  # reasons of this outage
        self._told_refused = False
        self._changed = threading.Event()
        self._stopping = False

    def wake(self) -> None:
        """There is a new event."""
        self._changed.set()

    def stop(self) -> None:
        """Deliver what waits, as far as the place takes it at once, and end."""
        self._stopping = True
        self._changed.set()

    def summary(self) -> str:
        """How it stands, in words."""
        waiting, lost = self._store.count(self.name), self._store.lost(self.name)
        words = f"{self.name}: {'away' if self.away else 'ok'}, {self.delivered} events sent"
        words += f", {waiting} wait" if waiting else ""
        words += f", {self.refused} refused" if self.refused else ""
        return words + (f", {lost} lost" if lost else "")

    def run(self) -> None:
        """Work until stop(); raises only what is a fault of our own."""
        backoff = Backoff()
        while True:
            pause_s = 0.0
            try:
                self._sink.open()
                if self._sink.connects and not self.away:
                    self._tell_back()
                self._serve(backoff)
            except (SinkError, ConfigError) as error:
                self._tell_away(str(error))
                pause_s = max(backoff.pause_s(), error.pause_s if isinstance(error, SinkError) else 0.0)
            finally:
                self._sink.close()
            if self._stopping:
                return
            self._pause(pause_s)

    def _serve(self, backoff: Backoff) -> None:
        """Send what there is, and wait for more; returns when it is to stop and nothing waits."""
        self._seen = {kind: {} for kind in self._every_s}  # a new connection is told everything
        self._delivering = {}
        while True:
            self._changed.clear()
            news = self._news()
            if news is not None:
                self._sink.show(news)
            events = self._store.waiting(self.name)
            if events:
                self._send(events)
            if news is not None or events or self._sink.connects:
                self._tell_back()
                backoff.reset()
            if events:
                continue
            if self._stopping:
                return
            self._changed.wait(self._due_in_s())
            self._sink.keep()

    def _send(self, events: list[Event]) -> None:
        wanted = []
        for event in events:
            message = Message(event, msgspec.json.decode(event.document, type=EventDocument))
            if self._wants(message):
                wanted.append(message)
        try:
            if wanted:
                self._sink.send(wanted, self._taken)
            self._store.advance(self.name, events[-1].n)
        finally:
            self._store.keep()

    def _taken(self, message: Message, refused: str) -> None:
        self._store.advance(self.name, message.event.n)
        if not refused:
            self.delivered += 1
            return
        self.refused += 1
        if not self._told_refused:
            self._told_refused = True
            log.warning(
                "%s: refuses event %s of %s for good, so it is left out: %s; further ones are only counted",
                self.name, message.said.id, message.said.stream, redact(refused),
            )  # fmt: skip

    def _wants(self, message: Message) -> bool:
        said, config = message.said, self._config
        if config.streams and said.stream not in config.streams:
            return False
        if config.events and said.event not in config.events:
            return False
        if config.max_age_s is not None and time.time() - said.at_unix_ns / 1e9 > config.max_age_s:
            return False
        return not self._is_cooling(said) and said.state in config.states

    def _is_cooling(self, said: EventDocument) -> bool:
        """Whether this event began too soon after the last one of its name that was passed on."""
        if not self._config.cooldown_s:
            return False
        key = (said.stream, said.event)
        last = self._begun.get(key)
        if last is None or (
            last[0] != said.id and said.begun_unix_ns / 1e9 - last[1] >= self._config.cooldown_s
        ):
            self._begun.pop(key, None)
            self._begun[key] = last = (said.id, said.begun_unix_ns / 1e9)
            if len(self._begun) > MOST_COOLING:
                del self._begun[next(iter(self._begun))]
        return last[0] != said.id

    def _news(self) -> News | None:
        """What is newest and due; None where there is nothing."""
        now_s = time.monotonic()
        found: dict[str, dict[str, bytes]] = {}
        for kind, every_s in self._every_s.items():
            items = {}
            if every_s and now_s - self._shown_s.get(kind, 0.0) >= every_s:
                items = self._latest.newer(kind, self._seen[kind])
            if self._config.streams:
                items = {name: item for name, item in items.items() if name in self._config.streams}
            if items:
                self._shown_s[kind] = now_s
            self._seen[kind] |= {name: item.number for name, item in items.items()}
            found[kind] = {name: item.document() for name, item in items.items()}
        delivering = self._latest.delivering()
        if self._config.streams:
            delivering = {name: on for name, on in delivering.items() if name in self._config.streams}
        changed = delivering != self._delivering
        self._delivering = delivering
        if not changed and not any(found.values()):
            return None
        return News(**found, delivering=delivering)

    def _due_in_s(self) -> float:
        """How long until something newest may be due."""
        wait_s = IDLE_S
        now_s = time.monotonic()
        for kind, every_s in self._every_s.items():
            if every_s:
                wait_s = min(wait_s, max(LOOK_AGAIN_S, self._shown_s.get(kind, 0.0) + every_s - now_s))
        return wait_s

    def _pause(self, pause_s: float) -> None:
        end_s = time.monotonic() + pause_s
        while not self._stopping and (left_s := end_s - time.monotonic()) > 0:
            self._changed.wait(left_s)
            self._changed.clear()

    def _tell_away(self, why: str) -> None:
        self._up = False
        self.away = redact(why)
        if why not in self._told and len(self._told) < MOST_TOLD:
            self._told.add(why)
            log.warning("%s: %s; tried again, %d events wait", self.name, self.away,
                        self._store.count(self.name))  # fmt: skip

    def _tell_back(self) -> None:
        if self._up:
            return
        self._up = True
        if self.away:
            log.info("%s: takes what is sent again, %d events wait", self.name, self._store.count(self.name))
        elif self._sink.connects:
            log.info("%s: connected to %s", self.name, self._sink.where)
        self.away = ""
        self._told.clear()
