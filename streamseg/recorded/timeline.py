"""The source's time stamps on the result videos' clock: equal wherever a video can hold them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from fractions import Fraction

MAX_GAP = 2**31 - 1
"""The most ticks between two frames that MP4 can hold."""

PtsRun = tuple[int | None, int, int]
"""(first, step, count): count time stamps, each step above the one before; first None: there are none."""


class Timeline:
    """Turns each frame's pts into ticks that rise strictly and begin at 0 or above.

    Ticks are pts, exactly, for every source whose time stamps rise and begin at 0 or above; in units of
    1/denominator, so a time base of 1001/30000 gives pts · 1001. What cannot be kept is mended: a negative
    beginning is moved to 0 with all that follows, a step back of less than a second becomes one tick, a
    missing time stamp one frame, and a greater jump back, or one forward beyond what MP4 holds, continues one
    frame later. `mended` counts the frames whose time is not the source's.
    """

    def __init__(self, time_base: Fraction, fps: Fraction | None) -> None:
        self.tick = Fraction(1, time_base.denominator)
        self.mended = 0
        self._factor = time_base.numerator
        self._step = max(1, round(1 / ((fps or Fraction(25)) * self.tick)))
        self._second = time_base.denominator
        self._shift = 0
        self._last: int | None = None

    def __call__(self, pts: int | None) -> int:
        ticks = self._ticks(pts)
        self._last = ticks
        self.mended += pts is None or ticks != pts * self._factor
        return ticks

    @property
    def shift(self) -> int:
        """Ticks that the source's time stamps are moved by, from the last frame on."""
        return self._shift

    def _ticks(self, pts: int | None) -> int:
        last = self._last
        if pts is None:
            return 0 if last is None else last + self._step
        ticks = pts * self._factor + self._shift
        if last is None:
            self._shift = max(0, -ticks)
            return ticks + self._shift
        if last < ticks <= last + MAX_GAP:
            return ticks
        if last - self._second < ticks <= last:
            return last + 1
        self._shift += last + self._step - ticks
        return last + self._step


def pts_digest(stamps: Iterable[int | None]) -> str:
    """SHA-256 of time stamps, each as decimal text (or "none") and a line feed."""
    total = hashlib.sha256()
    for pts in stamps:
        total.update(b"none\n" if pts is None else b"%d\n" % pts)
    return total.hexdigest()


def to_runs(stamps: Iterable[int | None]) -> list[PtsRun]:
    """Time stamps as runs of equal steps: one run for a constant frame rate."""
    runs: list[PtsRun] = []
    for pts in stamps:
        first, step, count = runs[-1] if runs else (None, 0, 0)
        if pts is None or first is None:
            joins = count > 0 and pts is None and first is None
        else:
            step = pts - first if count == 1 else step
            joins = pts == first + step * count
        if joins:
            runs[-1] = first, step, count + 1
        else:
            runs.append((pts, 0, 1))
    return runs


def from_runs(runs: Iterable[PtsRun]) -> list[int | None]:
    """The time stamps of runs, one by one."""
    stamps: list[int | None] = []
    for first, step, count in runs:
        stamps += [None] * count if first is None else [first + step * i for i in range(count)]
    return stamps
