"""Time stamps: kept exactly where a video can hold them, mended and counted where not."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.recorded.timeline import MAX_GAP, Timeline, from_runs, pts_digest, to_runs

STAMPS = st.lists(st.none() | st.integers(-(2**40), 2**40), max_size=30)


def ticks(stamps: list[int | None], time_base: Fraction = Fraction(1, 90000)) -> tuple[list[int], int]:
    line = Timeline(time_base, Fraction(25))
    return [line(pts) for pts in stamps], line.mended


@given(st.lists(st.integers(0, 2**30), unique=True, max_size=30).map(sorted))
def test_time_stamps_that_rise_are_kept(stamps: list[int]) -> None:
    assert ticks([*stamps]) == (stamps, 0)


@given(STAMPS)
def test_whatever_comes_ticks_rise_from_0_or_above_in_steps_that_fit(stamps: list[int | None]) -> None:
    found, mended = ticks(stamps)
    assert all(0 < b - a <= MAX_GAP for a, b in itertools.pairwise(found))
    assert not found or found[0] >= 0
    assert mended == sum(a != b for a, b in zip(found, stamps, strict=True))


@pytest.mark.parametrize(
    ("stamps", "wanted"),
    [
        ([-7200, -3600, 0], [0, 3600, 7200]),  # as a whole
        ([0, 3600, 3600, 1800, 7200], [0, 3600, 3601, 3602, 7200]),  # until they rise again
        ([9000, 900000, 0, 3600], [9000, 900000, 903600, 907200]),  # from there on
        ([0, 2**40, 2**40 + 3600], [0, 3600, 7200]),
        ([None, None, 9000, None], [0, 3600, 9000, 12600]),
    ],
)
def test_what_cannot_be_kept_is_mended(stamps: list[int | None], wanted: list[int]) -> None:
    assert ticks(stamps)[0] == wanted


def test_a_time_base_with_a_numerator_is_kept_in_time() -> None:
    line = Timeline(Fraction(1001, 30000), Fraction(30000, 1001))
    assert [line(pts) * line.tick for pts in (0, 1, 5)] == [0, Fraction(1001, 30000), Fraction(5005, 30000)]
    assert line.mended == 0


@given(STAMPS)
def test_runs_are_the_time_stamps(stamps: list[int | None]) -> None:
    runs = to_runs(stamps)
    assert from_runs(runs) == stamps
    assert len(runs) <= len(stamps)


def test_a_constant_rate_is_one_run() -> None:
    assert to_runs(range(100, 1000, 9)) == [(100, 9, 100)]
    assert to_runs([0, 33, 67, 100, 133]) == [(0, 33, 2), (67, 33, 3)]


def test_the_digest_tells_none_from_zero() -> None:
    assert len({pts_digest(s) for s in ([], [0], [None], [0, None], [1, 0], [10])}) == 6
