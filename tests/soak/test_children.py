"""The daemon's children are killed at random moments, again and again: masks go on without a gap."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest

from streamseg.client import Subscription, subscribe
from streamseg.config import (
    Config,
    EngineConfig,
    PublishConfig,
    RefinementConfig,
    StreamConfig,
    WebConfig,
)
from streamseg.daemon import Daemon
from streamseg.runtime.backoff import Backoff
from streamseg.types import Mask
from tests.media import draw_clip
from tests.soak.flat import Holds, report, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

CHILDREN = {"crf": "streamseg.refinement.crf_worker", "web": "streamseg.web"}
WAIT_S = 90.0


def child_of(module: str) -> psutil.Process | None:
    """Our child that runs this module, when there is one."""
    for process in psutil.Process().children():
        try:
            if module in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE:
                return process
        except psutil.NoSuchProcess:
            continue
    return None


@pytest.mark.parametrize("kills", [6, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_masks_go_on_whichever_child_is_killed(
    tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch, kills: int
) -> None:
    pytest.importorskip("aiohttp", reason="the console needs the extra web")
    monkeypatch.setattr(Backoff, "FIRST_S", 0.01)
    monkeypatch.setattr(Backoff, "MOST_S", 0.1)
    rng = random.Random(int(os.environ.get("STREAMSEG_SEED", "5")))
    clip = draw_clip(tmp_path / "red.mp4", frames=30)
    config = Config(
        streams={"gate": StreamConfig(source=str(clip), realtime=True, loop=True)},
        engine=EngineConfig(name=str(tiny_engine), threads=1, precision="fp32", replicas=1),
        publish=PublishConfig(endpoint="tcp://127.0.0.1:0", queue=10_000),
        refinement=RefinementConfig(priority="normal", max_age_s=60, timeout_s=60),
        web=WebConfig(listen="127.0.0.1:0"),
    )
    daemon = Daemon(config)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    done = 0
    killed: dict[str, int] = dict.fromkeys(CHILDREN, 0)
    longest_s = 0.0
    before: Holds | None = None
    try:
        assert daemon.ready.wait(WAIT_S)
        with subscribe(daemon.endpoint, refined=True, newest=False, queue=100_000, timeout_s=WAIT_S) as masks:
            reader = Reader(masks)
            for name in itertools.islice(itertools.cycle(CHILDREN), kills):
                until(lambda name=name: child_of(CHILDREN[name]) is not None, f"no {name}", WAIT_S)  # type: ignore[misc]
                if done == max(2, kills // 5):
                    reader.refined()
                    before = at_rest()
                time.sleep(rng.uniform(0, 0.6))  # at a random moment of its life, its start included
                victim = child_of(CHILDREN[name])
                if victim is not None:
                    victim.send_signal(signal.SIGKILL)
                    killed[name] += 1
                done += 1
                longest_s = max(longest_s, reader.fresh(3))
            reader.refined()
            until(lambda: child_of(CHILDREN["web"]) is not None, "no console", WAIT_S)
            assert masks.stats.lost == 0
            assert before is not None
            after = at_rest()
        assert thread.is_alive()
    finally:
        daemon.stop()
        thread.join(WAIT_S)
    assert not thread.is_alive()
    assert all(child_of(module) is None for module in CHILDREN.values())
    report(
        f"{sum(killed.values())} kills {killed}: three masks after at most {longest_s:.2f} s, none lost; "
        f"threads {before.threads} -> {after.threads}, files {before.files} -> {after.files}, "
        f"memory {before.memory >> 20} -> {after.memory >> 20} MiB"
    )
    assert sum(killed.values()) >= 0.9 * kills
    assert after.threads <= before.threads
    assert after.files <= before.files


def at_rest() -> Holds:
    """What we hold while both children are there and have been for a while: the console is connected."""
    held: list[Holds] = []
    while len(held) < 40 or any(h.files != held[-1].files for h in held[-40:]):
        until(lambda: all(child_of(m) is not None for m in CHILDREN.values()), "a child is missing", WAIT_S)
        held.append(Holds.of(os.getpid()))
        time.sleep(0.1)
        assert len(held) < 600
    return held[-1]


class Reader:
    """Reads every mask, and looks that none is missing."""

    def __init__(self, masks: Subscription) -> None:
        self._masks = masks
        self._last_n: int | None = None

    def fresh(self, count: int) -> float:
        """Read so many masks captured from now on; how long it took (s)."""
        begun_s, begun_ns = time.monotonic(), time.time_ns()
        while count:
            count -= self._read().captured_unix_ns > begun_ns
        return time.monotonic() - begun_s

    def refined(self) -> None:
        """Read until the CRF delivers."""
        deadline = time.monotonic() + WAIT_S
        while self._read().revision == 0:
            assert time.monotonic() < deadline, "no refined mask"

    def _read(self) -> Mask:
        mask = self._masks.read()
        if mask.revision == 0:
            assert self._last_n in (None, mask.n - 1), f"a gap between {self._last_n} and {mask.n}"
            self._last_n = mask.n
        return mask
