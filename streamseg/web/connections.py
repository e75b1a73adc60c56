"""The console's TCP connections: bound, accepted, counted by peer, and ended when they wait or stall.

aiohttp has the protocol, and limits for one request. It has none for how many connections there are, nor for
how long one may take; these are here. Belongs to one event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import os
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from aiohttp import web

from streamseg.web.pages import HEADERS

log = logging.getLogger(__name__)

REQUEST_WITHIN_S = 10.0  # its whole head, from the beginning of a connection or from the last answer
ANSWER_WITHIN_S = 60.0  # to take an answer
MAX_CONNECTIONS = 256
MAX_OF_A_PEER = 128  # 64 pages behind one proxy, and as many requests
FILES_LEFT = 64  # of those that the process may open
LOOK_EVERY_S = 1.0
LOG_EVERY_S = 60.0
BACKLOG = 1024  # that the kernel holds until they are accepted
NOT_OURS = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL)
NO_FILES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Connection(web.RequestHandler):
    """One connection, known to all."""

    __slots__ = ("_all", "answering", "peer", "since_s", "tcp")

    def __init__(self, connections: Connections, server: web.Server, peer: str) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]
            lingering_time=1.0,  # for what comes of a body that nobody reads
            auto_decompress=False,
        )
        self._all = connections
        self.peer = peer
        self.answering = 0  # requests that are being answered
        self.since_s = time.monotonic()  # when it was opened, or its last request was answered
        self.tcp: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.tcp = transport
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._all.forget(self)
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what is no HTTP, or ended early, without a word in the log; log an error of ours."""
        if status == 400 or isinstance(exc, ConnectionError):
            log.debug("console: %s sent no valid request: %.200r", self.peer, message or exc)
            response: web.StreamResponse = web.Response(status=400, text="not a valid request\n")
            response.force_close()
        else:
            response = super().handle_error(request, status, exc, message)
        response.headers.update(HEADERS)
        return response


class Connections:
    """All connections of a server. Listens from listen() on, until close()."""

    def __init__(self, server: web.Server, on_failure: Callable[[], None]) -> None:
        """on_failure is called when connections are no longer accepted, after the log has the reason."""
        self._server = server
        self._on_failure = on_failure
        self._open: set[Connection] = set()
        self._of_peer: Counter[str] = Counter()
        self._limit = max(8, min(MAX_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - FILES_LEFT))
        self._listeners: list[socket.socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._logged_s = float("-inf")

    async def listen(self, host: str, port: int) -> tuple[str, int]:
        """Bind every address of the name; returns the first. Raises OSError, and has bound none then.

        Of a name with several, such as localhost, those that this machine does not have are left out.
        """
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        absent: OSError | None = None
        with contextlib.ExitStack() as undo:
            bound: list[socket.socket] = []
            for family, _, _, _, address in dict.fromkeys(found):
                try:
                    bound.append(undo.enter_context(_bound(family, address)))
                except OSError as error:
                    if error.errno not in NOT_OURS:
                        raise
                    absent = error
            if not bound:
                raise absent or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
            undo.pop_all()
        self._listeners = bound
        self._tasks = [asyncio.create_task(self._accept(sock)) for sock in bound]
        self._tasks.append(asyncio.create_task(self._look()))
        for task in self._tasks:
            task.add_done_callback(self._ended)
        name, number = bound[0].getsockname()[:2]
        return str(name), int(number)

    async def close(self) -> None:
        """Accept no more; what is open is the server's to end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for sock in self._listeners:
            sock.close()

    def forget(self, connection: Connection) -> None:
        """It was closed."""
        if connection in self._open:
            self._open.remove(connection)
            self._of_peer[connection.peer] -= 1
            self._of_peer += Counter()  # without those of 0

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listener)
            except OSError as error:
                if error.errno in NO_FILES:
                    self._log(f"a connection cannot be accepted ({error.strerror})")
                    await asyncio.sleep(0.1 if self._end_one(self._open) else 1.0)
                continue
            try:
                await self._take(sock, peer_of(address))
            except BaseException as error:
                sock.close()
                if not isinstance(error, OSError):  # which is: the peer has gone already
                    raise

    async def _take(self, sock: socket.socket, peer: str) -> None:
        """Hand a connection to the server, or close it."""
        if not self._admits(peer):
            sock.close()
            return
        connection = Connection(self, self._server, peer)
        self._open.add(connection)
        self._of_peer[peer] += 1
        try:
            await asyncio.get_running_loop().connect_accepted_socket(lambda: connection, sock)
        except BaseException:
            self.forget(connection)
            raise

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled():
            log.error("web: connections are no longer accepted", exc_info=task.exception())
            self._on_failure()

    def _admits(self, peer: str) -> bool:
        """Whether one more may come; the one that has waited longest makes room."""
        if self._of_peer[peer] >= MAX_OF_A_PEER:
            crowd = peer
        elif len(self._open) >= self._limit:
            ((crowd, _),) = self._of_peer.most_common(1)
        else:
            return True
        if self._end_one({one for one in self._open if one.peer == crowd}):
            return True
        self._log(f"{len(self._open)} connections are open and in use; one more from {peer} was refused")
        return False

    def _end_one(self, among: set[Connection]) -> bool:
        """End the connection that has waited for its request longest; False where each is being answered."""
        waiting = [one for one in among if not one.answering]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda one: one.since_s)
        self.forget(oldest)
        if oldest.tcp is not None:
            oldest.tcp.abort()
        return True

    async def _look(self) -> None:
        """End the connections that wait too long for a request, or for an answer to be taken."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            now_s = time.monotonic()
            for one in list(self._open):
                if one.answering or one.tcp is None:
                    continue
                if now_s - one.since_s > ANSWER_WITHIN_S:
                    one.tcp.abort()
                elif now_s - one.since_s > REQUEST_WITHIN_S and not one.tcp.get_write_buffer_size():
                    one.tcp.close()

    def _log(self, what: str) -> None:
        if time.monotonic() - self._logged_s > LOG_EVERY_S:
            self._logged_s = time.monotonic()
            log.warning("web: %s", what)


@contextlib.contextmanager
def answering(request: web.Request) -> Iterator[None]:
    """While a request is answered, its connection waits for nothing."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    connection.answering += 1
    try:
        yield
    finally:
        connection.answering -= 1
        connection.since_s = time.monotonic()


@contextlib.contextmanager
def receiving(request: web.Request) -> Iterator[None]:
    """While the rest of a request is read, its connection waits as it did for the head: for its peer."""
    connection = request.protocol
    assert isinstance(connection, Connection)
    connection.answering -= 1
    try:
        yield
    finally:
        connection.answering += 1


def _bound(family: int, address: tuple[Any, ...]) -> socket.socket:
    """A listening socket; raises OSError."""
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


def peer_of(address: tuple[str, int]) -> str:
    """Whose connection it is: an IPv4 address, or the 64 bits in front of an IPv6 one."""
    try:
        found = ipaddress.ip_address(address[0].partition("%")[0])
    except ValueError:
        return str(address[0])
    if isinstance(found, ipaddress.IPv6Address):
        mapped = found.ipv4_mapped
        return str(mapped or ipaddress.ip_network((int(found) >> 64 << 64, 64)).network_address)
    return str(found)
