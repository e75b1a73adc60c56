"""A daemon with a console, and a real browser to look at it: Debian's chromium, driven by Playwright."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from streamseg.client.control import ControlClient
from streamseg.net.control_sockets import one_running
from tests.integration.daemons import Lines, run_daemon
from tests.ports import free_port
from tests.waiting import until


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
        return ControlClient(one_running(str(self.pid)))

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


def live(engine: Path, *clips: Path | str) -> list[str | Path]:
    sources = [word for one in clips for word in ("--source", str(one))]
    return ["--engine", str(engine), "--realtime", "--loop", *sources]


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
