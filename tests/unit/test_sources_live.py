"""The endless form of a source: paced, looped, thinned out, and with pauses that grow."""

from __future__ import annotations

import logging
import random
import threading
import time
from fractions import Fraction
from pathlib import Path

import pytest

from streamseg.config import StreamConfig
from streamseg.errors import SourceEnded, SourceError
from streamseg.runtime.counters import StreamStats
from streamseg.sources import Connected, Corrupt, Disconnected, Ended, Skipped, SourceEvent, open_source
from streamseg.sources.events import ClockOff, Late, Polled, Thinned, Waiting
from streamseg.sources.live import Pacer, Thinning, frames
from streamseg.sources.watch import Watch
from tests.media import corners, write_video


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_video(path, [corners((48, 64))] * 20)
    return path


def test_a_file_is_played_once_and_ends(clip: Path) -> None:
    events: list[SourceEvent] = []
    played = list(frames(StreamConfig(source=str(clip)), "s", threading.Event(), events.append))
    assert [f.seq for f in played] == list(range(20))
    assert events == [Connected(str(clip), (48, 64), Fraction(25), "h264", False, 0), Ended(None)]


def test_a_looped_file_starts_an_epoch_each_round_until_stopped(clip: Path) -> None:
    stop = threading.Event()
    events: list[SourceEvent] = []
    seen = []
    for frame in frames(StreamConfig(source=str(clip), loop=True), "s", stop, events.append):
        seen.append((frame.epoch, frame.seq))
        if frame.epoch == 2 and frame.seq == 5:
            stop.set()
    assert seen == [(e, s) for e in (0, 1) for s in range(20)] + [(2, s) for s in range(6)]
    assert len(events) == 1


def test_a_real_time_file_keeps_its_own_pace(clip: Path) -> None:
    begun = time.monotonic()
    for frame in frames(
        StreamConfig(source=str(clip), realtime=True), "s", threading.Event(), lambda e: None
    ):
        assert frame.decoded_ns / 1e9 - begun >= frame.pts_ns / 1e9 - 0.001
    assert time.monotonic() - begun >= 19 / 25 - 0.001


def test_a_real_time_file_stops_at_once(clip: Path, tmp_path: Path) -> None:
    slow = tmp_path / "slow.mkv"
    write_video(slow, [corners((48, 64))] * 3, time_base=Fraction(1, 1000), pts=[0, 9_000, 18_000])
    stop = threading.Event()
    begun = time.monotonic()
    for _ in frames(StreamConfig(source=str(slow), realtime=True), "s", stop, lambda e: None):
        threading.Timer(0.1, stop.set).start()
    assert time.monotonic() - begun < 8  # the next picture is due after 9 s


def test_max_fps_leaves_out_pictures_evenly_and_counts_them(clip: Path) -> None:
    stats = StreamStats()
    played = list(
        frames(
            StreamConfig(source=str(clip), max_fps=5),
            "s",
            threading.Event(),
            lambda event: event.count(stats),
        )
    )
    assert [f.seq for f in played] == [0, 5, 10, 15]
    assert stats.drops["skipped"] == 16


def test_a_missing_file_is_an_error_at_once(tmp_path: Path) -> None:
    events: list[SourceEvent] = []
    with pytest.raises(SourceError, match="no such file; check the path"):
        next(frames(StreamConfig(source=str(tmp_path / "gone.mp4")), "s", threading.Event(), events.append))
    assert events == []


def test_an_address_that_cannot_work_is_an_error_at_once() -> None:
    with pytest.raises(SourceError, match="SRT"):
        next(frames(StreamConfig(source="srt://host:1"), "s", threading.Event(), lambda e: None))


def test_a_damaged_file_is_counted_and_told_at_its_end(tmp_path: Path) -> None:
    path = tmp_path / "cut.mp4"
    write_video(path, [corners((48, 64))] * 50, options={"g": "10", "bf": "0"},
                container_options={"movflags": "faststart"})  # fmt: skip
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    stats, events = StreamStats(), []
    for _ in frames(StreamConfig(source=str(path)), "s", threading.Event(), events.append):
        pass
    for event in events:
        event.count(stats)
    assert stats.drops["corrupt"] > 0
    assert "damaged" in stats.error
    assert isinstance(events[-1], Ended)


def test_thinning_evens_out_jitter() -> None:
    rng = random.Random(0)
    thinning = Thinning(25)
    taken = sum(thinning.takes(i * 0.04 + rng.uniform(-0.01, 0.01)) for i in range(1000))
    assert 990 <= taken <= 1000
    thinning = Thinning(10)
    taken = sum(thinning.takes(i * 0.04 + rng.uniform(-0.01, 0.01)) for i in range(1000))
    assert 399 <= taken <= 403


def test_thinning_outlives_a_clock_that_runs_backwards() -> None:
    thinning = Thinning(10)
    assert [thinning.takes(t) for t in (100.0, 100.05, 100.1, 3.0, 3.05, 3.1)] == [
        True, False, True, True, False, True,
    ]  # fmt: skip


