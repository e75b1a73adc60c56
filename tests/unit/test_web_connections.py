"""How many connections the console keeps, and for how long; with real sockets and a small application."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest

from tests.waiting import LIMIT_S

pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")

from aiohttp import web

from streamseg.web import connections
from streamseg.web.connections import Connections, answering

REQUEST = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HALF = b"GET / HTTP/1.1\r\nHost: x\r\nX: "


class Server:
    """A server whose "/" answers at once, "/held" when `free` is set, "/large" with 8 MiB."""

    def __init__(self) -> None:
        self.free = asyncio.Event()
        self.failed = asyncio.Event()
        self.held = 0
        self.address = ("", 0)
        self.connections: Connections | None = None
        self.writers: list[asyncio.StreamWriter] = []  # of all connections to it

    async def root(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def hold(self, _: web.Request) -> web.Response:
        self.held += 1
        await self.free.wait()
        return web.Response(text="ok\n")

    async def large(self, _: web.Request) -> web.Response:
        return web.Response(body=b"x" * (8 << 20))

    async def connect(self, data: bytes = b"") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection(*self.address)
        self.writers.append(writer)
        writer.write(data)
        return reader, writer

    async def disconnect(self) -> None:
        for writer in self.writers:
            writer.close()
        await asyncio.gather(*(w.wait_closed() for w in self.writers), return_exceptions=True)

    async def ask(self, request: bytes = REQUEST) -> int:
        """The status of a request on a connection of its own; 0 where that was closed."""
        reader, _ = await self.connect(request)
        with suppress(ConnectionError):
            line = await asyncio.wait_for(reader.readline(), LIMIT_S)
            return int(line.split()[1]) if line else 0
        return 0


@web.middleware
async def check(request: web.Request, handler: Callable[[web.Request], Awaitable[Any]]) -> Any:
    with answering(request):
        return await handler(request)


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    server = Server()
    app = web.Application(middlewares=[check])
    app.add_routes(
        [web.get("/", server.root), web.get("/held", server.hold), web.get("/large", server.large)]
    )
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server is not None
    server.connections = Connections(runner.server, server.failed.set)
    server.address = await server.connections.listen("127.0.0.1", 0)
    try:
        yield server
    finally:
        await server.disconnect()
        await server.connections.close()
        await runner.cleanup()


def with_server(check: Callable[[Server], Awaitable[None]]) -> None:
    async def run() -> None:
        async with serving() as server, asyncio.timeout(LIMIT_S):
            await check(server)

    asyncio.run(run())


async def closed(reader: asyncio.StreamReader) -> bool:
    """Wait until the other side closes a connection; what it sends before is read."""
    with suppress(ConnectionError):
        while await asyncio.wait_for(reader.read(1 << 16), LIMIT_S):
            pass
    return True


@pytest.mark.parametrize("half", [b"", b"G", HALF, REQUEST[:-1], b"GET / HTTP/1.1\r\nTransfer-Encoding: chu"])
def test_two_hundred_slow_connections_keep_nobody_out(half: bytes) -> None:
    async def slow(server: Server) -> None:
        held = [await server.connect(half) for _ in range(200)]
        assert await server.ask() == 200
        assert await server.ask() == 200
        first, last = held[0][0], held[-1][0]
        assert await closed(first)  # the oldest made room
        assert not last.at_eof()

    with_server(slow)


@pytest.mark.parametrize(
    "part", [b"", HALF, REQUEST + HALF, b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n12"]
)
def test_a_request_that_is_not_whole_in_time_ends_its_connection(
    part: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.2)
    monkeypatch.setattr(connections, "LOOK_EVERY_S", 0.05)

    async def wait(server: Server) -> None:
        reader, writer = await server.connect(part)
        for _ in range(20):  # more of it keeps it no longer
            with suppress(ConnectionError):
                writer.write(b"a")
                await writer.drain()
            await asyncio.sleep(0.02)
        assert await closed(reader)

    with_server(wait)


def test_who_is_being_answered_is_not_ended_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Takes the time in which a request must be whole."""
    monkeypatch.setattr(connections, "MAX_OF_A_PEER", 9)
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 1.0)
    monkeypatch.setattr(connections, "LOOK_EVERY_S", 0.02)

    async def hold(server: Server) -> None:
        held = [await server.connect(REQUEST.replace(b"/ ", b"/held ")) for _ in range(7)]
        while server.held < 7:
            await asyncio.sleep(0.01)
        assert await closed((await server.connect(HALF))[0])  # its time is over, and that of the seven
        for _ in range(20):
            await server.connect(HALF)
            assert await server.ask() == 200
        server.free.set()
        for reader, _ in held:
            assert b"200" in await reader.readline()

    with_server(hold)


