"""No more is decoded than max_fps asks for, and what is shown is whole, with its own time."""

from __future__ import annotations

import logging
import threading
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.config import StreamConfig
from streamseg.sources.events import Decoding, SkipFrames, Skipped, SourceEvent, Unskippable
from streamseg.sources.live import Thinning, frames
from streamseg.sources.referred import Referred
from streamseg.sources.skipping import Skipping
from streamseg.types import Frame
from tests.media import write_video

FPS = 25


class Camera:
    """Plays a stream to Skipping and Thinning: which pictures are decoded, and which are shown."""

    def __init__(self, mode: SkipFrames, max_fps: float | None, **settings: bool) -> None:
        self.mode, self.max_fps = mode, max_fps
        self.skipping = Skipping(lambda: (self.mode, self.max_fps), **settings)
        self.thinning = Thinning(max_fps)
        self.decoded: list[float] = []
        self.shown: list[float] = []
        self.at = 0

    def play(
        self,
        seconds: float,
        intra: Callable[[int], bool],
        referred: Callable[[int], bool | None] = lambda i: True,
    ) -> Camera:
        """intra, referred: of each picture by its number; it comes in the order in which it is shown."""
        broken = False
        for i in range(self.at, self.at + round(seconds * FPS)):
            at_s, by_others = i / FPS, referred(i)
            known = None if by_others is None else Referred(by_others)
            if not self.skipping.takes(at_s, at_s, intra(i), known):
                broken = broken or by_others is not False
                continue
            assert intra(i) or not broken, "what it refers to was left out"
            broken = False
            if self.skipping.alone and not self.skipping.all_intra:
                self.skipping.drained()
            self.skipping.gap = False
            self.decoded.append(at_s)
            self.thinning.take(self.max_fps)
            if self.thinning.takes(at_s):
                self.shown.append(at_s)
            due_s = self.thinning.due_s
            self.skipping.next_due(float("-inf") if due_s is None or not self.max_fps else due_s)
        self.at += round(seconds * FPS)
        return self

    def share(self) -> float:
        return len(self.decoded) / self.at


def every(number: int) -> Callable[[int], bool]:
    return lambda i: i % number == 0


def test_without_max_fps_everything_is_decoded() -> None:
    assert Camera("auto", None).play(30, every(25), lambda i: i % 2 == 0).share() == 1


@pytest.mark.parametrize("max_fps", [0.2, 0.5, 1.0])
def test_intra_frames_alone_are_decoded_where_they_come_as_often_as_max_fps_asks(max_fps: float) -> None:
    camera = Camera("auto", max_fps).play(100, every(25))
    assert len(camera.shown) == pytest.approx(100 * max_fps, abs=1)
    assert len(camera.decoded) < 100 * max_fps + 4 * 25  # all until three distances are known
    assert all(at_s % 1 == 0 for at_s in camera.decoded[100:])


@pytest.mark.parametrize("max_fps", [0.7, 1.5, 3, 10])
def test_the_rest_behind_a_picture_is_left_out_where_the_next_intra_frame_comes_first(max_fps: float) -> None:
    camera, plain = Camera("auto", max_fps).play(100, every(50)), Camera("none", max_fps).play(100, every(50))
    assert len(camera.shown) == pytest.approx(len(plain.shown), rel=0.01)
    assert max(np.diff(camera.shown)) <= 1.15 / max_fps + 0.05
    assert camera.share() < 1


def test_what_no_other_refers_to_is_left_out_where_the_rest_comes_often_enough() -> None:
    half = Camera("auto", 10).play(60, every(250), lambda i: i % 2 == 0)
    assert half.share() == pytest.approx(0.5, abs=0.05)
    assert len(half.shown) == pytest.approx(600, rel=0.01)
    assert Camera("auto", 20).play(60, every(250), lambda i: i % 2 == 0).share() == 1


def test_what_is_not_known_to_be_unneeded_is_decoded() -> None:
    assert Camera("auto", 1).play(60, every(10**6), lambda i: None).share() == 1


def test_intra_frames_that_come_unevenly_are_not_relied_on() -> None:
    rng = np.random.default_rng(0)
    at = set(np.cumsum(rng.integers(10, 250, 200)).tolist())
    camera = Camera("auto", 1).play(300, lambda i: i == 0 or i in at)
    assert len(camera.shown) == pytest.approx(300, abs=3)