def test_pacing_outlives_time_stamps_that_jump() -> None:
    pacer = Pacer(threading.Event())
    begun = time.monotonic()
    for pts_s in (5.0, 5.02, 9000.0, 9000.02, 1.0, 1.02, 1.01, 1.03):
        pacer.wait(pts_s)
    assert time.monotonic() - begun < 60


def test_a_source_without_new_pictures_or_with_a_frozen_clock_is_noticed(clip: Path) -> None:
    now = 100.0
    with open_source(StreamConfig(source=str(clip), timeout_s=2), "s") as source:
        source.endless = True
        watch = Watch(source, clock=lambda: now)
        for step in range(8):
            now = 100 + step * 1.0
            watch.seen(step)
            watch.check()
        now = 109.5
        with pytest.raises(SourceEnded, match=r"sent no picture for 2 s"):
            watch.check()
        for step in range(4):
            now = 110 + step * 0.9
            watch.seen(1000)
        with pytest.raises(SourceEnded, match=r"its clock has stood still for 2 s"):
            watch.check()
        watch.seen(500)  # backwards is a change too
        watch.check()
        now += 60
        watch.excuse(60)  # a slow reader is not the source's fault
        watch.check()


def test_events_tell_their_story(caplog: pytest.LogCaptureFixture) -> None:
    log = logging.getLogger("streamseg.test")
    stats = StreamStats()
    with caplog.at_level(logging.INFO):
        for event in (
            Connected("rtsp://cam/1", (1080, 1920), Fraction(25), "h264", True, 0),
            Skipped(3),
            Corrupt(2),
            Late(4),
            Thinned("reference"),
            Thinned("intra"),
            Thinned("all"),
            Waiting("rtsp://cam/1", 5.0, 120.0),
            ClockOff("rtsp://cam/1", -7200.04),
            Polled("rtsp://cam/1", 0.2),
            Disconnected("rtsp://cam/1: ended", 0.24),
        ):
            event.count(stats)
            event.log(log, "gate")
    assert [r.getMessage() for r in caplog.records] == [
        "gate: decoding rtsp://cam/1, 1920x1080 at 25 fps, h264",
        "gate: decoding does not keep up; only what others refer to is decoded",
        "gate: decoding does not keep up; only intra frames are decoded",
        "gate: decoding all pictures again",
        "gate: rtsp://cam/1: has sent data but no intra frame for 5 s; waiting for one, for 120 s at most",
        "gate: rtsp://cam/1: its clock is 7200.0 s behind this machine's, so ages count "
        "from arrival; set its time",
        "gate: rtsp://cam/1: gives one picture at a time; asking every 0.2 s",
        "gate: rtsp://cam/1: ended; trying again in 0.2 s",
    ]
    assert stats.drops == {"skipped": 3, "corrupt": 2, "behind": 4, "disconnected": 1}
    assert (stats.connects, stats.error) == (1, "rtsp://cam/1: ended")


def test_what_fails_inside_on_the_way_from_a_live_source_is_tried_again_without_its_password(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop = threading.Event()
    events: list[SourceEvent] = []

    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("rtsp://eye:geheim@cam/1 has no frames")

    def on_event(event: SourceEvent) -> None:
        events.append(event)
        if len(events) == 2:
            stop.set()

    monkeypatch.setattr("streamseg.sources.live.open_source", broken)
    assert list(frames(StreamConfig(source="rtsp://eye:geheim@cam/1"), "gate", stop, on_event)) == []
    assert [event.reason for event in events if isinstance(event, Disconnected)] == [
        "failed inside: ZeroDivisionError: rtsp://eye:***@cam/1 has no frames"
    ] * 2
    with pytest.raises(ZeroDivisionError):
        list(frames(StreamConfig(source="clip.mp4"), "gate", threading.Event(), on_event))


def test_a_looped_picture_is_shown_for_its_time_each_round(tmp_path: Path) -> None:
    path = tmp_path / "still.mkv"
    write_video(path, [corners((48, 64))], options={"bf": "0"})
    stop = threading.Event()
    begun, seen = time.monotonic(), 0
    for frame in frames(
        StreamConfig(source=str(path), loop=True, realtime=True), "s", stop, lambda event: None
    ):
        seen += 1
        if frame.epoch == 5:
            stop.set()
    assert seen == 6
    assert time.monotonic() - begun >= 5 / 25


def test_a_round_is_as_long_as_all_its_pictures(tmp_path: Path) -> None:
    path = tmp_path / "slow.mkv"
    write_video(path, [corners((48, 64))] * 2, time_base=Fraction(1, 5), options={"bf": "0"})
    stop, begun, ends_s = threading.Event(), time.monotonic(), 0.0
    for frame in frames(
        StreamConfig(source=str(path), loop=True, realtime=True), "s", stop, lambda event: None
    ):
        if frame.epoch == 2:
            ends_s = time.monotonic()
            stop.set()
    assert ends_s - begun >= 2 * (1 / 5 + 1 / 25)
