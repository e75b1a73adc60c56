"""A publisher of events, shares and states without cameras: real sockets, documents made up."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Any

from streamseg.config import PublishConfig
from streamseg.net.mask_sockets import Asker, MaskSockets
from streamseg.net.socket_thread import SocketThread
from streamseg.wire import EventDocument, StreamStatus, encode_event, encode_status
from tests.ports import free_port

JOURNAL = "00112233445566ff"


def event_document(n: int, **given: Any) -> EventDocument:
    """The n-th message of a stream: begins are even, ends odd."""
    now_ns = 1_700_000_000_000_000_000 + n * 1_000_000_000
    fields: dict[str, Any] = {
        "version": 1, "kind": "event", "stream": "gate", "run": 7, "journal": JOURNAL, "event_n": n,
        "previous_n": n - 1 if n else None, "id": f"{JOURNAL}-gate-{n - n % 2}", "event": "flood",
        "zone": "ramp", "classes": ["water"], "state": "end" if n % 2 else "begin",
        "why": "below" if n % 2 else "", "value": 0.41, "peak": 0.55, "begun_unix_ns": now_ns,
        "at_unix_ns": now_ns, "duration_s": 5.0, "epoch": 0, "seq": n, "pts": n, "time_base": (1, 25),
        "published_unix_ns": now_ns,
    }  # fmt: skip
    return EventDocument(**(fields | given))


def zones_parts(stream: str, zones: dict[str, dict[str, float]], n: int = 0, **given: Any) -> list[bytes]:
    """A zones message with these shares of classes; the rest of each zone is unknown."""
    zones = {"picture": {}} | zones
    document = {
        "version": 1, "kind": "zones", "stream": stream, "run": 7, "epoch": 0, "seq": n, "n": n, "pts": n,
        "time_base": [1, 25], "captured_unix_ns": 1_700_000_000_000_000_000 + n, "clock": "camera",
        "published_unix_ns": 1_700_000_000_000_000_001 + n, "shape": [25, 40], "engine": "tiny@fp32",
        "label_set": "street3",
        "zones": [
            {"zone": zone, "pixels": 1000, "square_m": None,
             "unknown": 1000 - sum(round(share * 1000) for share in shares.values()),
             "classes": [{"id": i, "name": name, "pixels": round(share * 1000), "share": share}
                         for i, (name, share) in enumerate(shares.items()) if share]}
            for zone, shares in zones.items()
        ],
    } | given  # fmt: skip
    return [f"zones/{stream}/".encode(), json.dumps(document).encode()]


class FakeDaemon:
    """Publishes what it is told to, answers snapshots with the last 256 events; may stop and start again."""

    def __init__(self, streams: Sequence[str] = ("gate",), port: int = 0) -> None:
        self.endpoint = f"tcp://127.0.0.1:{port or free_port()}"
        self.streams = list(streams)
        self.run = 7
        self.events: deque[EventDocument] = deque(maxlen=256)
        self.subscribed: set[bytes] = set()
        self.asked = 0  # for snapshots
        self._out: deque[list[bytes]] = deque()
        self._wake = threading.Event()
        self._thread: SocketThread | None = None

    def __enter__(self) -> FakeDaemon:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        self._thread = SocketThread("fake daemon", self._serve)
        self._thread.start()

    def stop(self) -> None:
        if self._thread is not None:
            self._thread.close()
        self._thread = None

    def send(self, parts: list[bytes]) -> None:
        self._out.append(parts)
        if self._thread is not None:
            self._thread.wake()

    def event(self, document: EventDocument, *, silent: bool = False) -> None:
        """Publish an event message; silent: nobody gets it but by a snapshot."""
        self.events.append(document)
        if not silent:
            self.send(encode_event(document))

    def _serve(self, thread: SocketThread) -> None:
        self.subscribed = set()

        def subscription(subscribing: bool, prefix: bytes) -> None:
            (self.subscribed.add if subscribing else self.subscribed.discard)(prefix)

        def request(asker: Asker, prefixes: list[bytes]) -> None:
            messages = [encode_event(event) for event in self.events]
            found = [m for m in messages if any(m[0].startswith(prefix) for prefix in prefixes)]
            sockets.answer(asker, self.run, found)
            self.asked += 1

        sockets = MaskSockets(
            thread, PublishConfig(endpoint=self.endpoint, queue=10_000), subscription, request
        )
        thread.opened()
        states_at_s = 0.0
        while not thread.stopping:
            thread.loop.poll(100)
            while self._out:
                sockets.subscribers.publish(self._out.popleft())
            if time.monotonic() >= states_at_s:
                states_at_s = time.monotonic() + 0.5
                for stream in self.streams:
                    status = StreamStatus(stream=stream, source="demo:", state="playing")
                    sockets.subscribers.publish(encode_status(status, self.run, time.time_ns()))
