"""Ten seconds after what held a live stream up has ended, its masks are as young as at first."""

from __future__ import annotations

import io
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import pytest

from streamseg.client import Subscription, subscribe
from streamseg.types import Mask
from tests.cameras import HlsService, RtspCamera, encoded, web_server, write_segments
from tests.integration.daemons import run_daemon
from tests.integration.live import RtspServer, rtsp
from tests.ports import free_port
from tests.soak.cable import Cable
from tests.soak.flat import report

pytestmark = pytest.mark.soak  # what it measures needs a machine that does nothing else

__all__ = ["rtsp"]

CAUSES = ("starved", "stopped", "stalled", "late segments", "stepped clock")
AFTER_S, LOOK_S = 10.0, 3.0
MORE_S = 2.0  # what the age may be above the first one then
CLIP_S = 120


@dataclass
class Ages:
    """True ages of masks, as they come: (monotonic s, stream, s)."""

    of: dict[str, Callable[[Mask, float], float | None]]
    seen: list[tuple[float, str, float]] = field(default_factory=list)

    def read(self, masks: Subscription, over: threading.Event) -> None:
        while not over.is_set():
            try:
                mask = masks.read(1.0)
            except TimeoutError:
                continue
            age_s = self.of[mask.stream](mask, time.time())
            if age_s is not None:
                self.seen.append((time.monotonic(), mask.stream, age_s))

    def between(self, stream: str, first_s: float, last_s: float) -> list[float]:
        return [age for at, name, age in self.seen if name == stream and first_s <= at < last_s]


@pytest.mark.parametrize(
    "rounds",
    [
        pytest.param(len(CAUSES), marks=pytest.mark.timeout(300)),
        pytest.param(50, marks=pytest.mark.timeout(3600)),
    ],
)
def test_a_live_stream_returns_to_the_live_edge(
    tmp_path: Path, tiny_engine: Path, rtsp: RtspServer, rounds: int
) -> None:
    rng = random.Random(rounds)
    hls = HlsService(write_segments(tmp_path, CLIP_S), window=20)
    port = free_port()
    with ExitStack() as stack:
        cable = stack.enter_context(Cable(rtsp.port))
        camera = stack.enter_context(RtspCamera(encoded((1080, 1920), gop=50)))
        web = stack.enter_context(web_server(hls.answer))
        sources = {"rtsp": f"rtsp://127.0.0.1:{cable.port}/live", "hd": camera.url, "hls": f"{web}/live.m3u8"}
        config = tmp_path / "site.toml"
        config.write_text(
            "".join(f'[streams.{name}]\nsource = "{source}"\n' for name, source in sources.items())
            + f'[engine]\nname = "{tiny_engine}"\nthreads = 1\nprecision = "fp32"\nreplicas = 1\n'
            f'[publish]\nendpoint = "tcp://127.0.0.1:{port}"\nqueue = 1000\n'
        )
        daemon = stack.enter_context(run_daemon(config))
        masks = stack.enter_context(
            subscribe(f"tcp://127.0.0.1:{port}", newest=False, queue=10_000, timeout_s=60)
        )
        ages = Ages({"rtsp": by_its_clock(masks), "hd": by_its_camera(camera), "hls": by_segments(hls)})
        stack.enter_context(reading(ages, masks))
        until_masks(ages, sources)
        time.sleep(5)
        now = time.monotonic()
        first = {name: statistics.median(ages.between(name, now - 3, now)) for name in sources}
        worst: dict[tuple[str, str], list[float]] = {}
        late: list[str] = []
        for number in range(rounds):
            cause = CAUSES[number % len(CAUSES)]
            hold_up(cause, rng.uniform(1, 10), daemon.process.pid, cable, camera, hls)
            ended = time.monotonic()
            time.sleep(AFTER_S + LOOK_S)
            for name in sources:
                then = ages.between(name, ended + AFTER_S, ended + AFTER_S + LOOK_S)
                more = max(then, default=float("inf")) - first[name]
                worst.setdefault((cause, name), []).append(more)
                if more > MORE_S:
                    late.append(f"round {number}, {cause}: {name} is {more:.1f} s older")
                    report(f"{late[-1]}; {daemon.lines[-8:]}")
    for (cause, name), more_s in sorted(worst.items()):
        report(
            f"{cause}, {name}: {len(more_s)} times; 10 s later its oldest mask is older than at first by "
            f"{statistics.median(more_s):+.2f} s (median), {max(more_s):+.2f} s (worst)"
        )
    report(f"ages at first: {', '.join(f'{name} {age:.2f} s' for name, age in first.items())}")
    assert late == []


def hold_up(cause: str, seconds: float, pid: int, cable: Cable, camera: RtspCamera, hls: HlsService) -> None:
    """The fault itself; returns when it has ended."""
    match cause:
        case "starved":  # a twentieth of the time
            until = time.monotonic() + seconds + 5
            while time.monotonic() < until:
                with stopped(pid):
                    time.sleep(0.228)
                time.sleep(0.012)
        case "stopped":
            with stopped(pid):
                time.sleep(seconds)
        case "stalled":
            cable.held.set()
            camera.held.set()
            time.sleep(min(seconds, 4.5))  # below timeout_s
            cable.held.clear()
            camera.held.clear()
        case "late segments":
            hls.late_until_s = time.monotonic() + seconds
            time.sleep(seconds)
        case "stepped clock":
            camera.step_s += seconds * (-1) ** round(seconds)
            time.sleep(1)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def reading(ages: Ages, masks: Subscription) -> Iterator[None]:
    over = threading.Event()
    thread = threading.Thread(target=ages.read, args=(masks, over))
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def until_masks(ages: Ages, streams: dict[str, str]) -> None:
    deadline = time.monotonic() + 60
    while {name for _, name, _ in ages.seen} < set(streams):
        assert time.monotonic() < deadline, ages.seen[-3:]
        time.sleep(0.05)


def by_its_clock(masks: Subscription) -> Callable[[Mask, float], float | None]:
    """GStreamer's server stamps with this machine's clock."""
    return lambda mask, now: masks.age_s(mask)


def by_its_camera(camera: RtspCamera) -> Callable[[Mask, float], float | None]:
    def age_s(mask: Mask, now: float) -> float | None:
        taken = camera.taken.get(mask.pts) if mask.pts is not None else None
        return None if taken is None else now - taken

    return age_s


def by_segments(hls: HlsService) -> Callable[[Mask, float], float | None]:
    """Since a picture's place in the clip, which is played over and over, was reached last."""
    with av.open(io.BytesIO(hls.segments[0])) as container:
        zero = min(packet.pts for packet in container.demux(video=0) if packet.pts is not None)

    def age_s(mask: Mask, now: float) -> float | None:
        if mask.pts is None:
            return None
        # Below its first time stamp by more than a minute FFmpeg takes one for wrapped around, and adds 2^33.
        place_s = float((mask.pts - zero) % (1 << 33) * Fraction(mask.time_base))
        return (time.monotonic() - hls.begun_s - place_s) % CLIP_S

    return age_s
