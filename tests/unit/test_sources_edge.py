"""Reading returns to the live edge: what is measured, what is left out, and when all is decoded again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from streamseg.sources.edge import LiveEdge
from streamseg.sources.events import Thin

FPS = 25


@dataclass
class Shown:
    at_s: float
    delay_s: float  # since the camera took it
    measured_s: float  # the same, as far as the edge knows
    thin: Thin


class Reading:
    """Plays the reader of a camera by a clock that costs nothing: waits, decodes, shows."""

    def __init__(self, **edge: bool | float) -> None:
        self.now_s = 0.0
        self.edge = LiveEdge(clock=lambda: self.now_s, **edge)  # type: ignore[arg-type]
        self.shown: list[Shown] = []

    def play(
        self,
        seconds: float,
        *,
        gop: int = 50,
        decode_s: Callable[[float], float] = lambda now: 0.005,
        sent_s: Callable[[float], float] = lambda taken: taken,
        stamp_s: Callable[[float], float] = lambda taken: taken,
        referred: Callable[[int], bool] = lambda number: True,
        rest_s: Callable[[float], float] = lambda now: 0.0,
    ) -> Reading:
        """sent_s: when a picture taken at a time is sent; rest_s: how long this process does not run then."""
        resumed_s = 0.0
        for number in range(round(seconds * FPS)):
            taken_s = number / FPS
            self.now_s = max(self.now_s + 0.0002, sent_s(taken_s))
            self.now_s += rest_s(self.now_s)
            stamp = 1000 + stamp_s(taken_s)
            if self.edge.takes(stamp, number, number % gop == 0, self.now_s - resumed_s):
                skipped = self.edge.leaves_unreferenced and not referred(number)
                self.now_s += 0.0001 if skipped else decode_s(self.now_s)
                if self.edge.shows and not skipped:
                    delay_s, measured_s = (
                        self.now_s - taken_s,
                        self.now_s - self.edge.arrived_s(number, stamp),
                    )
                    self.shown.append(Shown(self.now_s, delay_s, measured_s, self.edge.thin))
                    if self.edge.paced:
                        self.now_s = max(self.now_s, self.edge.due_s(stamp))
            resumed_s = self.now_s
        return self

    def between(self, first_s: float, last_s: float) -> list[Shown]:
        return [one for one in self.shown if first_s <= one.at_s < last_s]

    def worst_s(self, first_s: float, last_s: float) -> float:
        return max(one.delay_s for one in self.between(first_s, last_s))


def test_a_reader_that_keeps_up_leaves_nothing_out() -> None:
    reading = Reading().play(60)
    assert len(reading.shown) == 60 * FPS
    assert reading.worst_s(0, 60) < 0.02


@pytest.mark.parametrize("cost_s", [0.05, 0.1, 0.4])
def test_a_decoder_that_is_too_slow_shows_newer_pictures_and_fewer(cost_s: float) -> None:
    reading = Reading().play(90, decode_s=lambda now: cost_s if 10 < now < 50 else 0.005)
    assert reading.worst_s(0, 90) < 1.5
    assert len(reading.between(10, 50)) >= 15  # at least the intra frames, all 2 s
    if cost_s > 0.08:  # less than half can be decoded
        assert "intra" in {one.thin for one in reading.between(30, 50)}
    last = [reading.between(80, 90), reading.between(0, 10)]
    assert len(last[0]) in (len(last[1]) - 1, len(last[1]), 10 * FPS)  # all of them again


def test_pictures_that_no_other_refers_to_go_first() -> None:
    reading = Reading().play(
        60, decode_s=lambda now: 0.07 if now > 10 else 0.005, referred=lambda number: number % 3 == 0
    )
    kept = [one.thin for one in reading.between(30, 60)]
    assert kept.count("reference") > 0.7 * len(kept)  # all are tried again now and then
    assert reading.worst_s(30, 60) < 1.5
    assert len(reading.between(30, 60)) >= 30 * FPS / 3 * 0.8


def test_where_intra_frames_are_rare_those_behind_them_are_decoded_too() -> None:
    reading = Reading().play(120, gop=250, decode_s=lambda now: 0.1 if now > 10 else 0.005)
    assert reading.worst_s(40, 120) < 1.5
    assert len(reading.between(40, 120)) > 3 * 80 / 10


@pytest.mark.parametrize("stopped_s", [1.5, 5, 10])
def test_a_process_that_stood_still_is_back_at_once(stopped_s: float) -> None:
    rests = [stopped_s]
    reading = Reading().play(40, rest_s=lambda now: rests.pop() if now > 10 and rests else 0.0, gop=250)
    assert reading.worst_s(10 + stopped_s + 2, 40) < 0.02
    assert len(reading.between(10 + stopped_s + 2, 38 + stopped_s)) > 25 * (26 - stopped_s)
    at_once = reading.between(9, 10 + stopped_s + 1)
    assert max(one.measured_s for one in at_once) == pytest.approx(stopped_s, abs=0.1)  # it is not hidden
    assert {one.thin for one in reading.shown} == {"all"}


@pytest.mark.parametrize("stalled_s", [1, 4, 10])
def test_after_a_stall_of_the_network_the_burst_is_not_shown(stalled_s: float) -> None:
    reading = Reading().play(40, sent_s=lambda t: 10 + stalled_s if 10 < t < 10 + stalled_s else t)
    assert reading.worst_s(10 + stalled_s + 2, 40) < 0.02


def test_a_network_that_delivers_late_is_shown_late_and_not_skipped() -> None:
    reading = Reading().play(60, sent_s=lambda t: t + min(3.0, max(0.0, t - 10) / 5))
    assert len(reading.shown) == 60 * FPS
    assert reading.between(40, 50)[0].measured_s > 2.5


@pytest.mark.parametrize("step_s", [-7200.0, -3.0, 3.0, 7200.0])
def test_a_clock_that_steps_is_no_delay(step_s: float) -> None:
    reading = Reading().play(60, stamp_s=lambda t: t + step_s if t > 10 else t)
    assert len(reading.shown) == 60 * FPS
    assert max(abs(one.measured_s - one.delay_s) for one in reading.shown) < 0.1


def test_a_clock_that_runs_slow_is_no_delay() -> None:
    reading = Reading().play(600, stamp_s=lambda t: t * 0.999)
    assert len(reading.shown) == 600 * FPS
    assert max(one.measured_s for one in reading.shown) < 0.1


def test_pictures_that_are_only_counted_are_no_clock() -> None:
    reading = Reading(timed=False).play(60, stamp_s=lambda t: t * 0.8)  # counted at 20 fps, they come at 25
    assert len(reading.shown) == 60 * FPS
    assert max(one.measured_s for one in reading.shown) < 0.1
    slow = Reading(timed=False).play(
        90, stamp_s=lambda t: t * 0.8, decode_s=lambda now: 0.1 if now > 10 else 0.005, gop=1
    )
    assert slow.worst_s(20, 90) < 2.5


def segments(taken_s: float) -> float:
    """When a segment of 2 s can be had, for a player that begins three of them behind."""
    return taken_s // 2 * 2 - 4


def test_segments_are_shown_at_their_pace() -> None:
    reading = Reading(paced=True).play(60, sent_s=segments)
    assert len(reading.shown) == 60 * FPS
    assert max(one.measured_s for one in reading.shown) < 0.1
    gaps = [b.at_s - a.at_s for a, b in zip(reading.shown, reading.shown[1:], strict=False)]
    assert max(gaps) < 0.05


@pytest.mark.parametrize("late_s", [3.5, 6, 10])
def test_after_segments_that_came_late_the_delay_is_the_first_one_again(late_s: float) -> None:
    reading = Reading(paced=True)
    reading.play(
        90, sent_s=lambda t: max(segments(t), 20 + late_s) if 20 <= segments(t) < 20 + late_s else segments(t)
    )
    first_s = reading.between(0, 15)[-1].delay_s
    assert reading.worst_s(20 + late_s + 10, 90) < first_s + 0.1


def test_two_segments_late_in_a_row_are_made_up_for_too() -> None:
    def sent_s(taken_s: float) -> float:
        return max(segments(taken_s), {12: 28.0, 13: 31.0}.get(int(taken_s // 2), 0.0))

    reading = Reading(paced=True).play(90, sent_s=sent_s)
    assert reading.worst_s(41, 90) < reading.between(0, 15)[-1].delay_s + 0.1


def test_segments_that_are_late_for_good_are_shown_at_their_pace_again() -> None:
    reading = Reading(paced=True).play(200, sent_s=lambda t: segments(t) + (9 if t > 30 else 0))
    late = reading.between(120, 130)
    assert len(late) == pytest.approx(10 * FPS, abs=2)
    assert late[0].measured_s == pytest.approx(5, abs=2.5)  # what was lost is told


def test_a_new_clock_within_segments_begins_no_new_delay() -> None:
    reading = Reading(paced=True).play(90, sent_s=segments, stamp_s=lambda t: t if t < 30 else t - 30)
    assert len(reading.shown) == 90 * FPS
    assert max(abs(one.measured_s) for one in reading.shown) < 0.2
