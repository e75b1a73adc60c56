"""A socket that others connect to: accepts, reads and sends within bounds, and never waits."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import struct
import time
from collections import deque
from collections.abc import Callable, Collection

from streamseg.net import options
from streamseg.net.endpoints import listen
from streamseg.net.guard import NO_FILE, ConnectionGuard
from streamseg.net.io import READ, WRITE, Outbox, Outgoing
from streamseg.net.ipc_paths import user_of
from streamseg.net.socket_thread import SocketThread
from streamseg.net.zmtp import UNKNOWN_KEY, Bounds, Peer, Refused

READ_BYTES = 2048  # from a client at a time: what they hold is worked on before others are looked at
ACCEPTED_AT_ONCE = 16
AGAIN_S = 0.03  # between two looks while no file descriptor is left
UNSENT_LOOK_S = 0.003  # between two looks at what the kernel has not sent
_SIOCOUTQNSD = 0x894B

OnMessage = Callable[["Client", list[bytes]], bool]
"""Called for each message; True where the client has to wait for an answer by send()."""


class Client:
    """A connection that came in; belongs to its server's thread."""

    def __init__(self, server: Server, sock: socket.socket, address: str) -> None:
        self.server, self.sock, self.address = server, sock, address
        self.since_s = time.monotonic()
        self.key = b""  # that it has shown
        self.closed = self.paused = self.working = False
        self.waiting = False  # for an answer; until it has it, no other request is worked on
        self.requests: deque[list[bytes]] = deque()  # read, and not yet worked on
        self.peer = server.peer(self)
        self.out = Outbox(sock, lambda: server.watch(self), self.close)
        if self.peer.sealed:
            self.out.seal = self.peer.encode

    def close(self) -> bool:
        """End the connection; whether it was open."""
        if self.closed:
            return False
        self.server.forget(self)
        return True

    def ready(self, events: int) -> None:
        self.server.ready(self, events)

    def stalled_s(self, now_s: float) -> float:
        """How long it has taken nothing of an answer; 0 where there is none."""
        return now_s - self.out.taken_s if self.server.answers and self.out else 0.0


