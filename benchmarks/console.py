"""The web console in a browser: whether it keeps up, and what it costs the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from benchmarks import print_json, run_command
from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.cli.settings import as_json, options_from
from streamseg.client.control import ControlClient
from streamseg.config import EngineConfig, Precision
from streamseg.errors import StreamsegError, UsageError
from streamseg.net.control_sockets import one_running
from streamseg.web.setup import missing_extra

START_WITHIN_S = 30.0
SETTLE_S = 1.5
SAMPLE_EVERY_S = 0.25


class WallResult(msgspec.Struct, frozen=True, kw_only=True):
    """A wall of streams in headless Chromium on this machine."""

    tiles: int
    fps: float  # of each stream, as set
    published_fps: float  # masks of all streams
    shown_fps: float  # frames drawn, of all tiles
    shown_share: float  # of the masks published
    least_share: float  # the same of the tile that was shown least
    age: Spread  # of the frames when they were drawn, since they were captured
    machine: Machine


class CostResult(msgspec.Struct, frozen=True, kw_only=True):
    """One stream as fast as it goes, with the console closed and open by turns."""

    closed_fps: float
    open_fps: dict[str, float]  # by who looks: a browser on this machine, or a reader that draws nothing
    ratio: dict[str, float]  # open to closed, the median over the turns
    shown_fps: dict[str, float]
    machine: Machine


def bench_wall(tiles: int, fps: float, seconds: float, engine: EngineConfig) -> WallResult:
    """Show demo streams for so many seconds; raises UsageError without a browser."""
    streams = {f"s{i}": f"realtime = true\nmax_fps = {fps}" for i in range(tiles)}
    with _browser() as browser, _daemon(streams, engine) as (url, control):
        page = browser.new_page(viewport={"width": 1600, "height": 1400})
        page.goto(url)
        _wait(lambda: len(_drawn(page)) == tiles and min(_drawn(page).values()) > 5)
        time.sleep(SETTLE_S)
        begun_s, published, drawn = time.monotonic(), _published(control), _drawn(page)
        ages: list[float] = []
        while time.monotonic() - begun_s < seconds:
            time.sleep(SAMPLE_EVERY_S)
            ages += page.evaluate("[...document.querySelectorAll('.tile')].map((t) => +t.dataset.ageMs)")
        span_s = time.monotonic() - begun_s
        published_after, drawn_after = _published(control), _drawn(page)
    made = {name: published_after[name] - published[name] for name in published}
    shown = {name: drawn_after[name] - drawn[name] for name in drawn}
    return WallResult(
        tiles=tiles,
        fps=fps,
        published_fps=round(sum(made.values()) / span_s, 1),
        shown_fps=round(sum(shown.values()) / span_s, 1),
        shown_share=round(sum(shown.values()) / max(1, sum(made.values())), 3),
        least_share=round(min(shown[name] / max(1, made[name]) for name in made), 3),
        age=spread_of(ages),
        machine=this_machine(),
    )


def bench_cost(turns: int, seconds: float, engine: EngineConfig) -> CostResult:
    """The daemon's throughput with the console closed, in a browser, and with a reader that draws nothing."""
    closed: list[float] = []
    opened: dict[str, list[float]] = {"browser": [], "reader": []}
    shown: dict[str, list[float]] = {"browser": [], "reader": []}
    with _browser() as browser, _daemon({"s0": ""}, engine) as (url, control):
        page = browser.new_page()
        reader = _Reader(url)

        def measure() -> float:
            time.sleep(SETTLE_S)
            begun_s, before = time.monotonic(), _published(control)["s0"]
            time.sleep(seconds)
            return (_published(control)["s0"] - before) / (time.monotonic() - begun_s)

        for _ in range(turns):
            closed.append(measure())
            page.goto(url)
            _wait(lambda: _drawn(page).get("s0", 0) > 5)
            before, begun_s = _drawn(page)["s0"], time.monotonic()
            opened["browser"].append(measure())
            shown["browser"].append((_drawn(page)["s0"] - before) / (time.monotonic() - begun_s))
            page.goto("about:blank")
            closed.append(measure())
            with reader:
                before, begun_s = reader.frames, time.monotonic()
                opened["reader"].append(measure())
                shown["reader"].append((reader.frames - before) / (time.monotonic() - begun_s))
    beside = {"browser": closed[0::2], "reader": closed[1::2]}
    ratios = {
        who: statistics.median(on / off for on, off in zip(opened[who], beside[who], strict=True))
        for who in opened
    }
    return CostResult(
        closed_fps=round(statistics.median(closed), 1),
        open_fps={who: round(statistics.median(fps), 1) for who, fps in opened.items()},
        ratio={who: round(ratio, 3) for who, ratio in ratios.items()},
        shown_fps={who: round(statistics.median(fps), 1) for who, fps in shown.items()},
        machine=this_machine(),
    )


