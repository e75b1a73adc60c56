"""The thread behind a subscription: it owns the sockets and empties them into the inbox."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Sequence

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamseg.client.inbox import Inbox
from streamseg.errors import StreamsegError, UsageError, WireError
from streamseg.net.client_keys import ClientKeys, refusal
from streamseg.net.options import notice_dead_peers
from streamseg.wire import (
    MAX_PART,
    MAX_PREFIXES,
    default_snapshot_endpoint,
    parse_snapshot_reply,
    snapshot_request,
)

log = logging.getLogger(__name__)

MESSAGES_AT_ONCE = 256  # taken from the socket between two looks at the others
TELL_S = 3.0  # without a connection, before it is said
SILENT_S = 5.0  # libzmq tries again at least every 2 s; after this long without a try, we connect anew

HANDSHAKE_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)


class Receiver:
    """The thread that owns the SUB socket and the DEALER that asks for snapshots."""

    def __init__(
        self,
        endpoint: str,
        topics: Sequence[bytes],
        snapshot: bool | str,
        inbox: Inbox,
        keys: ClientKeys | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.inbox = inbox
        self.connected = False
        self._keys = keys
        self._told = False  # why there is no connection, until there is one
        self._last_event = 0
        self._lost_s = 0.0
        self._topics = topics
        kinds = sorted({topic.partition(b"/")[0] + b"/" for topic in topics})
        self._request = snapshot_request(topics if len(topics) <= MAX_PREFIXES else kinds)
        default = default_snapshot_endpoint(endpoint)  # looks at the endpoint's form in any case
        self._ask_at = snapshot if isinstance(snapshot, str) else default if snapshot else None
        self._error: StreamsegError | None = None
        self._begun = threading.Event()
        self._wake_lock = threading.Lock()  # guards _wake_fd, which another file may get once it is closed
        self._wake_fd = -1
        self._thread = threading.Thread(target=self._live, name="subscribe", daemon=True)
        self._thread.start()
        self._begun.wait()
        self.check()

    def check(self) -> None:
        """Raise what the thread died of, if it did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.write(self._wake_fd, b"!")
        self._thread.join()

    def _live(self) -> None:
        try:
            with contextlib.ExitStack() as owned:
                self._open_and_receive(owned)
        except StreamsegError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - handed on to the reader, through check()
            self._error = StreamsegError(f"{self.endpoint}: receiving failed: {error}")
            self._error.__cause__ = error
        self.connected = False
        self.inbox.close()
        self._begun.set()

    def _open_and_receive(self, owned: contextlib.ExitStack) -> None:
        context = zmq.Context()
        owned.callback(context.destroy, linger=0)  # and what a failure left open: term() would wait
        masks = context.socket(zmq.SUB)
        owned.callback(masks.close, linger=0)
        configure(masks, self._keys)
        masks.setsockopt(
            zmq.SNDHWM, 0
        )  # of subscriptions: libzmq drops those that find no room, and says nothing
        monitor = masks.get_monitor_socket()
        owned.callback(monitor.close, linger=0)
        owned.callback(masks.disable_monitor)
        snapshots = context.socket(zmq.DEALER)
        owned.callback(snapshots.close, linger=0)
        configure(snapshots, self._keys)
        wake_fd, self._wake_fd = os.pipe2(os.O_CLOEXEC)
        owned.callback(os.close, wake_fd)
        owned.callback(self._stop_waking)
        for topic in self._topics:
            masks.subscribe(topic)
        connect(masks, self.endpoint)
        if self._ask_at is not None:
            connect(snapshots, self._ask_at)
        self._begun.set()
        poller = zmq.Poller()
        for source in (masks, monitor, snapshots, wake_fd):
            poller.register(source, zmq.POLLIN)
        heard_s = self._lost_s = time.monotonic()
        while True:
            ready = dict(poller.poll(None if self.connected else int(SILENT_S * 250)))
            if wake_fd in ready:
                return
            if not self.connected and time.monotonic() - self._lost_s > TELL_S:
                self._tell(_silence(self._last_event))
            if monitor in ready:
                heard_s = time.monotonic()
                self._last_event = recv_monitor_message(monitor)["event"]
                self._follow(self._last_event, snapshots)
            elif not self.connected and time.monotonic() - heard_s > SILENT_S:
                # libzmq gives a connection up for good when the other side broke the protocol or MAXMSGSIZE.
                reconnect(masks, self.endpoint)
                heard_s = time.monotonic()
            if snapshots in ready:
                self._merge_snapshot(snapshots.recv_multipart())
            if masks in ready:
                self._drain(masks)

    def _follow(self, event: int, snapshots: zmq.Socket[bytes]) -> None:
        """Note what happened to the connection, and ask for a snapshot whenever there is a new one."""
        if event in (zmq.EVENT_DISCONNECTED, *HANDSHAKE_FAILED):
            self._lost_s = time.monotonic() if self.connected else self._lost_s
            self.connected = False
            if why := refusal(event, self._keys):
                self._tell(why)
        elif event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected = True
            self._told = False
            if self._ask_at is None:
                return
            try:
                snapshots.send_multipart(self._request, zmq.DONTWAIT)
            except zmq.Again:  # given up by libzmq, too, or full of requests that were never sent
                reconnect(snapshots, self._ask_at)
                with contextlib.suppress(zmq.Again):
                    snapshots.send_multipart(self._request, zmq.DONTWAIT)

    def _tell(self, why: str) -> None:
        """Log why there is no connection, once until there is one; connecting goes on."""
        if not self._told:
            log.warning("%s: %s", self.endpoint, why)
            self._told = True

    def _drain(self, masks: zmq.Socket[bytes]) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(MESSAGES_AT_ONCE):
                self.inbox.put(masks.recv_multipart(zmq.DONTWAIT))

    def _merge_snapshot(self, parts: list[bytes]) -> None:
        try:
            messages = parse_snapshot_reply(parts)
        except WireError:
            self.inbox.put_bad()
            return
        for message in messages:
            self.inbox.put(message, snapshot=True)

    def _stop_waking(self) -> None:
        with self._wake_lock:
            os.close(self._wake_fd)
            self._wake_fd = -1


