"""A socket that connects to a daemon, and what libzmq reports of its connection."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator

import zmq
from zmq.utils.monitor import recv_monitor_message

from streamseg.net import options
from streamseg.net.curve_keys import ClientKeys
from streamseg.net.endpoints import connect, is_name, reconnect

TURN_S, LONGEST_TURN_S = 0.1, 2.0  # between the two families of a name's addresses; grows
SILENT_S = 5.0  # libzmq tries again at least every 2 s; after this long without a try, we connect again

NEEDS_KEYS = "the daemon requires keys; give its public key (server_key) and your own (client_key_file)"

_WAITS = (zmq.EVENT_CONNECT_DELAYED, zmq.EVENT_CONNECT_RETRIED)  # say nothing of the other end
_UNSAID = (zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,)
_LOST = (
    zmq.EVENT_DISCONNECTED,
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL,
    zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL,
    zmq.EVENT_HANDSHAKE_FAILED_AUTH,
)


class Connection:
    """A SUB or XSUB socket for one daemon's masks, with its monitor. Used by the thread that owns the socket.

    close() before the socket is closed.
    """

    def __init__(self, sock: zmq.Socket[bytes], endpoint: str, keys: ClientKeys | None) -> None:
        self.sock = sock
        self.endpoint = endpoint
        self.connected = False
        self.last_event = 0
        self._is_name = is_name(endpoint)
        self._keys = keys
        self._failed = 0  # handshakes in a row that ended without a reason
        options.receive(sock, keys)
        self._monitor = sock.get_monitor_socket()
        self._event_s = self._turned_s = time.monotonic()
        self._turn_s = TURN_S
        self.ipv6 = False  # where the endpoint is a name: which of its addresses are tried, or connected

    def connect(self) -> None:
        """Connect, again and again; raises UsageError for what is no endpoint."""
        connect(self.sock, self.endpoint)

    def register(self, poller: zmq.Poller) -> None:
        poller.register(self.sock, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)

    @property
    def poll_ms(self) -> int | None:
        """How long the thread may wait before it calls changes() again; None waits for the poller alone."""
        return None if self.connected else int(SILENT_S * 250)

    def changes(self) -> Iterator[tuple[bool, str]]:
        """What has happened since the last call: (was it connected before, why the daemon refused it).

        Each time that the connection is made, is lost or fails; the reason is empty where there is none.
        Connects again where libzmq has given up. Never waits.
        """
        with contextlib.suppress(zmq.Again):
            while True:
                event = int(recv_monitor_message(self._monitor, zmq.DONTWAIT)["event"])
                self._event_s = time.monotonic()
                if event not in _WAITS:
                    self.last_event = event
                if event == zmq.EVENT_CONNECT_RETRIED:
                    self._take_turns()
                if event == zmq.EVENT_HANDSHAKE_SUCCEEDED or event in _LOST:
                    self._turn_s = TURN_S
                    before, self.connected = self.connected, event == zmq.EVENT_HANDSHAKE_SUCCEEDED
                    self._failed = 0 if self.connected else self._failed + (event in _UNSAID)
                    yield before, refusal(event, self._keys, self._failed)
        if not self.connected and time.monotonic() - self._event_s > SILENT_S:
            # libzmq gives a connection up for good when the other side broke the protocol or MAXMSGSIZE.
            self.ipv6 ^= self._is_name
            reconnect(self.sock, self.endpoint, ipv6=self.ipv6)
            self._event_s = time.monotonic()

    def _take_turns(self) -> None:
        """Try the other family of a name's addresses: libzmq knows the first address of one family only."""
        if not self._is_name or time.monotonic() - self._turned_s < self._turn_s:
            return
        self.ipv6 = not self.ipv6
        self._turn_s = min(2 * self._turn_s, LONGEST_TURN_S)
        reconnect(self.sock, self.endpoint, ipv6=self.ipv6)
        self._turned_s = time.monotonic()

    def close(self) -> None:
        """Close the monitor, not the socket."""
        self.connected = False
        self.sock.disable_monitor()
        self._monitor.close(linger=0)


def refusal(event: int, keys: ClientKeys | None, failed: int = 1) -> str:
    """Why a handshake failed, in words and with the way out; empty for any other event.

    failed: handshakes in a row that ended without a reason. A daemon with keys ends those of clients without
    any; libzmq gives that as the reason only where it has read the daemon's greeting in time.
    """
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and keys is not None:
        return f"the daemon does not know our key; its operator must allow {keys.public.decode()}"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        if keys is not None:
            return (
                "the daemon uses no keys; drop server_key and client_key_file, "
                "or set publish.curve_secret_key_file on the daemon"
            )
        return NEEDS_KEYS
    if event in _UNSAID and keys is None and failed > 1:
        return NEEDS_KEYS
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and keys is not None:
        return (
            "the daemon closed the connection because of our keys; server_key must be the public key of this "
            "daemon (its NAME.pub), and the daemon must use keys (publish.curve_secret_key_file)"
        )
    return ""
