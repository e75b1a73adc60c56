"""The CRF's process: real children that answer, hang, die, and are replaced."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction

import msgspec
import numpy as np
import psutil
import pytest

from streamseg.config import RefinementConfig
from streamseg.crf import CrfParams
from streamseg.refinement.crf_process import CrfWorker
from streamseg.refinement.crf_step import CrfSetup, Keyframe, refine_picture
from streamseg.runtime.backoff import Backoff
from streamseg.runtime.counters import Stats
from streamseg.runtime.mailbox import Closed
from streamseg.types import Frame, Geometry, Logits, Refined, Stamp
from tests.waiting import LIMIT_S, until

SIZE = (48, 64)
SETUP = CrfSetup(
    CrfParams(
        smoothness_sigma=1, appearance_weight=4, appearance_sigma_xy=20, appearance_sigma_rgb=3, iterations=3
    ),
    "balanced",
    1,
    "native",
    (False, False, True),
)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "FIRST_S", 0.01)


def keyframe(seq: int = 0, stream: str = "gate", age_s: float = 0.0, bad: bool = False) -> Keyframe:
    rng = np.random.default_rng(seq)
    rgb = rng.integers(0, 256, (*SIZE, 3)).astype(np.uint8)
    logits = rng.normal(0, 2, (3, 12, 16)).astype(np.float32)
    if bad:
        logits[0, 0, 0] = np.nan
    decoded_ns = time.monotonic_ns() - round(age_s * 1e9)
    frame = Frame(Stamp(stream, 0, seq, None, Fraction(1, 25), 0, "arrival"), rgb, decoded_ns)
    return Keyframe(SETUP, Logits(frame, logits, Geometry(SIZE, SIZE)), SIZE)


class Running:
    """A worker in its thread, with what it delivered."""

    def __init__(self, config: RefinementConfig, script: str | None, before: str) -> None:
        self.stats = Stats()
        self.delivered: list[Refined] = []
        self.ended: list[BaseException | None] = []
        command = None if script is None else [sys.executable, "-c", before + script]
        config = msgspec.structs.replace(config, priority="normal")  # others may use all of the machine
        self.worker = CrfWorker(config, self.stats, command)
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            for refined in self.worker.refined():
                self.delivered.append(refined)
            self.ended.append(None)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.ended.append(error)

    @property
    def unrefined(self) -> dict[str, int]:
        return dict(self.stats.of("gate").unrefined)

    def feed_until(self, done: Callable[[], bool], **how: bool) -> None:
        """Submit keyframes, one after another, until `done`."""
        seq = 0
        while not done():
            before = self.settled()
            self.worker.submit(keyframe(seq, **how))
            until(
                lambda before=before: self.settled() > before or done() or self.ended, lambda: self.unrefined
            )
            assert not self.ended
            seq += 1

    def settled(self) -> int:
        return len(self.delivered) + sum(self.unrefined.values())  # counted before it is delivered


PREAMBLE = """
import os, signal, socket, sys, time