def _silence(last_event: int) -> str:
    """What it means that no connection came about, by what happened last; with the way out."""
    if last_event == zmq.EVENT_CONNECTED:
        return "what answers there does not speak ZeroMQ; is it the daemon's publish.endpoint?"
    if last_event == zmq.EVENT_DISCONNECTED:
        return "hangs up at once; is it the daemon's publish.endpoint, not the snapshot port above it?"
    return "no daemon answers; does it run, with this publish.endpoint, and does the firewall let us through?"


def connect(sock: zmq.Socket[bytes], endpoint: str) -> None:
    """Connect a socket; raises UsageError for what is no endpoint."""
    sock.setsockopt(zmq.IPV6, int(endpoint.startswith("tcp://[")))
    try:
        sock.connect(endpoint)
    except zmq.ZMQError as error:
        raise UsageError(f"endpoint: must be tcp://HOST:PORT or ipc://PATH, is {endpoint!r}") from error


def reconnect(sock: zmq.Socket[bytes], endpoint: str) -> None:
    """Begin anew where libzmq has given up."""
    with contextlib.suppress(zmq.ZMQError):  # it may be gone already
        sock.disconnect(endpoint)
    sock.connect(endpoint)


def configure(sock: zmq.Socket[bytes], keys: ClientKeys | None) -> None:
    """Set up a socket that connects to a daemon; before it does."""
    if keys is not None:
        keys.use(sock)
    sock.setsockopt(zmq.RCVHWM, 16)  # freshness comes from draining; this bounds memory while we are stopped
    sock.setsockopt(zmq.SNDHWM, 4)
    sock.setsockopt(zmq.RCVBUF, 64 << 10)
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_PART)
    sock.setsockopt(zmq.RECONNECT_IVL, 100)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, 2_000)
    notice_dead_peers(sock)
