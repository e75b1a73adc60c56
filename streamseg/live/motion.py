"""Whether a picture differs from an earlier one of the same camera: small luma pictures in, an answer out.

A picture is looked at as cells: luma at a quarter of the network's input, so that a value is the mean of 4x4
pixels of what the network sees. A cell has changed when it differs by more than the camera's noise explains,
which is learned for each brightness and only up to a bound, so that no camera becomes blind. All changes are
relative to the reference, the picture that the network saw last, so that what moves slowly adds up. Where
cells have changed in the last seconds (a tree, a lamp, somebody's hands), changes of the same size are
habitual: they still count, but may wait, each for BUSY_S at most.
"""

from __future__ import annotations

from typing import Literal, cast

import cv2
import numpy as np

from streamseg.types import F32, F64, U8, Size

Change = Literal["none", "habitual", "new", "light"]
"""What is different: nothing, only what changes all the time and may wait, something new, or the light."""

LEAST = 6
"""Levels that a cell must differ by, without noise: compression alone makes 2 to 3 in static cells."""

MOST = 20
"""Levels that are enough in any noise: never blind."""

BUSY_S = 0.25
"""Habitual changes wait no longer than this, since something that appears among them looks the same."""

HABIT_S = 4.0
"""What has changed somewhere is habitual there for about this long."""

LONGEST_SIDE = 240
"""Cells along a picture's longer side at most; larger inputs have larger cells."""

_CELL = 4  # pixels of the network's input
_SIGMAS = 6.0  # of a cell's noise; of 10,000 cells of Gaussian noise none is beyond it in a day
_WIDE = 4  # cells of a wide cell's side, for large things of little contrast
_WIDE_LEAST = 3.5  # levels that a wide cell's mean must differ by
_WIDE_SIGMAS = 3.0  # of a cell's noise, of which a quarter is left in the mean of 4x4 that are independent
_BINS = 16  # of brightness, for the noise and the light
_FEW = 64  # cells in a bin of brightness that say nothing of its noise
_NOISE_S = 2.0  # the noise follows in this time
_HABIT_FACTOR = 1.5  # a change this much greater than the habitual one is new
_LIGHT_LEAST = 1.5  # of up to 4 levels that cells differ by in the mean; below it the light is the same
_LIGHT_GAIN, _LIGHT_OFFSET = 0.04, 6.0  # beyond them the light has changed enough for another mask

_LEVELS = np.arange(256, dtype=np.float32)


