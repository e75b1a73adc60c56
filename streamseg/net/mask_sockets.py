"""What subscribers of a daemon or a relay connect to: XPUB for masks, ROUTER for snapshots."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

import zmq

from streamseg.config import PublishConfig
from streamseg.errors import WireError
from streamseg.net import options
from streamseg.net.endpoints import bind_pair, received, send_now, split_address
from streamseg.net.guard import ConnectionGuard
from streamseg.net.socket_thread import SocketThread
from streamseg.wire import parse_snapshot_request, snapshot_reply

log = logging.getLogger(__name__)

LINGER_MS = 1000  # how long closing waits for the last masks to leave; a stalled subscriber costs that much
REQUESTS_AT_ONCE = 64  # subscriptions or snapshot requests taken before the thread looks at masks again


class MaskSockets:
    """Both sockets and their connection guard, opened in a socket thread and closed with it."""

    def __init__(self, thread: SocketThread, config: PublishConfig) -> None:
        """Binds. Raises ConfigError for bad keys, PublishError for an endpoint that cannot be bound."""
        self.masks = thread.socket(zmq.XPUB, LINGER_MS)
        self.snapshots = thread.socket(zmq.ROUTER)
        self.guard = ConnectionGuard(config, thread.context)
        thread.on_close(self.guard.close)
        self.refused = 0  # requests that were not understood
        self.answered = 0
        for sock in (self.masks, self.snapshots):
            options.publish(sock, config.queue)
            self.guard.guard(sock)
        self.endpoint, self.snapshot_endpoint = bind_pair(
            self.masks, self.snapshots, config.endpoint, config.snapshot_endpoint, thread.paths
        )

    def subscriptions(self) -> Iterator[tuple[bool, bytes]]:
        """What has arrived: (True, prefix) for a new subscription, (False, prefix) when its last one ended.

        libzmq reports every subscription, also one of a prefix that others have (XPUB_VERBOSE).
        """
        for frames in received(self.masks, REQUESTS_AT_ONCE):
            event = frames[0].bytes
            subscribing = event[:1] == b"\x01"
            if len(frames) != 1 or not self.guard.allow(self.masks, frames[0], subscribing=subscribing):
                continue
            if event[:1] in (b"\x00", b"\x01"):
                yield subscribing, event[1:]

    def requests(self) -> Iterator[tuple[list[bytes], list[bytes]]]:
        """(address, topic prefixes) of each snapshot request that has arrived."""
        for frames in received(self.snapshots, REQUESTS_AT_ONCE):
            if not self.guard.allow(self.snapshots, frames[-1], subscribing=False):
                continue
            address, request = split_address(frames)
            try:
                yield address, parse_snapshot_request(request)
            except WireError as error:
                self.refused += 1
                log.debug("snapshot request refused: %s", error)

    def answer(self, address: list[bytes], run: int, messages: Sequence[list[bytes]]) -> None:
        """Send a snapshot; a client that does not read gets none, and may ask again."""
        self.answered += send_now(self.snapshots, [*address, *snapshot_reply(run, messages)])
