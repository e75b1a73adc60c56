"""What is counted in zones, and which events are open: received beside the masks, for people to look at."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.text import Text

from streamseg.client.receiver import Receiver
from streamseg.errors import WireError, visible
from streamseg.net.curve_keys import ClientKeys, client_keys
from streamseg.wire import EventDocument, parse_event
from streamseg.wire.zones import Zone, ZonesDocument, parse_zones

SHOWN_SHARE = 0.005  # classes with less of a zone are left out
OLD_S = 10.0  # counts that came longer ago are not shown


class Answers:
    """The newest counts and the open events of a daemon; a context manager. Any thread may read."""

    def __init__(
        self,
        endpoint: str,
        streams: Sequence[str] | None = None,
        *,
        server_key: str | Path | None = None,
        client_key_file: str | Path | None = None,
        keys: ClientKeys | None = None,
    ) -> None:
        """The arguments are those of subscribe()."""
        self._lock = threading.Lock()  # guards the two below
        self._counts: dict[str, tuple[float, ZonesDocument]] = {}
        self._events: dict[tuple[str, str], EventDocument] = {}
        prefixes = [f"{stream}/" for stream in streams] if streams is not None else [""]
        topics = [f"{kind}/{prefix}".encode() for kind in ("zones", "event") for prefix in prefixes]
        self._receiver = Receiver(
            endpoint, topics, True, self, keys or client_keys(server_key, client_key_file)
        )

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *_: object) -> None:
        self._receiver.close()

    def put(self, parts: Sequence[bytes], *, snapshot: bool = False) -> None:
        """Take in a message, in the receiver's thread; one that breaks the protocol is left out."""
        try:
            if parts and parts[0].startswith(b"event/"):
                self._take_event(parse_event(parts))
            else:
                counted = parse_zones(parts)
                with self._lock:
                    self._counts[counted.stream] = (time.monotonic(), counted)
        except WireError:
            pass  # who reads the masks counts what is broken

    def put_snapshot(self, messages: Sequence[Sequence[bytes]]) -> None:
        for parts in messages:
            self.put(parts, snapshot=True)

    def put_bad(self) -> None:
        pass

    def close(self) -> None:
        pass

    def lines(self) -> list[tuple[str, str]]:
        """(stream, text): the open events of each stream first, then its zones."""
        with self._lock:
            events = [one for one in self._events.values() if one.state != "end"]
            counts = [one for came_s, one in self._counts.values() if time.monotonic() - came_s < OLD_S]
        found = [(one.stream, 0, one.begun_unix_ns, _event_text(one)) for one in events]
        for counted in counts:
            found += [(counted.stream, 1, i, text) for i, text in enumerate(_zone_texts(counted))]
        return [(stream, text) for stream, _, _, text in sorted(found)]

    def _take_event(self, event: EventDocument) -> None:
        with self._lock:
            known = self._events.get((event.stream, event.id))
            if known is not None and known.event_n >= event.event_n:
                return
            for key, one in list(self._events.items()):  # of a journal that is no more, or over
                if one.stream == event.stream and (one.journal != event.journal or one.state == "end"):
                    del self._events[key]
            self._events[event.stream, event.id] = event


def answer_text(stream: str, text: str, *, coloured: bool) -> Text:
    """A line of Answers.lines() for a screen."""
    style = "bold yellow" if coloured and text.startswith(EVENT_MARK) else ""
    return Text.assemble((f"{visible(stream)}  ", "dim" if coloured else ""), (visible(text), style))


EVENT_MARK = "event "


def _event_text(event: EventDocument) -> str:
    begun = time.strftime("%H:%M:%S", time.localtime(event.begun_unix_ns / 1e9))
    state = ", no data" if event.no_data else ""
    what = "+".join(event.classes)
    return (
        f"{EVENT_MARK}{event.event}: {what} in {event.zone} since {begun}, "
        f"{event.value:.1%}, peak {event.peak:.1%}{state}"
    )


def _zone_texts(counted: ZonesDocument) -> Iterator[str]:
    for zone in counted.zones[1:]:  # without the whole picture, whose shares stand in the table
        yield f"zone {zone.zone}: {_shares(zone)}"


def _shares(zone: Zone) -> str:
    if not zone.pixels:
        return "no pixels at this size"
    shares = [(one.share, one.name or f"class {one.id}") for one in zone.classes]
    shares.append((zone.unknown / zone.pixels, "unknown"))
    shown = sorted((one for one in shares if one[0] >= SHOWN_SHARE), reverse=True)
    return ", ".join(f"{name} {share:.0%}" for share, name in shown)