from streamseg.runtime.channel import Channel
signal.signal(signal.SIGTERM, signal.SIG_IGN)
channel = Channel(socket.socket(fileno=int(sys.argv[1])))
channel.receive(); channel.send("ready")
"""
STARTS_SLOWLY = """
import runpy, time
time.sleep(2.5)
runpy.run_module("streamseg.refinement.crf_worker", run_name="__main__", alter_sys=True)
"""
HANGS = "channel.receive(); time.sleep(1000)"
NEVER_READS = "time.sleep(1000)"
DIES = "channel.receive(); os.kill(os.getpid(), signal.SIGSEGV)"


@contextmanager
def running(
    config: RefinementConfig | None = None, script: str | None = None, before: str | None = None
) -> Iterator[Running]:
    config = config or RefinementConfig(max_age_s=60, timeout_s=LIMIT_S)
    run = Running(config, script, PREAMBLE if before is None else before)
    run.thread.start()
    try:
        yield run
    finally:
        run.worker.close()
        run.thread.join(LIMIT_S)
        assert not run.thread.is_alive()


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def test_a_keyframe_comes_back_refined_and_as_the_pure_function_says() -> None:
    with running() as run:
        run.feed_until(lambda: bool(run.delivered))
        refined = run.delivered[0]
    key = keyframe(refined.logits.frame.seq)
    want = refine_picture(SETUP, key.logits.array, key.logits.frame.rgb, SIZE)
    assert want.labels is not None
    np.testing.assert_array_equal(refined.labels, want.labels)
    np.testing.assert_array_equal(refined.log_probabilities, want.log_probabilities)
    assert refined.log_probabilities.shape == (3, 24, 32)
    assert run.stats.of("gate").refined == 1
    assert isinstance(run.ended[0], Closed)
    assert children() == []


def test_nothing_is_started_before_the_first_keyframe() -> None:
    with running() as run:
        assert children() == []
        run.feed_until(lambda: bool(run.delivered))
        assert len(children()) == 1


def test_a_process_that_is_killed_is_replaced_counted_and_said(caplog: pytest.LogCaptureFixture) -> None:
    with running() as run, caplog.at_level(logging.WARNING):
        run.feed_until(lambda: bool(run.delivered))
        (first,) = children()
        os.kill(first.pid, signal.SIGKILL)
        delivered = len(run.delivered)
        run.feed_until(lambda: len(run.delivered) > delivered)
        (second,) = children()
        assert second.pid != first.pid
        assert run.stats.crf_restarts == 1
        assert run.unrefined["lost"] == 1
    assert "the CRF's process ended (signal SIGKILL); restarting" in caplog.text


@pytest.mark.parametrize(
    ("script", "word"), [(HANGS, "no answer"), (NEVER_READS, "no answer"), (DIES, "signal SIGSEGV")]
)
def test_a_process_that_hangs_or_crashes_is_killed_and_tried_again(
    script: str, word: str, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        running(RefinementConfig(max_age_s=60, timeout_s=0.2), script) as run,
        caplog.at_level(logging.WARNING),
    ):
        run.feed_until(lambda: run.stats.crf_restarts >= 2)
        assert run.delivered == []
        assert len(children()) <= 1
    assert word in caplog.text


def test_closing_does_not_wait_for_a_process_that_hangs() -> None:
    with running(script=HANGS) as run:
        run.worker.submit(keyframe())
        until(children, "the process")
        begun = time.monotonic()
        run.worker.close()
        run.thread.join(LIMIT_S)
        assert time.monotonic() - begun < 60  # not the budget of LIMIT_S
    assert children() == []


def test_a_keyframe_that_waits_gives_way_to_a_newer_one_of_its_stream() -> None:
    stats = Stats()
    delivered: list[Refined] = []
    config = RefinementConfig(max_age_s=60, timeout_s=LIMIT_S, priority="normal")
    worker = CrfWorker(config, stats)
    for seq in range(3):
        worker.submit(keyframe(seq))
    worker.submit(keyframe(0, "yard"))
    assert stats.of("gate").unrefined["replaced"] == 2
    assert not stats.of("yard").unrefined

    def run() -> None:
        with contextlib.suppress(Closed):
            for refined in worker.refined():
                delivered.append(refined)

    thread = threading.Thread(target=run)
    thread.start()
    until(lambda: len(delivered) == 2, "two refined keyframes")
    worker.close()
    thread.join(LIMIT_S)
    assert {(r.logits.frame.stream, r.logits.frame.seq) for r in delivered} == {("gate", 2), ("yard", 0)}


def test_a_keyframe_that_is_too_old_is_left_out() -> None:
    with running(RefinementConfig(max_age_s=0.5)) as run:
        run.worker.submit(keyframe(age_s=1.0))
        until(lambda: run.unrefined, "what became of it")
        assert run.unrefined == {"too old": 1}
        assert children() == []


def test_the_first_keyframe_is_refined_however_long_the_process_takes_to_start() -> None:
    config = RefinementConfig(max_age_s=2.0, timeout_s=LIMIT_S)
    with running(config, STARTS_SLOWLY, before="") as run:
        run.worker.submit(keyframe())
        until(lambda: run.settled(), lambda: run.unrefined)
        assert run.unrefined == {}


def test_a_keyframe_the_crf_refuses_costs_itself_and_nothing_else() -> None:
    with running() as run:
        run.feed_until(lambda: run.unrefined.get("failed", 0) == 1, bad=True)
        assert "NaN" in run.stats.of("gate").refine_error or "nan" in run.stats.of("gate").refine_error
        (first,) = children()
        run.feed_until(lambda: bool(run.delivered))
        assert [p.pid for p in children()] == [first.pid]
        assert run.stats.crf_restarts == 0


@pytest.mark.parametrize(("priority", "nice"), [("idle", 19), ("low", 10), ("normal", 0)])
def test_the_process_takes_the_cpu_share_it_is_given(priority: str, nice: int) -> None:
    code = (
        "import os; from streamseg.refinement.crf_worker import PRIORITIES, lower_priority; "
        f"before = os.nice(0); lower_priority(*PRIORITIES[{priority!r}]); "
        "print(os.nice(0) - before, os.nice(0), os.sched_getscheduler(0))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    added, absolute, scheduler = map(int, out.split())
    assert added == nice or absolute == 19
    if hasattr(os, "SCHED_IDLE"):
        assert (scheduler == os.SCHED_IDLE) == (priority == "idle")
