"""python -m streamseg.web: the console, a process that the daemon starts and that ends with it."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import sys

import msgspec
from aiohttp import web

from streamseg.runtime.child import lower_priority
from streamseg.runtime.log import hide_secrets_of_tracebacks, start_logging
from streamseg.web.connections import Connections
from streamseg.web.server import Console
from streamseg.web.setup import Listening, MaskEndpoints, WebSetup, host_and_port

log = logging.getLogger("streamseg.web")

RETRY_AFTER_S = 2.0
NICE = 5  # the console must not slow the daemon down


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal and systemd send them to all processes
        signal.signal(number, signal.SIG_IGN)  # they are for the daemon, which then closes our input
    setup = msgspec.json.decode(_first_line(), type=WebSetup)
    hide_secrets_of_tracebacks()
    start_logging(setup.log_level)
    logging.getLogger("asyncio").setLevel(logging.WARNING)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    lower_priority(NICE)
    asyncio.run(_serve(setup))


def _first_line() -> bytes:
    """Read the first line of our input, and not a byte more."""
    line = b""
    while not line.endswith(b"\n") and (byte := os.read(sys.stdin.fileno(), 1)):
        line += byte
    return line


async def _serve(setup: WebSetup) -> None:
    """Serve until our input ends."""
    over = asyncio.Event()
    console = Console(setup)
    runner = web.AppRunner(console.app, shutdown_timeout=1.0)
    await runner.setup()
    assert runner.server is not None
    connections = Connections(runner.server, over.set)
    reading = asyncio.create_task(_read_input(console, over))
    try:
        url = await _listen(connections, setup, over)
        if url:
            sys.stdout.write(msgspec.json.encode(Listening(url)).decode() + "\n")
            sys.stdout.flush()
            await over.wait()
    finally:
        reading.cancel()
        await connections.close()
        await runner.cleanup()


async def _read_input(console: Console, over: asyncio.Event) -> None:
    """Read the endpoints of masks, then wait for the end of the input, which is the end of the daemon."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            console.connect(msgspec.json.decode(line, type=MaskEndpoints))
    finally:
        over.set()


async def _listen(connections: Connections, setup: WebSetup, over: asyncio.Event) -> str:
    """Bind, and try again until it works; returns the address to open, or "" when the input has ended."""
    host, port = host_and_port(setup.listen)
    logged = False
    while not over.is_set():
        try:
            name, bound = await connections.listen(host, port)
        except OSError as error:
            if not logged:
                log.warning("web.listen: %s: %s; trying again", setup.listen, _reason(error))
                logged = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(over.wait(), RETRY_AFTER_S)
            continue
        return f"http://{f'[{name}]' if ':' in name else name}:{bound}/"
    return ""


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "is in use; stop the other process or choose another port"
        case errno.EACCES:
            return "this user has no permission to use it; choose a port above 1023"
        case errno.EADDRNOTAVAIL:
            return "is not an address of this machine; use one of its own, such as 127.0.0.1"
        case _:
            return f"cannot be bound ({error.strerror or error})"


if __name__ == "__main__":
    main()
