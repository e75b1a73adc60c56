"""The relay's side of one daemon."""

from __future__ import annotations

import logging

import zmq

from streamseg.errors import WireError
from streamseg.net import options
from streamseg.net.connection import Connection
from streamseg.net.curve_keys import ClientKeys
from streamseg.net.endpoints import connect
from streamseg.net.socket_thread import SocketThread
from streamseg.wire import default_snapshot_endpoint, parse_snapshot_reply, snapshot_request

log = logging.getLogger(__name__)


class Upstream:
    """An XSUB socket that stays connected, and a DEALER for each snapshot. Belongs to one socket thread."""

    def __init__(self, thread: SocketThread, endpoint: str, server_key: bytes, secret: bytes | None) -> None:
        """server_key: the daemon's public key, empty where it has none; secret: our own.

        Connects, and stays so; raises UsageError for a bad endpoint.
        """
        self.endpoint = endpoint
        self.duplicate = False  # it was logged that one of its topics comes from another daemon, too
        self._context = thread.context
        self._keys = ClientKeys(server_key, secret) if server_key and secret else None
        self._ask_at = default_snapshot_endpoint(endpoint)  # looks at the endpoint's form
        self._asking: zmq.Socket[bytes] | None = None
        self._logged = ""  # why the daemon refused us
        self.masks = thread.socket(zmq.XSUB)
        self._connection = Connection(self.masks, endpoint, self._keys)
        thread.on_close(self._close)
        self._connection.connect()

    @property
    def connected(self) -> bool:
        return self._connection.connected

    def register(self, poller: zmq.Poller) -> None:
        self._connection.register(poller)

    def follow(self) -> None:
        """Log what has happened to the connection, and see that there is one."""
        for was_connected, refused in self._connection.changes():
            if self.connected:
                self._logged = ""
                log.info("relay: connected to %s", self.endpoint)
                continue
            if was_connected:
                log.warning("relay: %s has disconnected; waiting for it", self.endpoint)
            if refused and refused != self._logged:
                log.warning("relay: %s: %s", self.endpoint, refused)
                self._logged = refused

    def ask(self, prefixes: list[bytes], poller: zmq.Poller) -> None:
        """Send a snapshot request, on a new socket: a late answer to an earlier one must not arrive on it."""
        self.end_asking(poller)
        self._asking = self._context.socket(zmq.DEALER)
        options.receive(self._asking, self._keys)
        connect(self._asking, self._ask_at, ipv6=self._connection.ipv6)
        self._asking.send_multipart(snapshot_request(prefixes), zmq.DONTWAIT)
        poller.register(self._asking, zmq.POLLIN)

    def answer(self) -> list[list[bytes]] | None:
        """The messages of the snapshot, once they have arrived; none when the answer breaks the protocol."""
        if self._asking is None:
            return None
        try:
            return parse_snapshot_reply(self._asking.recv_multipart(zmq.DONTWAIT))
        except zmq.Again:
            return None
        except WireError as error:
            log.debug("%s: %s", self._ask_at, error)
            return []

    def end_asking(self, poller: zmq.Poller) -> None:
        if self._asking is not None:
            poller.unregister(self._asking)
            self._asking.close(linger=0)
            self._asking = None

    def _close(self) -> None:
        if self._asking is not None:
            self._asking.close(linger=0)
        self._connection.close()
