"""The summary of a recording: shares are of the pixels with a class, and of nothing there is no share."""

from __future__ import annotations

from fractions import Fraction

import pytest

from streamseg.recorded.segments import FrameRecord
from streamseg.recorded.tables import Summary

NAMES = ("sky", "road")


def record(seq: int, pixels: dict[int, int]) -> FrameRecord:
    return FrameRecord(seq=seq, pts=seq, ticks=seq, resized=False, pixels=pixels, digest=b"")


@pytest.mark.parametrize("frames", [[], [{255: 12}], [{}, {}]])
def test_where_no_pixel_has_a_class_no_class_has_a_share(frames: list[dict[int, int]]) -> None:
    summary = Summary(NAMES, Fraction(1, 25))
    for seq, pixels in enumerate(frames):
        summary.add(record(seq, pixels))
    result = summary.result()
    assert result["frames"] == len(frames)
    assert [(c["share"], c["peak_share"], c["peak_s"]) for c in result["classes"]] == [(None, None, None)] * 2


def test_a_class_that_never_shows_has_a_share_of_0() -> None:
    summary = Summary(NAMES, Fraction(1, 25))
    summary.add(record(0, {0: 12}))
    assert [(c["share"], c["peak_share"]) for c in summary.result()["classes"]] == [(1.0, 1.0), (0.0, 0.0)]
