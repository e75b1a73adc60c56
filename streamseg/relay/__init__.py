"""A site's masks to many subscribers over one link: XSUB to each daemon, XPUB to the subscribers.

Messages are passed on unread, with the daemons' own numbers and times. The relay subscribes at the daemons to
what its subscribers ask for, so nothing else is computed or sent. It asks the daemons for snapshots, too, so
that a late joiner gets the same last masks from the relay as from the daemon.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from streamseg.config import PublishConfig
from streamseg.errors import UsageError
from streamseg.net.curve_keys import read_key
from streamseg.net.mask_sockets import Asker, MaskSockets
from streamseg.net.socket_thread import SocketThread
from streamseg.relay.rounds import EVENTS, Rounds
from streamseg.relay.upstream import Upstream
from streamseg.wire import MAX_PREFIXES as MOST_ASKED

__all__ = ["Relay", "RelayStats", "UpstreamAddress"]

log = logging.getLogger(__name__)

MAX_PREFIXES = 2048  # passed on at a time; a daemon disconnects a client with more than 4096 at once
MAX_LABEL_SETS = 256
MAX_TOPICS = 4096  # whose origin is remembered
TICK_S = 0.5
REPORT_EVERY_S = 10.0

UpstreamAddress = tuple[str, bytes]
"""A daemon's publish.endpoint, and its public key; empty where it has none."""


@dataclass(slots=True)
class RelayStats:
    """Counted by the relay's thread; a reader in another thread sees each number whole."""

    connected: int = 0  # daemons that deliver now
    subscribers: int = 0
    messages: int = 0  # passed on, each once, however many subscribers take it
    bad: int = 0  # from daemons: not formed as a message of the protocol
    snapshots: int = 0  # answered
    refused: int = 0  # snapshot requests that were not understood
    denied: int = 0  # keys that are not listed
    disconnected: int = 0  # connections ended by us


