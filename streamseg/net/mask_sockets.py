"""What subscribers of a daemon or a relay connect to: XPUB for masks, ROUTER for snapshots."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from streamseg.config import PublishConfig
from streamseg.errors import WireError
from streamseg.net import options
from streamseg.net.endpoints import bind_pair
from streamseg.net.guard import ConnectionGuard
from streamseg.net.io import Outgoing, Subscribers
from streamseg.net.server import Client, Server
from streamseg.net.socket_thread import SocketThread
from streamseg.wire import parse_snapshot_request, snapshot_reply
from streamseg.wire.snapshot import MAX_PREFIX, SNAPSHOT

log = logging.getLogger(__name__)

LINGER_S = 1.0  # how long closing waits for the last masks to leave; a stalled subscriber costs that much
MAX_SUBSCRIPTIONS = 4096  # of one connection at once; a client that asks for more is disconnected
ALL_SUBSCRIPTIONS = 16_384  # of all connections at once, beyond RESERVED for each of them
RESERVED = 32


class Asker:
    """Who asked for a snapshot; answer() it."""

    def __init__(self, client: Client, envelope: list[bytes]) -> None:
        self.client, self.envelope = client, envelope


class MaskSockets:
    """Both sockets and their connection guard, opened in a socket thread and closed with it.

    on_subscription(True, prefix) is called for each new subscription, also to a prefix that others have, and
    on_subscription(False, prefix) when its last one has ended; on_request(asker, prefixes) for each request
    of a snapshot, and is to be followed by answer() or no_answer(), now or later.
    """

    def __init__(
        self,
        thread: SocketThread,
        config: PublishConfig,
        on_subscription: Callable[[bool, bytes], None],
        on_request: Callable[[Asker, list[bytes]], None],
    ) -> None:
        """Binds. Raises ConfigError for bad keys, PublishError for an endpoint that cannot be bound."""
        self.refused = 0  # requests that were not understood
        self.answered = 0
        self.guard = ConnectionGuard(thread.loop, config)
        self.subscribers = Subscribers(config.queue)
        self._on_subscription, self._on_request = on_subscription, on_request
        self._prefixes: dict[Client, set[bytes]] = {}
        self._shared = 0  # subscriptions beyond RESERVED
        self.masks = Server(
            thread, self.guard, b"XPUB", (b"SUB", b"XSUB"), options.SUBSCRIPTION,
            self._subscription, self._gone, linger_s=LINGER_S,
        )  # fmt: skip
        self.snapshots = Server(
            thread, self.guard, b"ROUTER", (b"DEALER", b"REQ", b"ROUTER"), options.SNAPSHOT_REQUEST,
            self._request, answers=True,
        )  # fmt: skip
        self.endpoint, self.snapshot_endpoint = bind_pair(
            self.masks, self.snapshots, config.endpoint, config.snapshot_endpoint
        )

    def answer(self, asker: Asker, run: int, messages: Sequence[list[bytes]]) -> None:
        """Send a snapshot; its client may then ask again."""
        reply = Outgoing([*asker.envelope, *snapshot_reply(run, messages)])
        self.answered += self.snapshots.send(asker.client, reply)
        self.guard.on_change()
        self.snapshots.answered(asker.client)

    def no_answer(self, asker: Asker) -> None:
        """There are too many; its client may ask again."""
        self.snapshots.answered(asker.client)

    def _subscription(self, client: Client, message: list[bytes]) -> bool:
        event = message[0]
        prefix = event[1:]
        if len(message) > 1 or len(prefix) > MAX_PREFIX:  # longer than any topic, so nothing begins with it
            return False
        own = self._prefixes.setdefault(client, set())
        if event[:1] == b"\x00":
            self._unsubscribe(client, own, prefix)
        elif event[:1] == b"\x01":
            if prefix not in own:
                if not self._has_room(len(own)):
                    self.guard.hang_up(client, f"more than {MAX_SUBSCRIPTIONS} subscriptions")
                    return False
                self._shared += len(own) >= RESERVED
                own.add(prefix)
                self.subscribers.add(prefix, client.out)
            self._on_subscription(True, prefix)
        return False

    def _has_room(self, own: int) -> bool:
        return own < RESERVED or (own < MAX_SUBSCRIPTIONS and self._shared < ALL_SUBSCRIPTIONS)

    def _unsubscribe(self, client: Client, own: set[bytes], prefix: bytes) -> None:
        if prefix not in own:
            return
        own.remove(prefix)
        self._shared -= len(own) >= RESERVED
        if self.subscribers.remove(prefix, client.out):
            self._on_subscription(False, prefix)

    def _gone(self, client: Client) -> None:
        own = self._prefixes.pop(client, set())
        for prefix in list(own):
            self._unsubscribe(client, own, prefix)

    def _request(self, client: Client, message: list[bytes]) -> bool:
        # What a REQ, and a proxy on the way, put in front of a request goes in front of its answer.
        begins = message.index(SNAPSHOT) if SNAPSHOT in message else 0
        envelope = message[:begins]
        try:
            prefixes = parse_snapshot_request(message[begins:])
        except WireError as error:
            self.refused += 1
            self.guard.on_change()
            log.debug("snapshot request refused: %s", error)
            return False
        self._on_request(Asker(client, envelope), prefixes)
        return True
