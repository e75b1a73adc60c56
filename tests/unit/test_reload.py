"""What a running daemon makes of changes: other settings, streams that go and come, a clock that is set."""

from __future__ import annotations

import time
from fractions import Fraction

import numpy as np
import pytest

from streamseg.config import Config, StreamConfig, parse_config
from streamseg.daemon.reload import plan_change
from streamseg.live.pipeline import age_ns
from streamseg.publish.topics import KNOWN_STREAMS, MaskNumbers
from streamseg.runtime.counters import Report, Stats
from streamseg.types import Clock, Frame, Stamp


def config(text: str) -> Config:
    return parse_config('[streams.gate]\nsource = "gate.mp4"\n' + text)


def test_only_what_differs_is_planned() -> None:
    running = config("[streams.yard]\nsource = 'y'\n[refinement.fusion]\ndecay = 0.5\n[publish]\nqueue = 3\n")
    new = config("max_fps = 3\n[streams.hall]\nsource = 'h'\n[publish]\nqueue = 4\n[log]\nlevel = 'debug'\n")
    change = plan_change(running, running.streams, new)
    assert list(change.added) == ["hall"]
    assert change.removed == ["yard"]
    assert change.changed == {"gate": StreamConfig(source="gate.mp4", max_fps=3)}
    assert change.applied == ["refinement.fusion.decay", "log.level"]
    assert change.needs_restart == ["publish.queue"]
    assert change.config.publish.queue == 3  # goes on as it is, and is named again at the next reload
    assert (change.config.refinement.fusion.decay, change.config.log.level) == (0.97, "debug")
    assert change.config.streams == new.streams


def test_the_same_file_plans_nothing_and_what_ctl_changed_is_put_back() -> None:
    running = config("")
    nothing = plan_change(running, running.streams, config(""))
    assert (nothing.added, nothing.removed, nothing.changed, nothing.applied) == ({}, [], {}, [])
    back = plan_change(running, {"extra": StreamConfig(source="x")}, config(""))
    assert (list(back.added), back.removed) == (["gate"], ["extra"])


def test_n_goes_on_when_a_stream_comes_again_and_what_is_remembered_is_bounded() -> None:
    numbers = MaskNumbers()
    assert [numbers.give("gate", 0, seq) for seq in range(3)] == [0, 1, 2]
    assert numbers.of("gate", 0, 1) == 1
    numbers.forget("gate")
    assert numbers.of("gate", 0, 1) is None
    assert numbers.give("gate", 1, 0) == 3
    for i in range(KNOWN_STREAMS + 100):
        numbers.give(f"s{i}", 0, 0)
        numbers.forget(f"s{i}")
    assert len(numbers._next) <= KNOWN_STREAMS + 1
    assert numbers.give("gate", 1, 1) == 4


def test_a_removed_streams_late_frames_are_counted_nowhere() -> None:
    stats = Stats()
    report = Report(stats, 0.0)
    stats.begin("gate").published = 5
    assert report.lines(1.0)[0][1].startswith("gate: 5.0 masks/s")
    stats.forget("gate")
    stats.of("gate").published += 1
    assert stats.all() == {}
    stats.begin("gate").published = 2
    assert report.lines(2.0)[0][1].startswith("gate: 2.0 masks/s")


def test_times_are_counted_in_buckets() -> None:
    stats = Stats().begin("gate")
    for us in (1, 1_000, 1_001, 5_000_000):
        stats.record({"infer": us}, age_us=us)
    assert stats.times["infer"].counts[:2] == [2, 1]
    assert stats.times["age"].counts[-1] == 1
    assert stats.times["infer"].sum_us == 5_002_002
    assert stats.age_ms == 5000.0
    assert stats.fps(time.monotonic()) == 4 / 5


@pytest.mark.parametrize(("clock", "hour_later"), [("arrival", False), ("camera", True)])
def test_setting_the_clock_makes_no_frame_old_that_was_dated_here(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, hour_later: bool
) -> None:
    stamp = Stamp("gate", 0, 0, 0, Fraction(1, 25), time.time_ns(), clock)
    frame = Frame(stamp, np.zeros((8, 8, 3), np.uint8), time.monotonic_ns())
    set_to = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: set_to)
    assert (age_ns(frame) > 3500e9) == hour_later
