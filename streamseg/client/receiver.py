"""The thread behind a subscription: it owns the sockets and empties them into the inbox."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Collection, Sequence
from typing import Protocol

from streamseg.client.unknown import UnknownStreams
from streamseg.errors import StreamsegError, WireError
from streamseg.net import options
from streamseg.net.connection import CLOSED, CONNECTED, Connection
from streamseg.net.curve_keys import ClientKeys
from streamseg.net.socket_thread import SocketThread
from streamseg.wire import (
    MAX_PREFIXES,
    default_snapshot_endpoint,
    parse_snapshot_reply,
    snapshot_request,
)

log = logging.getLogger(__name__)

ALL_STATES = b"status/"
LOG_AFTER_S = 3.0  # without a connection


class Sink(Protocol):
    """Where a receiver puts messages, from its thread; client.inbox.Inbox is one."""

    def put(self, parts: Sequence[bytes], *, snapshot: bool = False) -> None: ...
    def put_snapshot(self, messages: Sequence[Sequence[bytes]]) -> None: ...
    def put_bad(self) -> None: ...
    def close(self) -> None: ...


class Receiver:
    """The thread that owns the SUB connection and the DEALER that asks for snapshots.

    Every connection begins with a snapshot of all topics, each later subscribe() with one of its own; none
    where `snapshot` is False, and a text is the endpoint to ask at. Raises UsageError for a bad endpoint.
    """

    def __init__(
        self,
        endpoint: str,
        topics: Sequence[bytes],
        snapshot: bool | str,
        inbox: Sink,
        keys: ClientKeys | None = None,
        *,
        unknown: UnknownStreams | None = None,
        look: tuple[float, Callable[[bool, Callable[[], None]], None]] | None = None,
    ) -> None:
        """unknown: is fed by the inbox; until it is settled, the states of all streams are received.

        look: (seconds, what is called so often by the thread). It is told whether there is a connection,
        and given a function that asks for a snapshot of all topics again.
        """
        self.endpoint = endpoint
        self._unknown = unknown if unknown is not None and not unknown.settled else None
        self._inbox = inbox
        self._look = look
        self._keys = keys
        self._logged = False  # why there is no connection, until there is one
        self._topics: set[bytes] = set()
        every = [ALL_STATES] if self._unknown is not None else []
        self._changes = deque(
            (True, topic) for topic in [*topics, *every]
        )  # to be made: (subscribe or not, topic)
        default = default_snapshot_endpoint(endpoint)  # looks at the endpoint's form in any case
        self._ask_at = snapshot if isinstance(snapshot, str) else default if snapshot else None
        self._connection: Connection | None = None
        self._snapshots: Connection | None = None
        self._thread = SocketThread("subscribe", self._receive, self._explain)
        self._thread.start()

    @property
    def connected(self) -> bool:
        return self._connection is not None and self._connection.connected

    def subscribe(self, *topics: bytes) -> None:
        """Receive these topics, too, beginning with a snapshot of them. From any thread; does not wait."""
        self._changes.extend((True, topic) for topic in topics)
        self._thread.wake()

    def unsubscribe(self, *topics: bytes) -> None:
        """Receive these topics no more. From any thread; does not wait."""
        self._changes.extend((False, topic) for topic in topics)
        self._thread.wake()

    def check(self) -> None:
        """Raise the error that ended the thread, if one did."""
        self._thread.check()

    def stop(self) -> None:
        """Have the thread end soon; returns at once. From any thread."""
        self._thread.stop()

    def close(self) -> None:
        """End the thread; closing twice is fine."""
        self._thread.close()

    def _explain(self, error: Exception) -> StreamsegError:
        return StreamsegError(f"{self.endpoint}: receiving failed: {error}")

    def _receive(self, thread: SocketThread) -> None:
        thread.on_close(self._inbox.close)
        masks = Connection(
            thread.loop, b"SUB", self.endpoint, options.MASK, self._take, self._keys, self._follow
        )
        self._connection = masks
        thread.on_close(masks.close)
        if self._ask_at is not None:
            self._snapshots = Connection(
                thread.loop, b"DEALER", self._ask_at, options.SNAPSHOT_REPLY, self._merge_snapshot, self._keys
            )
            thread.on_close(self._snapshots.close)
        self._change(masks)
        thread.loop.later(LOG_AFTER_S, self._tell_silence)
        if self._look is not None:
            thread.loop.later(self._look[0], self._look_again)
        thread.opened()
        while not thread.stopping:
            thread.loop.poll()
            self._change(masks)
            self._settle()

    def _look_again(self) -> None:
        if self._look is not None:
            after_s, look = self._look
            look(self.connected, lambda: self._ask(self._topics))
            self._thread.loop.later(after_s, self._look_again)

    def _follow(self, was_connected: bool, refused: str) -> None:
        """Note what happened to the connection, and ask for a snapshot whenever there is a new one."""
        if self.connected:
            self._logged = False
            self._ask(self._topics)
            return
        if was_connected:
            self._thread.loop.later(LOG_AFTER_S, self._tell_silence)
        if refused:
            self._log_once(refused)

    def _tell_silence(self) -> None:
        """Log that there has been no connection for long."""
        if self._connection is not None and not self.connected:
            self._log_once(_silence(self._connection.last))

    def _change(self, masks: Connection) -> None:
        """Subscribe and unsubscribe as was asked for meanwhile."""
        new: set[bytes] = set()
        while self._changes:
            subscribing, topic = self._changes.popleft()
            if subscribing:
                masks.subscribe(topic)
                new.add(topic)
            else:
                masks.unsubscribe(topic)
                new.discard(topic)
                self._topics.discard(topic)
        self._topics |= new
        if new and self.connected:
            self._ask(new)

    def _ask(self, topics: Collection[bytes]) -> None:
        """Ask for the last messages of these topics; pictures and statuses have none."""
        topics = sorted(topic for topic in topics if not topic.startswith((b"picture/", b"status/")))
        if self._snapshots is None or not topics:
            return
        kinds = sorted({topic.partition(b"/")[0] + b"/" for topic in topics})
        self._snapshots.send(snapshot_request(topics if len(topics) <= MAX_PREFIXES else kinds))

    def _settle(self) -> None:
        """Stop looking for the streams that were named, once it is known whether they exist."""
        if self._unknown is None or not self._unknown.settled:
            return
        if self._unknown.text:
            log.warning("%s: %s", self.endpoint, self._unknown.text)
        self._unknown = None
        self.unsubscribe(ALL_STATES)

    def _log_once(self, why: str) -> None:
        """Log why there is no connection, once until there is one."""
        if not self._logged:
            log.warning("%s: %s", self.endpoint, why)
            self._logged = True

    def _take(self, message: list[bytes]) -> None:
        self._inbox.put(message)

    def _merge_snapshot(self, parts: list[bytes]) -> None:
        try:
            messages = parse_snapshot_reply(parts)
        except WireError:
            self._inbox.put_bad()
            return
        self._inbox.put_snapshot(messages)


def _silence(last: str) -> str:
    """Why there probably is no connection, by how far the last try came; with what to do."""
    if last == CONNECTED:
        return "the other end does not speak ZeroMQ; is it the daemon's publish.endpoint?"
    if last == CLOSED:
        return "closes the connection at once; is this publish.endpoint, not the snapshot port above it?"
    return "no daemon answers; does it run, with this publish.endpoint, and does the firewall let us through?"
