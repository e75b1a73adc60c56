"""A daemon with a console, and a real browser to look at it: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import select
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamseg.client.control import ControlClient
from streamseg.net.control_sockets import one_running
from streamseg.web.setup import WebSetup
from tests.integration.daemons import Lines, environment, run_daemon
from tests.ports import free_port
from tests.waiting import LIMIT_S, until


@dataclass
class Running:
    """A daemon with a console, that can be killed and started again at the same ports."""

    words: list[str | Path]
    url: str
    lines: Lines

    @property
    def pid(self) -> int:
        return self.lines.process.pid

    def control(self) -> ControlClient:
        return ControlClient(one_running(str(self.pid)), timeout_s=LIMIT_S)

    def restart(self) -> None:
        self.lines.kill()
        self.lines = run_daemon(*self.words)


@contextmanager
def running(*words: str | Path, web: str = "") -> Iterator[Running]:
    listen = web or f"127.0.0.1:{free_port()}"
    everything = [*words, "--endpoint", f"tcp://127.0.0.1:{free_port()}", "--web", listen]
    daemon = Running(everything, f"http://{listen}/", run_daemon(*everything))
    try:
        daemon.lines.wait("the console is at")
        yield daemon
    finally:
        daemon.lines.kill()


class Alone:
    """A console's process without a daemon. What it logs is in `log` when it has ended."""

    def __init__(
        self,
        *,
        listen: str = "",
        token: str = "",
        insecure: bool = False,
        control: str = "ipc:///nowhere/control",
    ) -> None:
        setup = WebSetup(
            listen=listen or f"127.0.0.1:{free_port()}",
            token=token,
            insecure=insecure,
            control=control,
        )
        self.log = ""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "streamseg.web"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(msgspec.json.encode(setup) + b"\n")
        self._process.stdin.flush()
        url = str(json.loads(self._process.stdout.readline())["url"])
        self.url = url.replace("0.0.0.0", "127.0.0.1")  # the address to connect to

    @property
    def address(self) -> tuple[str, int]:
        host, port = self.url.split("/")[2].rsplit(":", 1)
        return host, int(port)

    def __enter__(self) -> Alone:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._process.returncode is None:
            _, log = self._process.communicate(timeout=LIMIT_S)
            self.log = log.decode(errors="replace")

    def send(self, request: bytes, *, patience_s: float = LIMIT_S) -> bytes:
        """What these bytes are answered with; after patience_s we say that no more is sent."""
        answer = b""
        with (
            socket.create_connection(self.address, timeout=LIMIT_S) as sock,
            contextlib.suppress(ConnectionError),
        ):
            sock.sendall(request)
            while not _whole(answer):
                if not answer and not select.select([sock], [], [], patience_s)[0]:
                    sock.shutdown(socket.SHUT_WR)
                if not (data := sock.recv(65536)):
                    break
                answer += data
        return answer


def _whole(answer: bytes) -> bool:
    head, end, body = answer.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: (\d+)", head)
    return bool(end) and (length is None or len(body) >= int(length[1]))


def live(engine: Path, *clips: Path | str) -> list[str | Path]:
    sources = [word for one in clips for word in ("--source", str(one))]
    return ["--engine", str(engine), "--realtime", "--loop", *sources]


@contextmanager
def behind_proxy(url: str, path: str = "/seg/") -> Iterator[str]:
    """A reverse proxy that serves a console below a path, and passes Host and WebSockets on; its address."""
    aiohttp = pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")
    from aiohttp import web

    async def one_way(source: Any, sink: Any) -> None:
        async for message in source:
            if message.type is aiohttp.WSMsgType.TEXT:
                await sock_send(sink.send_str(message.data))
            elif message.type is aiohttp.WSMsgType.BINARY:
                await sock_send(sink.send_bytes(message.data))
        await sink.close()

    async def sock_send(sending: Any) -> None:
        with contextlib.suppress(ConnectionError):
            await sending

    async def pass_on(request: Any) -> Any:
        to = url + request.path_qs.removeprefix(path)
        headers = {
            k: v for k, v in request.headers.items() if not k.startswith(("Sec-WebSocket", "Connection"))
        }
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            if request.headers.get("Upgrade", "").lower() == "websocket":
                front = web.WebSocketResponse(max_msg_size=0)
                async with session.ws_connect(to, headers=headers, max_msg_size=0) as back:
                    await front.prepare(request)
                    await asyncio.gather(one_way(front, back), one_way(back, front))
                return front
            data = await request.read()
            async with session.request(
                request.method, to, headers=headers, data=data, allow_redirects=False
            ) as answer:
                kept = {k: v for k, v in answer.headers.items() if k not in ("Content-Length", "Connection")}
                return web.Response(status=answer.status, headers=kept, body=await answer.read())

    async def serve() -> None:
        app = web.Application()
        app.router.add_route("*", path + "{rest:.*}", pass_on)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ready.set()
        while not over.is_set():
            await asyncio.sleep(0.05)
        await runner.cleanup()

    port, ready, over = free_port(), threading.Event(), threading.Event()
    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(LIMIT_S)
        yield f"http://127.0.0.1:{port}{path}"
    finally:
        over.set()
        thread.join(LIMIT_S)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Headless Chromium; skips with the way out where it is not installed."""
    playwright = pytest.importorskip("playwright.sync_api", reason="pip install 'streamseg[dev]'")
    pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no browser: apt-get install chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        new_context = browser.new_context

        def patient(**options: Any) -> Any:
            context = new_context(**options)
            context.set_default_timeout(LIMIT_S * 1000)
            return context

        browser.new_context = patient
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    """A page whose errors fail the test."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


class Tile:
    """One stream's tile on the page."""

    def __init__(self, page: Any, stream: str) -> None:
        self.page = page
        self.here = page.locator(f'.tile[data-stream="{stream}"]')

    @property
    def drawn(self) -> int:
        return int(self.here.get_attribute("data-drawn") or 0) if self.here.count() else 0

    @property
    def veil(self) -> str:
        """What is written over the picture, empty while all is well."""
        veil = self.here.locator(".veil")
        return str(veil.text_content()) if veil.is_visible() else ""

    def wait_drawn(self, more: int = 5) -> None:
        """Wait until so many more frames were drawn."""
        until(lambda: self.here.count(), "the tile")
        first = self.drawn
        until(lambda: self.drawn >= first + more or self.drawn < first, f"{more} frames; {self.veil!r}")

    def button(self, what: str) -> Any:
        return self.here.locator(f'[data-do="{what}"]')

    def pixel(self, u: float, v: float) -> tuple[int, int, int]:
        """The colour drawn at (u, v), each from 0 to 1."""
        script = """(canvas, [u, v]) => [...canvas.getContext("2d").getImageData(
            Math.floor(u * canvas.width), Math.floor(v * canvas.height), 1, 1).data].slice(0, 3)"""
        red, green, blue = self.here.locator(".stage canvas").evaluate(script, [u, v])
        return red, green, blue

    def columns(self, colour: tuple[int, int, int]) -> int:
        """How many pixels of the middle row have about this colour."""
        script = """(canvas, [r, g, b]) => {
            const y = Math.floor(canvas.height / 2);
            const row = canvas.getContext("2d").getImageData(0, y, canvas.width, 1).data;
            let n = 0;
            for (let i = 0; i < row.length; i += 4)
                n += Math.abs(row[i] - r) + Math.abs(row[i + 1] - g) + Math.abs(row[i + 2] - b) < 90;
            return n; }"""
        return int(self.here.locator(".stage canvas").evaluate(script, list(colour)))
