"""The relay's side of one daemon."""

from __future__ import annotations

import contextlib
import logging
import time

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamseg.client.receiver import HANDSHAKE_FAILED, SILENT_S, configure, connect, reconnect
from streamseg.errors import WireError
from streamseg.net.client_keys import ClientKeys, refusal
from streamseg.wire import default_snapshot_endpoint, parse_snapshot_reply, snapshot_request

log = logging.getLogger(__name__)


class Upstream:
    """An XSUB socket that is connected for ever, and a DEALER for each snapshot. Belongs to one thread."""

    def __init__(
        self, context: zmq.Context[zmq.Socket[bytes]], endpoint: str, server_key: bytes, secret: bytes | None
    ) -> None:
        """server_key: the daemon's public key, empty where it has none; secret: the one that we show.

        Raises UsageError for a bad endpoint.
        """
        self.endpoint = endpoint
        self.connected = False
        self.doubled = False  # said that it has a topic that another daemon has
        self._context = context
        self._keys = ClientKeys(server_key, secret) if server_key and secret else None
        self._ask_at = default_snapshot_endpoint(endpoint)  # looks at the endpoint's form
        self._asking: zmq.Socket[bytes] | None = None
        self._told = ""
        self._heard_s = time.monotonic()
        self.masks = context.socket(zmq.XSUB)
        self._monitor = self.masks.get_monitor_socket(
            zmq.EVENT_HANDSHAKE_SUCCEEDED
            | zmq.EVENT_DISCONNECTED
            | zmq.EVENT_CONNECT_RETRIED
            | sum(HANDSHAKE_FAILED)
        )

    def open(self) -> None:
        """Connect, and stay so; raises UsageError."""
        configure(self.masks, self._keys)
        self.masks.setsockopt(zmq.SNDHWM, 0)  # subscriptions: one that is dropped would never come again
        connect(self.masks, self.endpoint)

    def close(self) -> None:
        if self._asking is not None:
            self._asking.close(linger=0)
        self.masks.disable_monitor()
        self._monitor.close(linger=0)
        self.masks.close(linger=0)

    def register(self, poller: zmq.Poller) -> None:
        poller.register(self.masks, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)

    def follow(self) -> None:
        """Note what has happened to the connection, and see that there is one."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._note(int(recv_monitor_message(self._monitor, zmq.DONTWAIT)["event"]))
                self._heard_s = time.monotonic()
        if not self.connected and time.monotonic() - self._heard_s > SILENT_S:
            # libzmq gives a connection up for good when the other side broke the protocol or MAXMSGSIZE.
            reconnect(self.masks, self.endpoint)
            self._heard_s = time.monotonic()

    def ask(self, prefixes: list[bytes], poller: zmq.Poller) -> None:
        """Send a snapshot request, on a socket that no late answer to another one can come by."""
        self.end_asking(poller)
        self._asking = self._context.socket(zmq.DEALER)
        configure(self._asking, self._keys)
        connect(self._asking, self._ask_at)
        self._asking.send_multipart(snapshot_request(prefixes), zmq.DONTWAIT)
        poller.register(self._asking, zmq.POLLIN)

    def answer(self) -> list[list[bytes]] | None:
        """The messages of the snapshot, once they are here; nothing of an answer that breaks the protocol."""
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

    def _note(self, event: int) -> None:
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            self.connected, self._told = True, ""
            log.info("relay: connected to %s", self.endpoint)
            return
        if event == zmq.EVENT_CONNECT_RETRIED:
            return
        if self.connected:
            log.warning("relay: %s has gone; waiting for it", self.endpoint)
        self.connected = False
        why = refusal(event, self._keys)
        if why and why != self._told:
            log.warning("relay: %s: %s", self.endpoint, why)
            self._told = why