def cells_of(input_size: Size) -> Size:
    """The size of the luma picture that frames of a network with this input are compared at."""
    cell = max(_CELL, -(-max(input_size) // LONGEST_SIDE))
    return max(1, input_size[0] // cell), max(1, input_size[1] // cell)


class Motion:
    """What one camera's pictures are like, and the reference. Used by one thread at a time.

    All pictures have one size (h, w) uint8. Each takes about 0.1 ms.
    """

    def __init__(self, luma: U8) -> None:
        """luma: the first picture, which is the reference."""
        self.reference = luma
        self._before_s: float | None = None
        self._waits_s: float | None = (
            None  # when the first habitual change came that the network has not seen
        )
        self._noise = np.full(_BINS, 0.5, np.float32)  # sigma of a cell's difference, by brightness
        self._habit = np.zeros(luma.shape, np.float32)  # levels that a cell usually differs by
        self._limits = np.full(256, LEAST, np.uint8)  # levels that a cell may differ by, by brightness
        self._habitual = 0.0  # the highest of _habit
        self._changed: U8 | None = None  # levels of the last picture's cells above what is allowed, else 0

    def look(self, luma: U8, now_s: float, more_s: float = 0.0) -> Change:
        """Compare a picture with the reference. now_s: any clock that goes on.

        more_s: how much longer than BUSY_S habitual changes may wait.
        """
        passed_s = 0.0 if self._before_s is None else min(max(now_s - self._before_s, 0.0), 1.0)
        self._before_s = now_s
        change, above, difference = self._compare(luma, self.reference)
        light = False
        if cv2.mean(np.minimum(difference, 4))[0] > _LIGHT_LEAST:  # it would be taken for noise, too
            expected, light = in_the_light_of(self.reference, luma)
            change, above, difference = self._compare(luma, expected)
        self._learn_noise(self.reference, difference, passed_s)
        self._forget_habits(passed_s)
        self._changed = np.where(above, difference, 0) if change != "none" else None
        if light and change != "new":
            return "light"
        return "new" if change == "habitual" and not self._may_wait(now_s, passed_s, more_s) else change

    def refer(self, luma: U8) -> None:
        """Compare with the picture that was looked at last from now on: the network sees it."""
        self.reference = luma
        self._waits_s = None
        if self._changed is not None:
            np.maximum(self._habit, self._changed, out=self._habit)
            self._habitual = float(self._habit.max())
            self._changed = None

    def _may_wait(self, now_s: float, passed_s: float, more_s: float) -> bool:
        """Whether the next picture, as far behind this one as this one behind the last, is early enough."""
        if self._waits_s is None:
            self._waits_s = now_s
        return now_s + passed_s <= self._waits_s + BUSY_S + more_s

    def _compare(self, luma: U8, expected: U8) -> tuple[Change, U8, U8]:
        """How a picture differs from the expected one; by how much above what is allowed, and by how much."""
        difference = cast(U8, cv2.absdiff(luma, expected))
        above = cast(U8, cv2.subtract(difference, cv2.LUT(expected, self._limits)))  # saturates at 0
        changed = cv2.countNonZero(above) > 0
        if (changed and self._is_new(above, difference)) or self._has_changed_widely(luma, expected):
            return "new", above, difference
        return "habitual" if changed else "none", above, difference

    def _learn_noise(self, expected: U8, difference: U8, passed_s: float) -> None:
        """The median difference of the cells of each brightness; less than half of them move."""
        both = (expected & 0xF0) | np.minimum(difference, 15)
        counts = cv2.calcHist([both], [0], None, [256], [0, 256]).reshape(_BINS, 16)
        sigma = _sigmas(cast(F32, counts))
        share = min(1.0, passed_s / _NOISE_S) if passed_s else 1.0
        self._noise += np.float32(share) * (sigma - self._noise)
        limits = np.rint(np.clip(_SIGMAS * self._noise, LEAST, MOST)).astype(np.uint8)
        self._limits = np.repeat(limits, 256 // _BINS)

    def _forget_habits(self, passed_s: float) -> None:
        if self._habitual == 0:
            return
        factor = np.float32(np.exp(-passed_s / HABIT_S))
        self._habit *= factor
        self._habitual *= float(factor)
        if self._habitual < 1:
            self._habit[:] = 0
            self._habitual = 0.0

    def _is_new(self, above: U8, difference: U8) -> bool:
        """Whether a cell has changed by more than cells around it usually do."""
        if self._habitual * _HABIT_FACTOR < LEAST:
            return True
        around = cv2.dilate(self._habit, _AROUND)
        return bool(np.any((above > 0) & (difference > _HABIT_FACTOR * around)))

    def _has_changed_widely(self, luma: U8, expected: U8) -> bool:
        """Whether something large has changed by little, apart from where cells are changing habitually."""
        if min(luma.shape) < _WIDE:
            return False
        signed = cv2.subtract(luma, expected, dtype=cv2.CV_16S)
        if self._habitual:
            signed[cv2.dilate(self._habit, _AROUND) > LEAST / 2] = 0
        size = (signed.shape[1] // _WIDE, signed.shape[0] // _WIDE)
        wide = np.abs(cv2.resize(signed, size, interpolation=cv2.INTER_AREA))
        limit = max(_WIDE_LEAST, _WIDE_SIGMAS * float(self._noise.max()))
        return bool(wide.max() > min(limit, MOST))


_AROUND = np.ones((3, 3), np.uint8)


def _sigmas(counts: F32) -> F32:
    """The noise by brightness, from how many cells of each (row) differ by how many levels (column)."""
    medians, cells = _medians(np.vstack((counts, counts.sum(0))))
    sigmas = np.where(cells[:-1] < _FEW, medians[-1], medians[:-1]) / 0.6745
    return np.minimum(sigmas, MOST / _SIGMAS).astype(np.float32)  # more would only be forgotten later


def in_the_light_of(reference: U8, luma: U8) -> tuple[U8, bool]:
    """The reference as this picture's light would show it, and whether that is another light.

    A gain and an offset for all cells, from the median of each brightness: what moves does not count.
    """
    gain, offset = _light(reference, luma)
    table = np.clip(np.rint(gain * _LEVELS + offset), 0, 255).astype(np.uint8)
    middle = gain * 128 + offset - 128
    return cast(U8, cv2.LUT(reference, table)), abs(gain - 1) > _LIGHT_GAIN or abs(middle) > _LIGHT_OFFSET


def _light(reference: U8, luma: U8) -> tuple[float, float]:
    """The gain and offset that most cells agree on: luma = gain * reference + offset."""
    bins = ([0, 1], None, [_BINS, 256], [0, 256, 0, 256])
    x, cells = _medians(cast(F32, cv2.calcHist([reference, reference], *bins)))
    y, _ = _medians(cast(F32, cv2.calcHist([reference, luma], *bins)))
    used = (cells >= _FEW) & (np.minimum(x, y) > 4) & (np.maximum(x, y) < 250)
    x, y, weights = x[used], y[used], cells[used].astype(np.float64)
    gain, offset = 1.0, 0.0
    if not len(x):
        return gain, offset
    for _ in range(4):  # bins that most others contradict hold something that moves
        total = weights.sum()
        mean_x, mean_y = weights @ x / total, weights @ y / total
        spread = weights @ (x - mean_x) ** 2
        gain = 1.0
        if spread > 25 * total:
            gain = min(max(float(weights @ ((x - mean_x) * (y - mean_y)) / spread), 0.5), 2.0)
        offset = float(mean_y - gain * mean_x)
        weights = cells[used] / (1 + (np.abs(y - gain * x - offset) / 2) ** 2)
    return gain, offset


def _medians(counts: F32) -> tuple[F64, F32]:
    """The median of each row of a histogram of whole numbers, between them; and how many a row has.

    A number k stands for all from k - 0.5 to k + 0.5, 0 for all up to 0.5.
    """
    sums = counts.cumsum(1)
    half = sums[:, -1] / 2
    at = (sums >= half[:, None]).argmax(1)
    rows = np.arange(len(counts))
    within = (half - (sums[rows, at] - counts[rows, at])) / np.maximum(counts[rows, at], 1)
    medians = np.where(at == 0, within / 2, at - 0.5 + within)
    return medians, sums[:, -1]
