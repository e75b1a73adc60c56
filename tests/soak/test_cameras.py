"""Cameras that are stopped, cut, stalled and restarted under a running daemon come back every time."""

from __future__ import annotations

import re
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.client import Subscription, subscribe
from streamseg.types import Mask
from tests.integration.daemons import run_daemon
from tests.integration.live import RtspServer, rtsp
from tests.ports import free_port
from tests.soak.cable import Cable
from tests.soak.flat import Holds, assert_nothing_leaked, report, settled

pytestmark = [pytest.mark.slow, pytest.mark.alone]

__all__ = ["rtsp"]

STREAMS = ("a", "b", "c")
TIMEOUT_S = 2.0  # of a silent source
GRACE_S = 2.0  # beyond the pause that the daemon had announced
LIMIT_S = 60.0


class Watch:
    """Reads all masks, and knows the epoch of each stream."""

    def __init__(self, masks: Subscription, lines: list[str], server: RtspServer) -> None:
        self.server_deaths = 0
        self._server = server
        self._reachable_s = 0.0
        self._masks = masks
        self._lines = lines
        self.epochs = dict.fromkeys(STREAMS, -1)

    def play(self, masks: int = 30) -> None:
        """Read until every stream has delivered so many: longer pauses are forgotten after 25 frames."""
        seen = dict.fromkeys(STREAMS, 0)
        deadline = time.monotonic() + LIMIT_S
        while min(seen.values()) < masks:
            assert time.monotonic() < deadline, (seen, self._lines[-10:])
            mask = self._read()
            self.epochs[mask.stream] = max(mask.epoch, self.epochs[mask.stream])
            seen[mask.stream] += 1

    def returned(self, since_s: float) -> float:
        """Wait until each stream is in a new epoch; how much longer than announced the slowest took (s)."""
        said = len(self._lines)
        self._reachable_s = since_s
        before = dict(self.epochs)
        deadline = time.monotonic() + LIMIT_S
        worst_s = 0.0
        while any(self.epochs[name] == before[name] for name in STREAMS):
            assert time.monotonic() < deadline, (before, self.epochs, self._lines[-10:])
            mask = self._read()
            if mask.epoch > self.epochs[mask.stream]:
                self.epochs[mask.stream] = mask.epoch
                took_s = time.monotonic() - self._reachable_s
                worst_s = max(worst_s, took_s - self._pauses(mask.stream, said))
        return worst_s

    def _read(self) -> Mask:
        """The next mask. GStreamer's server itself may abort when it is cut off; then it is started again."""
        deadline = time.monotonic() + LIMIT_S
        while True:
            try:
                return self._masks.read(1.0)
            except TimeoutError:
                assert time.monotonic() < deadline, f"no mask; the daemon says {self._lines[-15:]}"
                if not self._server.alive:
                    self._server.kill()
                    self._server.start()
                    self.server_deaths += 1
                    self._reachable_s = time.monotonic()

    def _pauses(self, stream: str, since_line: int) -> float:
        """What the daemon said it would wait for a stream: the pause it was in, and those after it."""
        pauses = [
            float(found[1])
            for line in self._lines
            if (found := re.search(rf"{stream}: .*; trying again in ([\d.]+) s", line))
        ]
        later = [
            float(found[1])
            for line in self._lines[since_line:]
            if (found := re.search(rf"{stream}: .*; trying again in ([\d.]+) s", line))
        ]
        return sum(later) + (pauses[-len(later) - 1] if len(pauses) > len(later) else 0.0)


@pytest.fixture
def cable(rtsp: RtspServer) -> Iterator[Cable]:
    with Cable(rtsp.port) as cable:
        yield cable


@pytest.mark.parametrize("rounds", [4, pytest.param(50, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_three_streams_come_back_every_time_and_nothing_is_left_behind(
    tmp_path: Path, tiny_engine: Path, rtsp: RtspServer, cable: Cable, rounds: int
) -> None:
    port = free_port()
    config = tmp_path / "site.toml"
    config.write_text(
        "".join(
            f'[streams.{name}]\nsource = "rtsp://127.0.0.1:{cable.port}/live"\ntimeout_s = {TIMEOUT_S}\n'
            for name in STREAMS
        )
        + f'[engine]\nname = "{tiny_engine}"\nthreads = 1\nprecision = "fp32"\nreplicas = 1\n'
        f'[publish]\nendpoint = "tcp://127.0.0.1:{port}"\nqueue = 1000\n'
    )
    late: list[float] = []
    before: Holds | None = None
    with (
        run_daemon(config) as daemon,
        subscribe(f"tcp://127.0.0.1:{port}", newest=False, queue=10_000, timeout_s=LIMIT_S) as masks,
    ):
        watch = Watch(masks, daemon.lines, rtsp)
        pid = daemon.process.pid
        for number in range(rounds):
            watch.play()
            if number == max(1, rounds // 10):
                before = settled(pid)
            back_s = disturb(("stopped", "cut", "stalled", "restarted")[number % 4], rtsp, cable)
            late.append(watch.returned(back_s))
        watch.play()
        assert before is not None
        after = settled(pid, before)
        assert masks.stats.lost == 0
    report(
        f"{rounds} interruptions, 3 streams: back {statistics.median(late):.2f} s after the pause announced "
        f"(median, worst {max(late):.2f} s); memory {before.memory >> 20} -> {after.memory >> 20} MiB, "
        f"threads {before.threads} -> {after.threads}, files {before.files} -> {after.files}, "
        f"sockets {before.sockets} -> {after.sockets}; the server itself died {watch.server_deaths} times"
    )
    if rounds >= 50:  # memory settles within minutes
        assert_nothing_leaked(before, after)
        assert max(late) <= GRACE_S, late
    assert after.threads <= before.threads
    assert after.files <= before.files
    assert after.sockets <= before.sockets


def disturb(how: str, server: RtspServer, cable: Cable) -> float:
    """Do it to the server; the time (monotonic s) at which it could be reached again."""
    match how:
        case "stopped":  # for longer than a source may be silent
            server.kill()
            time.sleep(TIMEOUT_S)
            server.start()
        case "cut":
            assert cable.cut() >= 2 * len(STREAMS)
        case "stalled":
            server.freeze()
            time.sleep(TIMEOUT_S + 0.5)
            server.thaw()
        case "restarted":
            server.kill()
            server.start()
    return time.monotonic()
