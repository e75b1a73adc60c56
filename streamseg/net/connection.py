"""A connection to a daemon, made again whenever it is lost: a SUB, XSUB or DEALER of ours."""

from __future__ import annotations

import contextlib
import random
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Sequence

from streamseg.net import options
from streamseg.net.curve_keys import ClientKeys, from_z85
from streamseg.net.endpoints import Address, parse_endpoint, resolve, resolve_number
from streamseg.net.io import READ, WRITE, Loop, Outbox, Outgoing
from streamseg.net.zmtp import (
    NO_KEYS,
    OTHER_KEYS,
    UNKNOWN_KEY,
    Bounds,
    Mechanism,
    Null,
    Peer,
    Refused,
)

ATTEMPT_S = 3.0  # for one address to take the connection; then the next one of its name is tried
HANDSHAKE_S = 10.0
READ_BYTES = 64 << 10
QUEUE = 64  # messages that wait for the connection

NEEDS_KEYS = "the daemon requires keys; give its public key (server_key) and your own (client_key_file)"
NO_ANSWER, CONNECTED, CLOSED = "no answer", "connected", "closed"
"""How far the last try came: nobody took the connection, or somebody has said nothing yet, or closed it."""

_PEERS = {
    b"SUB": (b"PUB", b"XPUB"),
    b"XSUB": (b"PUB", b"XPUB"),
    b"DEALER": (b"ROUTER", b"REP", b"DEALER"),
}


