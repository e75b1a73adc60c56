"""The time of a video: by its PTS, and by the machine's clock where they do not tell it."""

from __future__ import annotations

from fractions import Fraction

import pytest

from streamseg.analytics.media_clock import MediaClock
from streamseg.types import Stamp

START_NS = 1_700_000_000_000_000_000


def frame(pts: int | None, *, epoch: int = 0, captured_s: float = 0.0) -> Stamp:
    return Stamp("gate", epoch, 0, pts, Fraction(1, 1000), START_NS + round(captured_s * 1e9), "arrival")


def times(*frames: tuple[Stamp, float]) -> list[float]:
    clock = MediaClock()
    return [round(clock.frame(stamp, at_s), 6) for stamp, at_s in frames]


def test_time_goes_on_by_the_pts_whatever_the_clocks_say() -> None:
    assert times((frame(500), 9.0), (frame(540), 9.5), (frame(1540), 9.5)) == [0.0, 0.04, 1.04]


def test_a_clock_that_is_set_does_not_matter() -> None:
    """Neither within a connection nor over two."""
    back = frame(80, captured_s=-3600)
    again = frame(0, epoch=1, captured_s=7200)
    assert times((frame(0), 1.0), (back, 1.1), (again, 3.1)) == [0.0, 0.08, 2.08]


@pytest.mark.parametrize("pts", [0, 1000, None, 10_000_000])
def test_pts_that_go_back_stand_still_are_missing_or_jump_leave_it_to_the_machine(pts: int | None) -> None:
    assert times((frame(1000), 1.0), (frame(pts), 1.04)) == [0.0, 0.04]


def test_a_long_silence_of_both_is_a_long_time() -> None:
    assert times((frame(0), 1.0), (frame(3_600_000), 3601.0)) == [0.0, 3600.0]
    assert times((frame(0), 1.0), (frame(4_000), 1.0), (frame(4_040), 5.0)) == [0.0, 4.0, 4.04], "a burst"


def test_a_looped_file_goes_on() -> None:
    rounds = [(frame(pts, epoch=epoch), epoch + pts / 1000) for epoch in range(3) for pts in (0, 250, 500)]
    assert times(*rounds) == [0.0, 0.25, 0.5, 1.0, 1.25, 1.5, 2.0, 2.25, 2.5]


def test_without_this_machines_time_the_captured_one_counts_and_never_goes_back() -> None:
    clock = MediaClock()
    stamps = [frame(0), frame(0, epoch=1, captured_s=5), frame(0, epoch=2, captured_s=-9)]
    assert [clock.frame(stamp) for stamp in stamps] == [0.0, 5.0, 5.0]


def test_now_is_the_last_frames_time_and_what_has_gone_by_since() -> None:
    clock = MediaClock()
    assert [clock.now(7.0), clock.now(9.5)] == [0.0, 2.5]
    clock = MediaClock()
    clock.frame(frame(0), 1.0)
    clock.frame(frame(400), 1.5)
    assert [clock.now(1.5), clock.now(3.5)] == [0.4, 2.4]