class _Reader:
    """Stands for a page on another machine: takes the frames of one tile as a browser does, draws nothing."""

    def __init__(self, url: str) -> None:
        self.frames = 0
        self._url = url

    def __enter__(self) -> _Reader:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._read()), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    async def _read(self) -> None:
        import aiohttp

        async with aiohttp.ClientSession() as session, session.ws_connect(f"{self._url}link") as sock:
            await sock.send_json({"type": "watch", "tiles": {"s0": {"width": 640}}})
            while not self._stop.is_set():
                message = await sock.receive()
                if message.type is aiohttp.WSMsgType.BINARY and b'"kind":"picture"' in message.data[:64]:
                    self.frames += 1
                    await sock.send_json({"type": "drawn", "stream": "s0"})


@contextlib.contextmanager
def _daemon(streams: dict[str, str], engine: EngineConfig) -> Iterator[tuple[str, ControlClient]]:
    """A daemon with a console, in a process of its own; yields the console's address and a control client."""
    if missing := missing_extra():
        raise UsageError(missing)
    tables = "".join(
        f'[streams.{name}]\nsource = "demo:"\nloop = true\n{more}\n' for name, more in streams.items()
    )
    size = f"input_size = {list(engine.input_size)}\n" if engine.input_size is not None else ""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "bench.toml"
        config.write_text(
            f'[engine]\nname = "{engine.name}"\nbackend = "onnx"\nprecision = "{engine.precision}"\n{size}'
            f'[publish]\nendpoint = "tcp://127.0.0.1:0"\n[web]\nlisten = "127.0.0.1:0"\n{tables}'
        )
        process = subprocess.Popen(
            [sys.executable, "-m", "streamseg", "run", str(config)], stderr=subprocess.PIPE, text=True
        )
        assert process.stderr is not None
        try:
            url = next((line.split()[-1] for line in process.stderr if "the console is at" in line), "")
            if not url:
                raise StreamsegError("the daemon ended before its console listened")
            threading.Thread(target=process.stderr.read, daemon=True).start()  # so that the pipe never fills
            with ControlClient(one_running(str(process.pid)), timeout_s=START_WITHIN_S) as control:
                _wait(lambda: control.status().state == "running")
                yield url, control
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def _browser() -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError as error:
        raise UsageError("playwright is not installed; pip install 'streamseg[dev]'") from error
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise UsageError("chromium is not installed; apt-get install chromium")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=chromium, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        try:
            yield browser
        finally:
            browser.close()


def _published(control: ControlClient) -> dict[str, int]:
    return {name: stream.published for name, stream in control.status().streams.items()}


def _drawn(page: Any) -> dict[str, int]:
    """Frames drawn so far, by stream."""
    script = "[...document.querySelectorAll('.tile')].map((t) => [t.dataset.stream, +t.dataset.drawn || 0])"
    return dict(page.evaluate(script))


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + START_WITHIN_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise StreamsegError(f"nothing was shown within {START_WITHIN_S:g} s")
        time.sleep(0.1)


@click.command()
@click.option("--tiles", type=click.IntRange(1, 64), default=9, help="Streams on the wall.")
@click.option("--fps", type=click.FloatRange(0.1), default=8.0, help="Frames a second of each.")
@click.option("--turns", type=click.IntRange(0), default=4, help="Turns of the second part.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "precision", "input_size")
@click.option("--seconds", type=click.FloatRange(1), default=15.0, help="How long the wall is measured.")
@as_json
def command(
    tiles: int,
    fps: float,
    turns: int,
    seconds: float,
    name: str,
    precision: Precision,
    input_size: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """The web console in headless Chromium: a wall of streams, and what one costs a busy daemon.

    A smaller --input-size makes the engine faster; the console still gets the same pictures and masks.
    """
    engine = EngineConfig(name=name, precision=precision, input_size=input_size)
    wall = bench_wall(tiles, fps, seconds, engine)
    cost = bench_cost(turns, seconds / 3, engine) if turns else None
    if as_json:
        return print_json({"wall": wall, "cost": cost})
    click.echo(
        f"{wall.tiles} tiles of {wall.fps:g} fps: {wall.published_fps} masks/s, {wall.shown_fps} shown/s "
        f"({wall.shown_share:.1%}, the least {wall.least_share:.1%})\n"
        f"age when drawn, ms: p50 {wall.age.p50_ms:.0f}, p95 {wall.age.p95_ms:.0f}, p99 {wall.age.p99_ms:.0f}"
    )
    if cost is not None:
        click.echo(f"one stream as fast as it goes: {cost.closed_fps} masks/s with the console closed")
        for who, ratio in cost.ratio.items():
            click.echo(f"  {who}: {cost.open_fps[who]} masks/s ({ratio:.1%}), {cost.shown_fps[who]} shown/s")
    click.echo(wall.machine.processor)


if __name__ == "__main__":
    run_command(command)
