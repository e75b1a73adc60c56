"""A site's masks to many subscribers over one link: XSUB to each daemon, XPUB to whoever subscribes here.

Messages go through unread, with the daemons' own numbers and times. What nobody asks for here is not asked
for at the daemons, so it is not computed there and does not travel. A snapshot is asked for at the daemons,
too, so that a late joiner has the same last masks here as there.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import zmq

from streamseg.config import PublishConfig
from streamseg.errors import UsageError, WireError
from streamseg.net.curve_keys import read_key
from streamseg.net.endpoints import bind_pair
from streamseg.net.guard import ConnectionGuard
from streamseg.publish.publisher import configure, received
from streamseg.relay.rounds import Rounds
from streamseg.relay.upstream import Upstream
from streamseg.wire import parse_snapshot_request, snapshot_reply
from streamseg.wire.snapshot import MAX_PREFIX

__all__ = ["Relay", "RelayStats", "UpstreamAddress"]

log = logging.getLogger(__name__)

MOST_PREFIXES = 2048  # passed on at once; a daemon hangs up on whoever has 4096 subscriptions
MOST_LABEL_SETS = 256
MOST_TOPICS = 4096  # whose origin is remembered
MESSAGES_AT_ONCE = 256  # taken from one daemon between two looks at the others
TICK_S = 0.5
REPORT_EVERY_S = 10.0
LINGER_MS = 1000

UpstreamAddress = tuple[str, bytes]
"""A daemon's publish.endpoint, and its public key; empty where it asks for none."""


@dataclass(slots=True)
class RelayStats:
    """Counted by the relay's thread; whoever reads sees each number whole."""

    connected: int = 0  # daemons that deliver now
    subscribers: int = 0
    messages: int = 0  # passed on, each once, however many subscribers take it
    bad: int = 0  # from daemons: no message of the protocol by its form
    snapshots: int = 0  # answered
    refused: int = 0  # snapshot requests that were not understood
    denied: int = 0  # keys that are not listed
    hung_up: int = 0  # connections ended by us