def test_a_camera_that_makes_its_intra_frames_rarer_loses_pictures_once() -> None:
    camera = Camera("auto", 1).play(30, every(25)).play(60, every(200))
    late = [gap for gap in np.diff(camera.shown) if gap > 1.2]
    assert len(late) <= 2  # the first that does not come, and none from then on until they come evenly
    assert max(late) <= 8


def test_each_picture_that_stands_alone_is_decoded_only_when_it_is_due() -> None:
    camera = Camera("auto", 3, all_intra=True).play(60, every(1), lambda i: None)
    assert camera.decoded == camera.shown
    assert len(camera.shown) == pytest.approx(180, abs=1)


@pytest.mark.parametrize("max_fps", [None, 25.0])
def test_a_codec_said_to_stand_alone_that_refers_to_pictures_before_is_decoded_whole(
    max_fps: float | None,
) -> None:
    camera = Camera("auto", max_fps, all_intra=True).play(4, every(12))  # FFV1 with its usual GOP
    assert len(camera.decoded) == 4 * FPS


def test_another_max_fps_holds_from_the_next_picture() -> None:
    camera = Camera("auto", 1).play(20, every(25))
    camera.max_fps = None
    before = len(camera.shown)
    camera.play(20, every(25))
    assert len(camera.shown) - before > 0.9 * 500
    camera.max_fps = 0.5
    before = len(camera.shown)
    camera.play(20, every(25))
    assert len(camera.shown) - before == pytest.approx(10, abs=1)


def test_settings_that_ask_for_less_hold_without_max_fps() -> None:
    assert Camera("nonref", None).play(20, every(25), lambda i: i % 5 == 0).share() == 0.2
    assert Camera("nokey", None).play(20, every(25)).share() == 1 / 25


def test_a_clock_that_begins_anew_is_no_reason_to_wait() -> None:
    camera = Camera("auto", 1).play(20, every(25))
    camera.at = 0
    before = len(camera.shown)
    camera.play(20, every(25))
    assert len(camera.shown) - before == pytest.approx(20, abs=2)


def test_nobody_waits_longer_for_an_intra_frame_than_was_foreseen() -> None:
    camera = Camera("auto", 0.5).play(20, every(25))
    assert camera.skipping.patient
    camera.play(10, lambda i: False)
    assert not camera.skipping.patient
    always = Camera("nokey", None).play(20, every(25)).play(10, lambda i: False)
    assert always.skipping.patient


def played(path: Path, **settings: Any) -> tuple[list[Frame], list[SourceEvent]]:
    told: list[SourceEvent] = []
    config = StreamConfig(source=str(path), **settings)
    return list(frames(config, "gate", threading.Event(), told.append)), told


def skipped(told: list[SourceEvent]) -> int:
    return sum(event.pictures for event in told if isinstance(event, Skipped))


def numbers(shown: list[Frame], fps: int) -> list[int]:
    return [round((frame.pts or 0) * frame.time_base * fps) for frame in shown]


def clip(path: Path, count: int = 100, **video: Any) -> Path:
    """Each picture tells its number by how bright it is."""
    write_video(path, [np.full((48, 64, 3), 2 * i, np.uint8) for i in range(count)], **video)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {"g": "10", "bf": "0", "sc_threshold": "0"},
        {"g": "10", "bf": "3", "sc_threshold": "0"},
        {"g": "10", "bf": "3", "sc_threshold": "0", "x264-params": "open-gop=1"},
        {"g": "250", "bf": "3", "sc_threshold": "0"},
    ],
)
@pytest.mark.parametrize("mode", ["nonref", "nokey"])
def test_what_is_shown_is_whole_and_has_its_own_time(
    tmp_path: Path, mode: str, options: dict[str, str]
) -> None:
    path = clip(tmp_path / "clip.mp4", options=options)
    whole = {frame.pts: frame.rgb for frame in played(path, skip_frames="none")[0]}
    assert len(whole) == 100
    less, told = played(path, skip_frames=mode)
    for frame in less:
        np.testing.assert_array_equal(frame.rgb, whole[frame.pts])
    assert [frame.seq for frame in less] == list(range(len(less)))
    assert len(less) + skipped(told) == 100
    if mode == "nokey":
        assert len(less) == 100 / min(100, int(options["g"]))
    elif options["bf"] == "3":
        assert 10 < len(less) < 90
    else:
        assert len(less) == 100


