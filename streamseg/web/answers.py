"""Zones, what is counted in them, and events, as the pages get them and ask for them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Collection
from typing import Any

import msgspec

from streamseg.config.tables import normal_tables, toml_of
from streamseg.errors import ControlError
from streamseg.web.link import Link
from streamseg.web.viewer import Do, Slow, Viewer
from streamseg.wire.control import Status, Zones
from streamseg.wire.event import EventDocument
from streamseg.wire.zones import ZoneMark, ZonesDocument

log = logging.getLogger(__name__)

EVENTS_EVERY_S = 0.1  # at most; a snapshot brings hundreds at once
MOST_EVENTS = 200  # that a page shows


class Answers:
    """What pages are told of zones and events. Belongs to the event loop of its feed."""

    def __init__(self, link: Link, viewers: Collection[Viewer]) -> None:
        self._link = link
        self._viewers = viewers
        self._marks: dict[str, ZoneMark] = {}  # as the daemon said last
        self._zones: dict[str, dict[str, Any]] = {}  # messages, by stream
        self._events: OrderedDict[tuple[str, str], EventDocument] = OrderedDict()
        self._waiting: list[tuple[EventDocument, bool]] = []  # to be sent, all together
        self._asking: asyncio.Task[None] | None = None

    def greet(self, viewer: Viewer) -> None:
        """Tell a page that has just come, or come back, all there is."""
        if self._zones:
            viewer.send({"type": "zones", "streams": list(self._zones.values())})
        if self._events:
            viewer.send({"type": "events", "events": [_event(one, False) for one in self._events.values()]})

    def take_status(self, status: Status) -> None:
        """Ask for the zones that have changed; the pages get them when they have come."""
        self._marks = status.zones
        for stream in [stream for stream in self._zones if stream not in status.streams]:
            del self._zones[stream]
        for stream in status.streams:
            if stream not in status.zones:
                self._tell(Zones(stream=stream))
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_for_changed())

    def take_event(self, event: EventDocument, fresh: bool) -> None:
        """Keep the newest message of each event, and pass it on."""
        key = (event.stream, event.id)
        known = self._events.get(key)
        if known is not None and known.event_n >= event.event_n:
            return
        self._events[key] = event
        self._events.move_to_end(key)
        for lost in [k for k, one in self._events.items() if _is_lost(one, event)]:
            del self._events[lost]
        over = [k for k, one in self._events.items() if one.state == "end"]
        for old in over[: max(0, len(self._events) - MOST_EVENTS)]:
            del self._events[old]
        if not self._waiting:
            asyncio.get_running_loop().call_later(EVENTS_EVERY_S, self._send_events)
        self._waiting.append((event, fresh))

    def forget_events(self) -> None:
        """They are received no more."""
        self._events.clear()
        self._waiting.clear()

    async def close(self) -> None:
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.gather(self._asking, return_exceptions=True)

    async def do(self, do: Do) -> dict[str, Any]:
        """Save zones, or write them as TOML; what the page's answer holds. Raises StreamsegError."""
        zones, events = do.settings.get("zones"), do.settings.get("events")
        if do.what == "toml":
            return {"toml": toml_of(do.stream, normal_tables(do.stream, zones or {}, events or {}))}
        saved = await self._link.ask(lambda daemon: daemon.zones(do.stream, zones, events))
        self._tell(saved)
        return {"zones": _zones(saved)}

    async def _ask_for_changed(self) -> None:
        for stream, mark in self._marks.items():
            known = self._zones.get(stream)
            if known is not None and (known["revision"], known["kept"]) == (mark.revision, mark.kept):
                continue
            try:
                found = await self._link.ask(lambda daemon, stream=stream: daemon.zones(stream))  # type: ignore[misc]
            except ControlError as error:  # it was removed, or the daemon is gone: the next status tells
                log.debug("console: zones of %s: %s", stream, error)
                continue
            self._tell(found)

    def _tell(self, zones: Zones) -> None:
        message = _zones(zones)
        if self._zones.get(zones.stream) != message:
            self._zones[zones.stream] = message
            self._send({"type": "zones", "streams": [message]})

    def _send_events(self) -> None:
        if self._waiting:
            self._send({"type": "events", "events": [_event(*one) for one in self._waiting]})
            self._waiting.clear()

    def _send(self, message: dict[str, Any]) -> None:
        for viewer in list(self._viewers):
            with contextlib.suppress(Slow):  # it is disconnected by its sending task
                viewer.send(message)


def shares_message(counted: ZonesDocument) -> dict[str, Any]:
    """What was counted in a mask's zones, for a page."""
    return {
        "type": "shares",
        "stream": counted.stream,
        "captured_ms": counted.captured_unix_ns / 1e6,
        "label_set": counted.label_set,
        "zones": msgspec.to_builtins(counted.zones),
    }


def _zones(zones: Zones) -> dict[str, Any]:
    return {
        "stream": zones.stream,
        "revision": zones.revision,
        "kept": zones.kept,
        "zones": zones.zones,
        "events": zones.events,
    }


def _event(event: EventDocument, fresh: bool) -> dict[str, Any]:
    fields = ("stream", "journal", "event_n", "id", "event", "zone", "classes", "state", "why", "no_data")
    return {
        **{name: getattr(event, name) for name in fields},
        "value": event.value,
        "peak": event.peak,
        "begun_ms": event.begun_unix_ns / 1e6,
        "at_ms": event.at_unix_ns / 1e6,
        "duration_s": event.duration_s,
        "fresh": fresh,
    }


def _is_lost(one: EventDocument, newer: EventDocument) -> bool:
    """Whether an open event is of a journal that is no more, so that its end never comes."""
    return one.state != "end" and one.stream == newer.stream and one.journal != newer.journal