def test_where_all_are_in_use_one_more_is_refused_and_the_log_says_so_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(connections, "MAX_OF_A_PEER", 4)

    async def hold(server: Server) -> None:
        for _ in range(4):
            await server.connect(REQUEST.replace(b"/ ", b"/held "))
        while server.held < 4:
            await asyncio.sleep(0.01)
        for _ in range(5):
            assert await server.ask() == 0
        server.free.set()
        while await server.ask() != 200:
            await asyncio.sleep(0.01)

    with_server(hold)
    (line,) = [record.message for record in caplog.records if record.name == connections.__name__]
    assert line == "web: 4 connections are open and in use; one more from 127.0.0.1 was refused"


def test_of_all_the_peer_with_most_connections_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(connections, "peer_of", lambda address: peers.pop(0) if peers else "crowd")
    peers = ["one", "two"]

    async def crowd(server: Server) -> None:
        quiet = [await server.connect() for _ in range(2)]
        many = [await server.connect(HALF) for _ in range(40)]
        assert await closed(many[0][0])
        assert await server.ask() == 200
        for reader, writer in quiet:
            writer.write(REQUEST)
            assert b"200" in await reader.readline()

    with_server(crowd)


def test_a_peer_that_takes_nothing_of_its_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER_WITHIN_S", 0.3)
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.1)
    monkeypatch.setattr(connections, "LOOK_EVERY_S", 0.05)

    async def stall(server: Server) -> None:
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(server.address)
            sock.sendall(REQUEST.replace(b"/ ", b"/large "))
            assert server.connections is not None
            while not server.connections._open:
                await asyncio.sleep(0.01)
            while server.connections._open:
                await asyncio.sleep(0.01)

    with_server(stall)


def test_a_body_that_nobody_reads_is_not_waited_for() -> None:
    async def send(server: Server) -> None:
        reader, writer = await server.connect(
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n"
        )
        assert b"200" in await reader.readline()

        async def more() -> None:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()

        with suppress(ConnectionError):
            await more()
        assert await closed(reader)

    with_server(send)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENOBUFS])
def test_without_a_file_left_the_oldest_makes_room_and_the_log_has_one_line(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def short(server: Server) -> None:
        loop = asyncio.get_running_loop()
        waiting = await server.connect(HALF)
        assert await server.ask() == 200
        accept, failures = loop.sock_accept, [number] * 3

        async def fail(listener: socket.socket) -> Any:
            if failures:
                raise OSError(failures.pop(), "Too many open files")
            return await accept(listener)

        monkeypatch.setattr(loop, "sock_accept", fail)
        await server.ask()  # the accept that waits already
        assert await server.ask() == 200
        assert await closed(waiting[0])

    with_server(short)
    (line,) = [record.message for record in caplog.records if record.name == connections.__name__]
    assert line == "web: a connection cannot be accepted (Too many open files)"


def test_a_server_that_can_accept_no_more_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(server: Server) -> None:
        monkeypatch.setattr(connections, "peer_of", lambda address: address.nothing)
        await server.connect()
        await server.failed.wait()

    with_server(fail)
    assert "web: connections are no longer accepted" in caplog.text
    assert "AttributeError" in caplog.text


ABSENT = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 0))  # an address of no machine
OURS = (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0))


def listen(*found: Any) -> str:
    """The address bound for a name that has these."""

    async def bind() -> str:
        loop = asyncio.get_running_loop()

        async def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
            return list(found)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(loop, "getaddrinfo", getaddrinfo)
            runner = web.AppRunner(web.Application())
            await runner.setup()
            assert runner.server is not None
            listening = Connections(runner.server, lambda: None)
            try:
                return (await listening.listen("name", 0))[0]
            finally:
                await listening.close()
                await runner.cleanup()

    return asyncio.run(bind())


def test_of_a_name_those_addresses_are_bound_that_the_machine_has() -> None:
    assert listen(ABSENT, OURS) == "127.0.0.1"
    assert listen(OURS, ABSENT, OURS) == "127.0.0.1"
    with pytest.raises(OSError, match="assign requested address"):
        listen(ABSENT)


def test_where_one_address_is_in_use_none_is_bound() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = (*OURS[:4], other.getsockname())
        with pytest.raises(OSError, match="in use"):
            listen(OURS, taken)
