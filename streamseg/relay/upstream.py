"""The relay's side of one daemon."""

from __future__ import annotations

import logging
from collections.abc import Callable

from streamseg.errors import WireError
from streamseg.net import options
from streamseg.net.connection import Connection
from streamseg.net.curve_keys import ClientKeys
from streamseg.net.socket_thread import SocketThread
from streamseg.wire import default_snapshot_endpoint, parse_snapshot_reply, snapshot_request

log = logging.getLogger(__name__)

AGAIN_S = 1.0


class Upstream:
    """An XSUB that stays connected, and a DEALER for each snapshot. Belongs to one socket thread."""

    def __init__(
        self,
        thread: SocketThread,
        endpoint: str,
        server_key: bytes,
        secret: bytes | None,
        on_message: Callable[[Upstream, list[bytes]], None],
        on_snapshot: Callable[[Upstream, list[list[bytes]]], None],
        on_connected: Callable[[Upstream], None],
    ) -> None:
        """on_message takes what it publishes, on_snapshot the answer to ask().

        on_connected is called for each connection, and again a little later.

        server_key: the daemon's public key, empty where it has none; secret: our own.

        Connects, and stays so; raises UsageError for a bad endpoint.
        """
        self.endpoint = endpoint
        self.duplicate = False  # it was logged that one of its topics comes from another daemon, too
        self._loop = thread.loop
        self._on_message, self._on_snapshot, self._on_connected = on_message, on_snapshot, on_connected
        self._keys = ClientKeys(server_key, secret) if server_key and secret else None
        self._ask_at = default_snapshot_endpoint(endpoint)  # looks at the endpoint's form
        self._asking: Connection | None = None
        self._catching_up: Connection | None = None
        self._logged = ""  # why the daemon refused us
        self.masks = Connection(
            thread.loop, b"XSUB", endpoint, options.MASK, lambda message: on_message(self, message),
            self._keys, self._follow,
        )  # fmt: skip
        thread.on_close(self._close)

    @property
    def connected(self) -> bool:
        return self.masks.connected

    def ask(self, prefixes: list[bytes]) -> None:
        """Send a snapshot request, on a new connection: late answers must not arrive on it."""
        self.end_asking()
        self._asking = Connection(
            self._loop, b"DEALER", self._ask_at, options.SNAPSHOT_REPLY, self._answer, self._keys
        )
        self._asking.send(snapshot_request(prefixes))

    def end_asking(self) -> None:
        if self._asking is not None:
            self._asking.close()
            self._asking = None

    def catch_up(self, prefixes: list[bytes]) -> None:
        """Have what a snapshot brings of these topics passed on, as if it was published now."""
        self._end_catching_up()
        self._catching_up = Connection(
            self._loop, b"DEALER", self._ask_at, options.SNAPSHOT_REPLY, self._caught_up, self._keys
        )
        self._catching_up.send(snapshot_request(prefixes))

    def _caught_up(self, reply: list[bytes]) -> None:
        self._end_catching_up()
        try:
            for message in parse_snapshot_reply(reply):
                self._on_message(self, message)
        except WireError as error:
            log.debug("%s: %s", self._ask_at, error)

    def _end_catching_up(self) -> None:
        if self._catching_up is not None:
            self._catching_up.close()
            self._catching_up = None

    def _answer(self, reply: list[bytes]) -> None:
        """Hand on the messages of a snapshot; none when the answer breaks the protocol."""
        try:
            messages = parse_snapshot_reply(reply)
        except WireError as error:
            log.debug("%s: %s", self._ask_at, error)
            messages = []
        self.end_asking()
        self._on_snapshot(self, messages)

    def _follow(self, was_connected: bool, refused: str) -> None:
        """Log what has happened to the connection."""
        if self.connected:
            self._logged = ""
            log.info("relay: connected to %s", self.endpoint)
            self._tell_connected()
            # Once more: the first answer may be older than our subscriptions are at the daemon.
            self._loop.later(AGAIN_S, self._tell_connected)
            return
        if was_connected:
            log.warning("relay: %s has disconnected; waiting for it", self.endpoint)
        if refused and refused != self._logged:
            log.warning("relay: %s: %s", self.endpoint, refused)
            self._logged = refused

    def _tell_connected(self) -> None:
        if self.connected:
            self._on_connected(self)

    def _close(self) -> None:
        self.end_asking()
        self._end_catching_up()
        self.masks.close()