class Connection:
    """Calls on_message with each message, and on_change whenever it is made, lost or refused.

    on_change is given whether it was connected before, and why the daemon refused it; that is empty where
    there is no reason. Belongs to its loop's thread.
    """

    def __init__(
        self,
        loop: Loop,
        kind: bytes,
        endpoint: str,
        bounds: Bounds,
        on_message: Callable[[list[bytes]], None],
        keys: ClientKeys | None = None,
        on_change: Callable[[bool, str], None] = lambda *_: None,
    ) -> None:
        """Begins to connect; raises UsageError for what is no endpoint."""
        self.endpoint = endpoint
        self.connected = False
        self.last = NO_ANSWER
        self._loop, self._kind, self._bounds, self._keys = loop, kind, bounds, keys
        self._on_message, self._on_change = on_message, on_change
        self._where = parse_endpoint(endpoint)
        self._addresses: deque[Address] = deque()  # to be tried
        self._sock: socket.socket | None = None
        self._peer: Peer | None = None
        self._topics: Counter[bytes] = Counter()
        self._out: Outbox | None = None
        self._waiting: deque[Sequence[bytes]] = deque()  # for the connection
        self._tries = 0  # told from each other, so that a timer of an earlier one does nothing
        self._pause_s = options.RECONNECT_S
        self._closed = False
        self._begin()

    def subscribe(self, topic: bytes) -> None:
        """Receive what begins with this; the same may be asked for several times."""
        self._topics[topic] += 1
        if self._topics[topic] == 1 and self.connected:
            self._send([b"\x01" + topic])

    def unsubscribe(self, topic: bytes) -> None:
        """Take one subscribe() back."""
        if self._topics[topic] > 1:
            self._topics[topic] -= 1
        elif self._topics.pop(topic, 0) and self.connected:
            self._send([b"\x00" + topic])

    def send(self, message: Sequence[bytes]) -> bool:
        """Send a message, once there is a connection; False where too many wait already. Never waits."""
        if self.connected and self._out is not None:
            return self._out.send(Outgoing(message), QUEUE)
        if len(self._waiting) >= QUEUE:
            return False
        self._waiting.append(message)
        return True

    def close(self) -> None:
        """Closing twice is fine."""
        self._closed = True
        self.connected = False
        self._drop()

    def _begin(self) -> None:
        """Find the addresses, and try them."""
        if self._closed:
            return
        self._tries += 1
        found = resolve_number(self._where)
        if found is not None:
            self._try(deque(found))
        else:  # the name service may take long, and cannot be told to stop
            threading.Thread(target=self._look_up, args=(self._tries,), name="resolve", daemon=True).start()

    def _look_up(self, tries: int) -> None:
        found = resolve(self._where)
        self._loop.call(lambda: self._try(deque(found)) if tries == self._tries else None)

    def _try(self, addresses: deque[Address]) -> None:
        """Connect to the first address that can be tried."""
        if self._closed:
            return
        self._addresses = addresses
        while addresses:
            family, address = addresses.popleft()
            sock = None
            try:
                sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, options.BUFFER_BYTES)
                options.connected(sock)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(address)
            except OSError:  # nobody is there, or no file descriptor is left
                if sock is not None:
                    sock.close()
                continue
            self._sock = sock
            self._tries += 1
            self._after(ATTEMPT_S, lambda: self._next(NO_ANSWER))
            self._loop.watch(sock, WRITE, self._opened)
            return
        self.last = self.last if self.last != CONNECTED else CLOSED
        self._again()

    def _after(self, seconds: float, callback: Callable[[], None]) -> None:
        """Call back, unless the connection has gone on by then."""
        tries = self._tries
        self._loop.later(seconds, lambda: callback() if tries == self._tries and not self._closed else None)

    def _next(self, last: str) -> None:
        self.last = last
        self._drop()
        self._try(self._addresses)

    def _again(self, pause_s: float = 0.0) -> None:
        """Begin anew after a pause."""
        pause_s = pause_s or self._pause_s
        self._pause_s = min(2 * self._pause_s, options.LONGEST_RECONNECT_S)
        self._tries += 1
        self._after(pause_s * random.uniform(0.75, 1.0), self._begin)

    def _opened(self, _: int) -> None:
        """Somebody has taken the connection, or not."""
        assert self._sock is not None
        if self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self._next(NO_ANSWER)
            return
        self.last = CONNECTED
        self._tries += 1
        self._peer = Peer(self._kind, _PEERS[self._kind], self._bounds, self._mechanism())
        self._out = Outbox(self._sock, self._watch, lambda: None)  # reading finds out that it is broken
        if self._peer.sealed:
            self._out.seal = self._peer.encode
        self._after(HANDSHAKE_S, lambda: self._lose(""))
        self._watch()
        self._say()

    def _mechanism(self) -> Mechanism:
        if self._keys is None:
            return Null()
        from streamseg.net.curve import CurveClient  # loads libsodium

        return CurveClient(from_z85(self._keys.server), from_z85(self._keys.secret))

    def _ready(self, events: int) -> None:
        if events & WRITE and self._out is not None:
            self._out.flush()
        if events & READ and self._sock is not None:
            self._read()

    def _read(self) -> None:
        assert self._sock is not None
        assert self._peer is not None
        peer = self._peer
        try:
            data = self._sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._lose(self._why_closed())
            return
        try:
            messages = peer.receive(data)
        except Refused as error:
            self._lose(self._why_refused(error), refused=True)
            return
        self._say()
        if peer.ready and not self.connected:
            self._connect()
        for message in messages:
            if self._peer is not peer:  # it was closed meanwhile
                return
            self._on_message(message)

    def _connect(self) -> None:
        """The handshake is over."""
        self.connected = True
        self._tries += 1
        self._pause_s = options.RECONNECT_S
        self._on_change(False, "")
        for topic in self._topics:
            self._send([b"\x01" + topic])
        while self._waiting and self.connected:
            self._send(self._waiting.popleft())

    def _lose(self, why: str, *, refused: bool = False) -> None:
        was_connected, self.connected = self.connected, False
        self.last = CLOSED
        self._drop()
        self._again(options.LONGEST_RECONNECT_S if refused or why else 0.0)
        self._on_change(was_connected, why)

    def _drop(self) -> None:
        if self._sock is not None:
            self._loop.unwatch(self._sock)
            self._sock.close()
            self._sock = None
        if self._out is not None:
            self._out.close()
        self._peer = self._out = None

    def _why_closed(self) -> str:
        if self._keys is None or self.connected or self._peer is None or not self._peer.greeted:
            return ""
        return (
            "the daemon closed the connection because of our keys; server_key must be the public key of this "
            "daemon (its NAME.pub), and the daemon must use keys (publish.curve_secret_key_file)"
        )

    def _why_refused(self, error: Refused) -> str:
        if error.reason == OTHER_KEYS:
            return NEEDS_KEYS
        if error.reason == NO_KEYS:
            return (
                "the daemon uses no keys; drop server_key and client_key_file, "
                "or set publish.curve_secret_key_file on the daemon"
            )
        if error.reason == UNKNOWN_KEY and self._keys is not None:
            return f"the daemon does not know our key; its operator must allow {self._keys.public.decode()}"
        return ""

    def _send(self, message: Sequence[bytes]) -> None:
        assert self._out is not None
        self._out.send(Outgoing(message), sys.maxsize)

    def _say(self) -> None:
        """Send what the protocol itself says: of the handshake, and PONGs."""
        assert self._peer is not None
        assert self._out is not None
        outgoing, self._peer.outgoing = self._peer.outgoing, []
        for piece in outgoing:
            self._out.add([piece])
        if self._peer.pong:
            self._out.add_pong(self._peer.pong)
            self._peer.pong = b""

    def _watch(self) -> None:
        if self._sock is not None:
            self._loop.watch(self._sock, READ | WRITE * bool(self._out), self._ready)