class Server:
    """Binds, and calls on_message(client, message) for what arrives. Belongs to one socket thread.

    answers: its clients ask and are answered, one request after the other, and while an answer is on its way
    to one of them nothing more is read from it. Otherwise they are sent to at any time.
    """

    def __init__(
        self,
        thread: SocketThread,
        guard: ConnectionGuard,
        kind: bytes,
        peers: Collection[bytes],
        bounds: Bounds,
        on_message: OnMessage,
        on_gone: Callable[[Client], None] = lambda _: None,
        *,
        answers: bool = False,
        linger_s: float = 0.0,
        users: Collection[int] | None = None,
    ) -> None:
        """users: whose processes may connect, of this machine; None for everybody."""
        self.answers = answers
        self.endpoint = ""  # where it really is
        self.clients: set[Client] = set()
        self._loop, self._paths, self._guard = thread.loop, thread.paths, guard
        self._users = users
        self._kind, self._peers, self._bounds = kind, peers, bounds
        self._on_message, self._on_gone = on_message, on_gone
        self._listening: socket.socket | None = None
        self._reserve = -1  # a file descriptor, to refuse a connection with where no other is left
        thread.on_close(self.close, linger_s)

    def bind(self, endpoint: str) -> str:
        """Listen there, and say where that really is; raises PublishError."""
        self._keep_reserve()
        self.endpoint = listen(endpoint, self._paths, self._listen)
        return self.endpoint

    def unbind(self) -> None:
        """Listen no more."""
        self._listen(None)
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def send(self, client: Client, message: Outgoing) -> bool:
        """Send an answer; False where the client is gone, or has another one still to take."""
        client.waiting = False
        return client.out.send(message, 2)  # a PONG may be on its way

    def close(self, linger_s: float = 0.0) -> None:
        """End all connections; clients have linger_s to take what waits. Closing twice is fine.

        Also what waits in the kernel: of a connection that is closed with something unread in it, such as a
        PING, the kernel drops what it has not sent.
        """
        self.unbind()
        deadline_s = time.monotonic() + linger_s
        poller = select.poll()
        by_fd = {c.sock.fileno(): c for c in self.clients if c.out}
        for fd in by_fd:
            poller.register(fd, select.POLLOUT)
        while by_fd and (left_s := deadline_s - time.monotonic()) > 0:
            for fd, _ in poller.poll(left_s * 1000):
                client = by_fd[fd]
                client.out.flush()
                if not client.out:
                    poller.unregister(fd)
                    del by_fd[fd]
        while time.monotonic() < deadline_s and any(_unsent(client.sock) for client in self.clients):
            time.sleep(UNSENT_LOOK_S)  # there is no event for it
        for client in list(self.clients):
            client.close()

    def peer(self, client: Client) -> Peer:
        return Peer(self._kind, self._peers, self._bounds, self._guard.mechanism(client))

    def forget(self, client: Client) -> None:
        """Close a client's connection."""
        client.closed = True
        self.clients.discard(client)
        self._guard.gone(client)
        self._loop.unwatch(client.sock)
        client.out.close()
        client.sock.close()
        client.requests.clear()
        self._on_gone(client)

    def _listen(self, sock: socket.socket | None) -> None:
        """Accept connections here, and no longer where it was done before."""
        if self._listening is not None:
            self._loop.unwatch(self._listening)
            self._listening.close()
        self._listening = sock
        self._accept_again()

    def _accept(self, _: int) -> None:
        begun_s = time.thread_time()
        for _ in range(ACCEPTED_AT_ONCE):
            if self._listening is None:
                return
            try:
                sock, address = self._listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE):
                    self._refuse()
                    break
                continue  # it has gone again
            self._admit(sock, address)
        if not self._guard.spend(time.thread_time() - begun_s):
            self._pause_accepting()

    def _admit(self, sock: socket.socket, address: object) -> None:
        if self._users is not None and user_of(sock) not in self._users:
            sock.close()
            return
        sock.setblocking(False)
        options.connected(sock)
        client = Client(self, sock, str(address[0]) if isinstance(address, tuple) else "this machine")
        self.clients.add(client)
        self.watch(client)
        self._answer(client)
        if not client.closed:
            self._guard.admit(client)

    def _refuse(self) -> None:
        """Refuse a connection for which there is no file descriptor: it would be shown again and again."""
        assert self._listening is not None
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1
        with contextlib.suppress(OSError):
            self._listening.accept()[0].close()
            self._guard.note(NO_FILE)
        self._keep_reserve()
        if self._reserve < 0 and not self._guard.free_one():
            self._loop.later(AGAIN_S, self._accept_again)
            self._pause_watching()

    def _keep_reserve(self) -> None:
        if self._reserve < 0:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _pause_accepting(self) -> None:
        self._pause_watching()
        self._guard.pause(self._accept_again)

    def _pause_watching(self) -> None:
        if self._listening is not None:
            self._loop.watch(self._listening, 0, self._accept)

    def _accept_again(self) -> None:
        if self._listening is not None:
            self._loop.watch(self._listening, READ, self._accept)

    def ready(self, client: Client, events: int) -> None:
        """Its connection can be written or read."""
        if events & WRITE and client.out:
            client.out.flush()
            self._work(client)
        if events & READ and not client.closed and self._may_read(client):
            self._read(client)

    def _read(self, client: Client) -> None:
        begun_s = time.thread_time()
        try:
            data = client.sock.recv(READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            client.close()
            return
        try:
            client.requests += client.peer.receive(data)
        except Refused as error:
            self._answer(client)
            self._guard.hang_up(client, str(error) if error.reason != UNKNOWN_KEY else "")  # noted already
            return
        self._answer(client)
        self._work(client)
        if not self._guard.spend(time.thread_time() - begun_s) and not client.closed:
            client.paused = True
            self.watch(client)
            self._guard.pause(lambda: self._go_on(client))

    def _go_on(self, client: Client) -> None:
        client.paused = False
        self.watch(client)

    def _work(self, client: Client) -> None:
        """Hand on what was read, as far as the client is not to wait."""
        if client.working:  # an answer that was given at once
            return
        client.working = True
        while client.requests and not client.closed and self._is_free(client):
            self._guard.asked(client)
            client.waiting = True
            waits = self._on_message(client, client.requests.popleft())
            client.waiting = client.waiting and waits
        client.working = False
        self.watch(client)

    def _is_free(self, client: Client) -> bool:
        """Whether it has no answer to wait for, or to take."""
        return not self.answers or not (client.waiting or client.out)

    def _may_read(self, client: Client) -> bool:
        """Whether to read more. While it waits for an answer, PINGs are answered, and one request is kept."""
        return not client.paused and not (self.answers and (client.out or client.requests))

    def answered(self, client: Client) -> None:
        """The answer has been sent, or there is none: go on with its next request."""
        client.waiting = False
        if not client.closed:
            self._work(client)

    def _answer(self, client: Client) -> None:
        """Send what the protocol itself says: of the handshake, and one PONG at a time."""
        outgoing, client.peer.outgoing = client.peer.outgoing, []
        for piece in outgoing:
            client.out.add([piece])
        if client.peer.pong:
            client.out.add_pong(client.peer.pong)
            client.peer.pong = b""

    def watch(self, client: Client) -> None:
        """Wait for what it is to be read or written for."""
        if client.closed:
            return
        reads = self._may_read(client)
        self._loop.watch(client.sock, READ * reads | WRITE * bool(client.out), client.ready)


def _unsent(sock: socket.socket) -> int:
    """How many bytes the kernel holds that it has not sent yet; of a path, none: the other end has them."""
    if sock.family == socket.AF_UNIX:
        return 0
    try:
        return int(struct.unpack("i", fcntl.ioctl(sock, _SIOCOUTQNSD, bytes(4)))[0])
    except OSError:
        return 0