class Relay:
    """Owns all sockets, in the thread that calls run(). stop() may come from any thread, or a signal."""

    def __init__(
        self,
        upstreams: Sequence[UpstreamAddress],
        config: PublishConfig,
        notify: Callable[..., None] = lambda *_: None,
        watchdog_s: float | None = None,
    ) -> None:
        """config: the sockets for subscribers; its secret key is also the one shown to daemons with keys.

        notify passes assignments to systemd (Service.notify); it is called at least once in watchdog_s.
        """
        if not upstreams:
            raise UsageError("relay: name at least one daemon's publish.endpoint")
        doubled = sorted({e for e, _ in upstreams if [u for u, _ in upstreams].count(e) > 1})
        if doubled:
            raise UsageError(f"relay: {', '.join(doubled)} is named twice")
        if any(key for _, key in upstreams) and not config.curve_secret_key_file:
            raise UsageError(
                "relay: a daemon with a key requires ours, too; set publish.curve_secret_key_file"
            )
        self.endpoint = ""  # where it really is, once ready
        self.snapshot_endpoint = ""
        self.ready = threading.Event()
        self.stats = RelayStats()
        self.run_id = secrets.randbelow(2**53 - 1) + 1
        self._addresses = list(upstreams)
        self._config = config
        self._notify = notify
        self._tick_s = TICK_S if watchdog_s is None else min(TICK_S, watchdog_s / 4)
        self._passed_on: set[bytes] = set()  # prefixes that are subscribed to at the daemons
        self._label_sets: dict[bytes, list[bytes]] = {}  # the last message of each, by its topic
        self._origin: dict[bytes, Upstream] = {}  # which daemon a topic came from last
        self._rounds = Rounds()
        self._full = False  # it was logged that there are too many prefixes
        self._thread = SocketThread("relay", self._relay)

    def run(self) -> None:
        """Relay until stop(). Raises ConfigError, PublishError and UsageError before it begins."""
        self._thread.run()

    def stop(self) -> None:
        """Ask run() to end; returns at once."""
        self._thread.stop()

    def _relay(self, thread: SocketThread) -> None:
        secret = self._secret()
        asked: set[bytes] = set()  # prefixes with a new subscriber, that others had already

        def on_subscription(subscribing: bool, prefix: bytes) -> None:
            if self._passed_on_already(upstreams, subscribing, prefix):
                asked.add(prefix)

        def on_request(asker: Asker, prefixes: list[bytes]) -> None:
            if not self._rounds.ask(asker, prefixes):
                sockets.no_answer(asker)

        sockets = MaskSockets(thread, self._config, on_subscription, on_request)
        upstreams: list[Upstream] = []
        for address in self._addresses:
            upstreams.append(
                Upstream(
                    thread, *address, secret,
                    lambda upstream, message: self._pass_on(sockets, upstream, message),
                    lambda upstream, messages: self._rounds.answer(upstreams.index(upstream), messages),
                    self._bring_events,
                )
            )  # fmt: skip
        self.endpoint, self.snapshot_endpoint = sockets.endpoint, sockets.snapshot_endpoint
        log.info("relay: publishing on %s", self.endpoint)
        self.ready.set()
        self._notify("READY=1", "STATUS=waiting for the daemons")
        try:
            self._serve(thread, sockets, upstreams, asked)
        finally:
            self._notify("STOPPING=1", "STATUS=stopping")

    def _secret(self) -> bytes | None:
        path = self._config.curve_secret_key_file
        return read_key(path, "publish.curve_secret_key_file") if path else None

    def _serve(
        self, thread: SocketThread, sockets: MaskSockets, upstreams: Sequence[Upstream], asked: set[bytes]
    ) -> None:
        tick_at_s, report_at_s, reported = 0.0, time.monotonic() + REPORT_EVERY_S, 0
        while not thread.stopping:
            wait_s = self._rounds.wait_s(time.monotonic(), self._tick_s)
            thread.loop.poll(wait_s * 1000)
            self._repeat_labels(sockets, asked)
            self._ask(upstreams, sockets)
            now_s = time.monotonic()
            if now_s >= tick_at_s:
                tick_at_s = now_s + self._tick_s
                self._count(sockets, upstreams)
                self._notify("WATCHDOG=1")
            if now_s >= report_at_s:
                text = self._summary((self.stats.messages - reported) / REPORT_EVERY_S, upstreams)
                report_at_s, reported = now_s + REPORT_EVERY_S, self.stats.messages
                log.info("relay: %s", text)
                self._notify(f"STATUS={text}")

    def _pass_on(self, sockets: MaskSockets, upstream: Upstream, message: list[bytes]) -> None:
        topic = message[0] if len(message) >= 2 else b""
        if not topic:
            self.stats.bad += 1
            return
        if topic.startswith(b"labels/"):
            if topic in self._label_sets or len(self._label_sets) < MAX_LABEL_SETS:
                self._label_sets[topic] = message
        elif self._origin.get(topic) is not upstream:
            self._note_origin(topic, upstream)
        sockets.subscribers.publish(message)
        self.stats.messages += 1

    def _bring_events(self, upstream: Upstream) -> None:
        """A daemon is back: bring the subscribers what happened meanwhile. They drop what they know."""
        asked = [EVENTS if EVENTS.startswith(p) else p for p in self._passed_on
                 if p.startswith(EVENTS) or EVENTS.startswith(p)]  # fmt: skip
        if asked:
            upstream.catch_up([EVENTS] if EVENTS in asked or len(asked) > MOST_ASKED else asked)

    def _note_origin(self, topic: bytes, upstream: Upstream) -> None:
        before = self._origin.get(topic)
        if before is not None and before.connected and not before.duplicate:
            before.duplicate = upstream.duplicate = True
            log.warning(
                "%s: comes from %s and from %s; give each stream of a site its own name",
                topic.decode(errors="replace"), before.endpoint, upstream.endpoint,
            )  # fmt: skip
        if before is not None or len(self._origin) < MAX_TOPICS:
            self._origin[topic] = upstream

    def _passed_on_already(self, upstreams: Iterable[Upstream], subscribing: bool, prefix: bytes) -> bool:
        """Subscribe at the daemons to what is new, end what has ended; whether it is no news to them."""
        if prefix in self._passed_on:
            if subscribing:
                return True
            self._passed_on.remove(prefix)
            for upstream in upstreams:
                upstream.masks.unsubscribe(prefix)
        elif subscribing and self._has_room():
            self._passed_on.add(prefix)
            for upstream in upstreams:
                upstream.masks.subscribe(prefix)
        return False

    def _repeat_labels(self, sockets: MaskSockets, asked: set[bytes]) -> None:
        """The label sets, for those who have subscribed to what others had already."""
        for topic, message in self._label_sets.items() if asked else ():
            if any(topic.startswith(prefix) for prefix in asked):
                sockets.subscribers.publish(message)
        asked.clear()

    def _has_room(self) -> bool:
        if len(self._passed_on) < MAX_PREFIXES:
            return True
        if not self._full:
            log.warning(
                "relay: more than %d different topics requested; further ones are ignored", MAX_PREFIXES
            )
        self._full = True
        return False

    def _ask(self, upstreams: Sequence[Upstream], sockets: MaskSockets) -> None:
        """Carry the round of snapshots on as far as possible now."""
        now_s = time.monotonic()
        for asker, messages in self._rounds.answered(now_s):
            sockets.answer(asker, self.run_id, messages)
        if not self._rounds.running:
            for upstream in upstreams:
                upstream.end_asking()  # those that were too late
            connected = [n for n, upstream in enumerate(upstreams) if upstream.connected]
            for prefixes in self._rounds.begin(connected, now_s):
                for number in connected:
                    upstreams[number].ask(prefixes)

    def _count(self, sockets: MaskSockets, upstreams: Sequence[Upstream]) -> None:
        self.stats.connected = sum(upstream.connected for upstream in upstreams)
        self.stats.subscribers = len(sockets.masks.clients)
        self.stats.denied, self.stats.disconnected = sockets.guard.denied, sockets.guard.disconnected
        self.stats.snapshots, self.stats.refused = sockets.answered, sockets.refused

    def _summary(self, per_s: float, upstreams: Sequence[Upstream]) -> str:
        away = ", ".join(u.endpoint for u in upstreams if not u.connected)
        return (
            f"{self.stats.connected} of {len(upstreams)} daemons, {self.stats.subscribers} subscribers, "
            f"{per_s:.1f} messages/s" + (f"; not connected: {away}" if away else "")
        )