def test_a_file_played_in_real_time_shows_what_max_fps_takes_and_decodes_less(tmp_path: Path) -> None:
    options = {"g": "5", "bf": "0", "sc_threshold": "0"}
    path = clip(tmp_path / "clip.mp4", count=60, options=options, time_base=Fraction(1, 100))
    whole = {frame.pts: frame.rgb for frame in played(path, skip_frames="none")[0]}
    less, told = played(path, realtime=True, max_fps=20)
    assert numbers(less, 100) == list(range(0, 60, 5))
    assert less[-1].seq < 40  # the number of decoded frames
    for frame in less:
        np.testing.assert_array_equal(frame.rgb, whole[frame.pts])
    assert len(less) + skipped(told) == 60
    assert Decoding("intra", "auto", 20) in told
    assert Counter(type(event).__name__ for event in told)["Ended"] == 1
    assert "Ended(damage=None)" in map(str, told)


def test_what_a_decoders_threads_hold_back_is_shown_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.sources.threads.usable_cores", lambda: 8)  # of PNG each decodes a picture
    path = clip(tmp_path / "clip.mov", count=60, codec="png", pix_fmt="rgb24", time_base=Fraction(1, 100))
    seen, told = played(path, realtime=True, max_fps=20)
    assert numbers(seen, 100) == list(range(0, 60, 5))
    assert seen[-1].seq < 20  # the number of decoded frames
    assert len(seen) + skipped(told) == 60


def test_what_is_decoded_is_not_told_again_with_each_round_of_a_file(tmp_path: Path) -> None:
    path = clip(
        tmp_path / "clip.mkv", count=20, codec="mjpeg", pix_fmt="yuvj420p", time_base=Fraction(1, 100)
    )
    config = StreamConfig(source=str(path), realtime=True, loop=True, max_fps=20)
    told: list[SourceEvent] = []
    stop = threading.Event()
    for frame in frames(config, "gate", stop, told.append):
        if frame.epoch == 3:
            stop.set()
    assert [event for event in told if isinstance(event, Decoding)] == [Decoding("intra", "auto", 20)]


def test_a_camera_of_jpegs_without_max_fps_is_told_nothing(tmp_path: Path) -> None:
    path = clip(
        tmp_path / "clip.mkv", count=20, codec="mjpeg", pix_fmt="yuvj420p", time_base=Fraction(1, 100)
    )
    seen, told = played(path, realtime=True)
    assert len(seen) == 20
    assert not any(isinstance(event, Decoding | Unskippable) for event in told)


def test_max_fps_is_taken_while_the_source_is_read(tmp_path: Path) -> None:
    path = clip(tmp_path / "clip.mp4", options={"bf": "0"})
    now = [StreamConfig(source=str(path), max_fps=5)]
    seen: list[Frame] = []
    for frame in frames(now[0], "gate", threading.Event(), lambda event: None, current=lambda: now[0]):
        seen.append(frame)
        if len(seen) == 4:
            now[0] = msgspec.structs.replace(now[0], max_fps=None)
    assert numbers(seen, 25) == [0, 5, 10, *range(15, 100)]


@pytest.mark.parametrize(
    ("codec", "mode", "why"),
    [
        ("mjpeg", "nonref", "mjpeg has intra frames alone, so max_fps says how many are decoded"),
        ("mjpeg", "nokey", "mjpeg has intra frames alone, so max_fps says how many are decoded"),
        ("libvpx", "nonref", 'vp8 does not tell which pictures others refer to; use "auto" or "nokey"'),
    ],
)
def test_a_codec_that_gives_nothing_to_leave_out_is_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str, mode: str, why: str
) -> None:
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    path = clip(tmp_path / "clip.mkv", count=20, codec=codec, pix_fmt=pix_fmt)
    seen, told = played(path, skip_frames=mode)
    assert len(seen) == 20
    (one,) = [event for event in told if isinstance(event, Unskippable)]
    with caplog.at_level(logging.WARNING):
        one.log(logging.getLogger("test"), "gate")
    assert caplog.messages == [f'gate: {path}: skip_frames = "{mode}" leaves nothing out: {why}']