class Relay:
    """Owns all sockets, in the thread that calls run(). stop() may come from any thread, or a signal."""

    def __init__(
        self,
        upstreams: Sequence[UpstreamAddress],
        config: PublishConfig,
        tell: Callable[..., None] = lambda *_: None,
        watchdog_s: float | None = None,
    ) -> None:
        """config: the doors to the subscribers; its secret key is also what we show to daemons that have one.

        tell passes assignments to systemd (Service.notify); within watchdog_s it is told that we are alive.
        """
        if not upstreams:
            raise UsageError("relay: name at least one daemon's publish.endpoint")
        doubled = sorted({e for e, _ in upstreams if [u for u, _ in upstreams].count(e) > 1})
        if doubled:
            raise UsageError(f"relay: {', '.join(doubled)} is named twice")
        if any(key for _, key in upstreams) and not config.curve_secret_key_file:
            raise UsageError("relay: a daemon with a key wants ours, too; set publish.curve_secret_key_file")
        self.endpoint = ""  # where it really is, once ready
        self.snapshot_endpoint = ""
        self.ready = threading.Event()
        self.stats = RelayStats()
        self.run_id = secrets.randbelow(2**53 - 1) + 1
        self._addresses = list(upstreams)
        self._config = config
        self._tell = tell
        self._tick_s = TICK_S if watchdog_s is None else min(TICK_S, watchdog_s / 4)
        self._stopping = False
        self._wake_lock = threading.RLock()  # guards _wake_fd; a signal may come while it is held
        self._wake_fd = -1
        self._passed_on: set[bytes] = set()  # prefixes that are subscribed to at the daemons
        self._label_sets: dict[bytes, list[zmq.Frame]] = {}  # the last message of each, by its topic
        self._origin: dict[bytes, Upstream] = {}  # which daemon a topic came from last
        self._rounds = Rounds()
        self._full = False  # said that there are too many prefixes

    def run(self) -> None:
        """Relay until stop(). Raises ConfigError, PublishError and UsageError before it begins."""
        with contextlib.ExitStack() as owned:
            context = zmq.Context()
            owned.callback(context.term)
            masks, snapshots = context.socket(zmq.XPUB), context.socket(zmq.ROUTER)
            owned.callback(masks.close, linger=LINGER_MS)
            owned.callback(snapshots.close, linger=0)
            wake_fd, self._wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
            owned.callback(os.close, wake_fd)
            owned.callback(self._stop_waking)
            doors = ConnectionGuard(self._config, context)
            owned.callback(doors.close)
            for sock in (masks, snapshots):
                configure(sock, self._config.queue)
                doors.guard(sock)
            masks.setsockopt(zmq.XPUB_VERBOSE, 1)  # each subscriber to labels/ is told, not only the first
            secret = self._secret()
            upstreams = [Upstream(context, *address, secret) for address in self._addresses]
            for upstream in upstreams:
                owned.callback(upstream.close)
                upstream.open()
            self.endpoint, self.snapshot_endpoint = bind_pair(
                masks, snapshots, self._config.endpoint, self._config.snapshot_endpoint
            )
            log.info("relay: publishing on %s", self.endpoint)
            self.ready.set()
            self._tell("READY=1", "STATUS=waiting for the daemons")
            try:
                self._serve(masks, snapshots, wake_fd, doors, upstreams)
            finally:
                self._tell("STOPPING=1", "STATUS=stopping")

    def stop(self) -> None:
        """Ask run() to end; returns at once."""
        self._stopping = True
        with self._wake_lock, contextlib.suppress(BlockingIOError):
            if self._wake_fd >= 0:
                os.write(self._wake_fd, b"!")

    def _secret(self) -> bytes | None:
        path = self._config.curve_secret_key_file
        return read_key(path, "publish.curve_secret_key_file") if path else None

    def _stop_waking(self) -> None:
        with self._wake_lock:
            os.close(self._wake_fd)
            self._wake_fd = -1

    def _serve(
        self,
        masks: zmq.Socket[bytes],
        snapshots: zmq.Socket[bytes],
        wake_fd: int,
        doors: ConnectionGuard,
        upstreams: Sequence[Upstream],
    ) -> None:
        poller = zmq.Poller()
        doors.register(poller)
        for source in (masks, snapshots, wake_fd):
            poller.register(source, zmq.POLLIN)
        for upstream in upstreams:
            upstream.register(poller)
        tick_at_s, report_at_s, reported = 0.0, time.monotonic() + REPORT_EVERY_S, 0
        while not self._stopping:
            wait_s = self._rounds.wait_s(time.monotonic(), self._tick_s)
            ready = dict(poller.poll(int(wait_s * 1000)))
            doors.serve()
            if masks in ready:
                self._take_subscriptions(masks, doors, upstreams)
            for upstream in upstreams:
                upstream.follow()
                if upstream.masks in ready:
                    self._pass_on(masks, upstream)
            self._take_requests(snapshots, doors)
            self._ask(poller, upstreams, snapshots)
            now_s = time.monotonic()
            if now_s >= tick_at_s:
                tick_at_s = now_s + self._tick_s
                self._count(doors, masks, upstreams)
                self._tell("WATCHDOG=1")
            if now_s >= report_at_s:
                text = self._words((self.stats.messages - reported) / REPORT_EVERY_S, upstreams)
                report_at_s, reported = now_s + REPORT_EVERY_S, self.stats.messages
                log.info("relay: %s", text)
                self._tell(f"STATUS={text}")

    def _pass_on(self, masks: zmq.Socket[bytes], upstream: Upstream) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(MESSAGES_AT_ONCE):
                frames = upstream.masks.recv_multipart(zmq.DONTWAIT, copy=False)
                topic = frames[0].bytes if 2 <= len(frames) <= 4 and len(frames[0]) <= MAX_PREFIX else b""
                if not topic:
                    self.stats.bad += 1
                    continue
                if topic.startswith(b"labels/"):
                    if topic in self._label_sets or len(self._label_sets) < MOST_LABEL_SETS:
                        self._label_sets[topic] = frames
                elif self._origin.get(topic) is not upstream:
                    self._note_origin(topic, upstream)
                masks.send_multipart(frames, copy=False)
                self.stats.messages += 1

    def _note_origin(self, topic: bytes, upstream: Upstream) -> None:
        before = self._origin.get(topic)
        if before is not None and before.connected and not before.doubled:
            before.doubled = upstream.doubled = True
            log.warning(
                "%s: comes from %s and from %s; give each stream of a site its own name",
                topic.decode(errors="replace"), before.endpoint, upstream.endpoint,
            )  # fmt: skip
        if before is not None or len(self._origin) < MOST_TOPICS:
            self._origin[topic] = upstream

    def _take_subscriptions(
        self, masks: zmq.Socket[bytes], doors: ConnectionGuard, upstreams: Iterable[Upstream]
    ) -> None:
        asked: set[bytes] = set()
        for frames in received(masks):
            event = frames[0].bytes
            subscribing, prefix = event[:1] == b"\x01", event[1:]
            if len(frames) != 1 or not doors.may_ask(masks, frames[0], subscribing=subscribing):
                continue
            if event[:1] == b"\x00" and prefix in self._passed_on:
                self._passed_on.remove(prefix)
                self._tell_daemons(upstreams, event)
            elif subscribing and prefix in self._passed_on:
                asked.add(prefix)
            elif subscribing and len(prefix) <= MAX_PREFIX and self._has_room():
                self._passed_on.add(prefix)
                self._tell_daemons(upstreams, event)
        for topic, message in self._label_sets.items():
            if any(topic.startswith(prefix) for prefix in asked):
                masks.send_multipart(message, copy=False)

    def _has_room(self) -> bool:
        if len(self._passed_on) < MOST_PREFIXES:
            return True
        if not self._full:
            log.warning("relay: more than %d different topics are asked for; no more are", MOST_PREFIXES)
        self._full = True
        return False

    def _tell_daemons(self, upstreams: Iterable[Upstream], event: bytes) -> None:
        for upstream in upstreams:
            upstream.masks.send(event)

    def _take_requests(self, snapshots: zmq.Socket[bytes], doors: ConnectionGuard) -> None:
        for frames in received(snapshots):
            if not doors.may_ask(snapshots, frames[-1], subscribing=False):
                continue
            parts = [frame.bytes for frame in frames]
            # A REQ socket puts an empty part before its request and expects it back.
            address = parts[:2] if parts[1:2] == [b""] else parts[:1]
            try:
                self._rounds.ask(address, parse_snapshot_request(parts[len(address) :]))
            except WireError as error:
                self.stats.refused += 1
                log.debug("snapshot request refused: %s", error)

    def _ask(self, poller: zmq.Poller, upstreams: Sequence[Upstream], snapshots: zmq.Socket[bytes]) -> None:
        """Take a round of snapshots as far as it goes now."""
        now_s = time.monotonic()
        for number, upstream in enumerate(upstreams):
            if (messages := upstream.answer()) is not None:
                upstream.end_asking(poller)
                self._rounds.answer(number, messages)
        for address, messages in self._rounds.answered(now_s):
            with contextlib.suppress(zmq.Again):  # the asker does not read; it may ask again
                snapshots.send_multipart([*address, *snapshot_reply(self.run_id, messages)], zmq.DONTWAIT)
                self.stats.snapshots += 1
        if not self._rounds.running:
            for upstream in upstreams:
                upstream.end_asking(poller)  # those that were too late
            there = [n for n, upstream in enumerate(upstreams) if upstream.connected]
            for prefixes in self._rounds.begin(there, now_s):
                for number in there:
                    upstreams[number].ask(prefixes, poller)

    def _count(self, doors: ConnectionGuard, masks: zmq.Socket[bytes], upstreams: Sequence[Upstream]) -> None:
        self.stats.connected = sum(upstream.connected for upstream in upstreams)
        self.stats.subscribers = doors.connections_of(masks)
        self.stats.denied, self.stats.hung_up = doors.denied, doors.hung_up

    def _words(self, per_s: float, upstreams: Sequence[Upstream]) -> str:
        away = ", ".join(u.endpoint for u in upstreams if not u.connected)
        return (
            f"{self.stats.connected} of {len(upstreams)} daemons, {self.stats.subscribers} subscribers, "
            f"{per_s:.1f} messages/s" + (f"; away: {away}" if away else "")
        )
