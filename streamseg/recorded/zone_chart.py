"""The chart of a recording's zones, drawn with OpenCV: shares of classes over time, bars of the events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.analytics.counts import ZoneCounts
from streamseg.config import PICTURE, EventConfig
from streamseg.outputs.png import png
from streamseg.types import U8, LabelSet

BINS = 600
"""Columns of the plot: a recording's memory here does not grow with its frames."""

_LEFT, _RIGHT, _PANEL, _BAR, _HEAD, _FOOT, _GAP = 170, 30, 150, 18, 30, 34, 14
_COLUMN = 2  # pixels of the picture for each bin
_WIDTH = _LEFT + BINS * _COLUMN + _RIGHT
_MOST_CLASSES = 8  # drawn in a zone: those with the highest peaks
_LEAST_PEAK = 0.001  # a class that never has this share is not drawn
_TOPS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_BRIGHTEST = 150.0  # of a line on white
_FONT, _SCALE = cv2.FONT_HERSHEY_SIMPLEX, 0.45
_BLACK, _GREY, _PALE, _BAR_BGR = (0, 0, 0), (205, 205, 205), (240, 240, 240), (40, 110, 220)

Colour = tuple[int, int, int]


class ZoneChart:
    """Adds up the shares of the zones' classes in time; draws a panel for each zone, and tells a summary.

    Its memory does not grow with the frames.
    """

    def __init__(
        self,
        path: Path,
        zones: Sequence[str],
        labels: LabelSet,
        span_s: tuple[float, float],
        events: Mapping[str, EventConfig],
    ) -> None:
        self.path, self.zones, self.labels = path, tuple(zones), labels
        self.first_s = span_s[0]
        self.length_s = max(span_s[1] - span_s[0], 1e-6)
        shape = BINS, len(self.zones), len(labels.names)
        self.frames = np.zeros(BINS, np.int64)
        self.pixels = np.zeros(len(self.zones), np.int64)
        self.sums = np.zeros(shape, np.float64)
        self.lowest, self.highest = np.ones(shape, np.float32), np.zeros(shape, np.float32)
        self.least, self.most = np.ones(shape[1:]), np.zeros(shape[1:])
        self.events = events
        self.bars = {name: np.zeros(BINS * _COLUMN, np.bool_) for name in events}

    def add(self, time_s: float, counts: ZoneCounts) -> None:
        pixels = np.array([one.counts[: len(self.labels.names)] for one in counts.zones], np.float64)
        self.pixels = np.array([one.pixels for one in counts.zones], np.int64)
        shares = pixels / self.pixels.clip(1)[:, None]
        at = min(BINS - 1, int(self._part(time_s) * BINS))
        self.frames[at] += 1
        self.sums[at] += shares
        np.minimum(self.lowest[at], shares, out=self.lowest[at], casting="same_kind")
        np.maximum(self.highest[at], shares, out=self.highest[at], casting="same_kind")
        np.minimum(self.least, shares, out=self.least)
        np.maximum(self.most, shares, out=self.most)

    def mark(self, event: str, from_s: float, to_s: float) -> None:
        """An event was open from then to then."""
        begin, end = (int(self._part(time_s) * BINS * _COLUMN) for time_s in (from_s, to_s))
        self.bars[event][begin : end + 1] = True

    def summary(self) -> list[dict[str, Any]]:
        """Of each zone, the mean, least and greatest share of the classes that were there."""
        means = self.sums.sum(0) / max(1, int(self.frames.sum()))
        return [
            {
                "zone": zone,
                "pixels": int(self.pixels[z]),
                "classes": [
                    {
                        "id": i,
                        "name": name,
                        "share": round(float(means[z, i]), 6),
                        "least_share": round(float(self.least[z, i]), 6),
                        "peak_share": round(float(self.most[z, i]), 6),
                    }
                    for i, name in enumerate(self.labels.names)
                    if self.most[z, i]
                ],
            }
            for z, zone in enumerate(self.zones)
        ]

    def draw(self, title: str) -> None:
        """Write the PNG."""
        rows = {
            zone: [n for n, e in self.events.items() if (e.zone or PICTURE) == zone] for zone in self.zones
        }
        heights = [_HEAD + _PANEL + _BAR * len(rows[zone]) + _FOOT + _GAP for zone in self.zones]
        canvas = np.full((_HEAD + sum(heights), _WIDTH, 3), 255, np.uint8)
        _text(canvas, title, (12, 22))
        top = _HEAD
        for number, (zone, height) in enumerate(zip(self.zones, heights, strict=True)):
            self._panel(canvas, top + _HEAD, number, [self.events[name] for name in rows[zone]])
            for row, event in enumerate(rows[zone]):
                self._bars(canvas, top + _HEAD + _PANEL + 4 + row * _BAR, event)
            self._times(canvas, top + height - _GAP - 12)
            top += height
        self.path.write_bytes(png(canvas))

    def _panel(self, canvas: U8, top: int, zone: int, events: Sequence[EventConfig]) -> None:
        """One zone: its legend above, a band from the lowest to the highest share, and the mean."""
        peaks = self.highest[:, zone].max(axis=0)
        shown = [i for i in np.argsort(-peaks, kind="stable")[:_MOST_CLASSES] if peaks[i] >= _LEAST_PEAK]
        levels = [one for e in events for one in (e.above, e.appears, e.disappears) if one is not None]
        most = max([float(peaks[i]) for i in shown] + levels, default=1.0)
        scale = next((one for one in _TOPS if most <= one), 1.0)
        bottom = top + _PANEL

        def row(share: float) -> int:
            return round(bottom - min(1.0, share / scale) * _PANEL)

        cv2.rectangle(canvas, (_LEFT, top), (_LEFT + BINS * _COLUMN, bottom), _PALE, cv2.FILLED)
        for step in range(6):
            y = row(scale * step / 5)
            cv2.line(canvas, (_LEFT, y), (_LEFT + BINS * _COLUMN, y), _GREY, 1)
            _text(canvas, f"{100 * scale * step / 5:g} %", (_LEFT - 52, y + 4))
        _text(canvas, self.zones[zone], (12, top + 14))
        x = _LEFT
        for i in shown:
            name, colour = self.labels.names[i], _line_colour(self.labels.classes[i].colour)
            cv2.line(canvas, (x, top - 12), (x + 16, top - 12), colour, 2)
            _text(canvas, name, (x + 22, top - 8))
            x += 22 + cv2.getTextSize(name, _FONT, _SCALE, 1)[0][0] + 18
        there = np.flatnonzero(self.frames)
        for i in shown:
            self._curve(canvas, there, zone, int(i), row)
        for share in levels:
            for x in range(_LEFT, _LEFT + BINS * _COLUMN, 8):
                cv2.line(canvas, (x, row(share)), (x + 3, row(share)), _BAR_BGR, 1)

    def _curve(self, canvas: U8, there: npt.NDArray[Any], zone: int, i: int, row: Any) -> None:
        colour = _line_colour(self.labels.classes[i].colour)
        band = tuple((255 + c) // 2 for c in colour)
        longest = self._step(there)
        before: tuple[int, tuple[int, int]] | None = None
        for at in there:
            x = _LEFT + int(at) * _COLUMN + _COLUMN // 2
            low, high = float(self.lowest[at, zone, i]), float(self.highest[at, zone, i])
            if high > low:
                cv2.line(canvas, (x, row(low)), (x, row(high)), band, _COLUMN)
            point = x, row(float(self.sums[at, zone, i]) / int(self.frames[at]))
            joined = before is not None and at - before[0] <= longest
            cv2.line(canvas, before[1] if joined and before is not None else point, point, colour, 2)
            before = int(at), point

    def _step(self, there: npt.NDArray[Any]) -> int:
        """Bins between two frames that follow each other; a longer pause is a hole in the curve."""
        return 4 * max(1, int(np.median(np.diff(there)))) if len(there) > 1 else 1

    def _bars(self, canvas: U8, y: int, event: str) -> None:
        _text(canvas, event, (24, y + 11))
        edges = np.flatnonzero(np.diff(self.bars[event].astype(np.int8), prepend=0, append=0))
        for begin, end in edges.reshape(-1, 2):
            cv2.rectangle(
                canvas, (_LEFT + int(begin), y), (_LEFT + int(end) - 1, y + _BAR - 6), _BAR_BGR, cv2.FILLED
            )

    def _part(self, time_s: float) -> float:
        """How far into the recording it is, 0…1."""
        return min(1.0, max(0.0, (time_s - self.first_s) / self.length_s))

    def _times(self, canvas: U8, y: int) -> None:
        for step in range(7):
            text = clock(self.first_s + self.length_s * step / 6, self.length_s)
            _text(canvas, text, (_LEFT + BINS * _COLUMN * step // 6 - 16, y))


def clock(time_s: float, length_s: float) -> str:
    """A time as it stands at an axis of this length: "12.4 s", "3:07", "1:02:30"."""
    if length_s < 120:
        return f"{time_s:.1f} s"
    whole = round(time_s)
    minutes = f"{whole // 60 % 60:02d}:{whole % 60:02d}"
    return f"{whole // 3600}:{minutes}" if length_s >= 3600 else f"{whole // 60}:{whole % 60:02d}"


def _line_colour(rgb: tuple[int, int, int]) -> Colour:
    """A class's colour as BGR, darkened where it could not be seen on white."""
    light = 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
    factor = min(1.0, _BRIGHTEST / max(light, 1.0))
    red, green, blue = (int(c * factor) for c in rgb)
    return blue, green, red


def _text(canvas: U8, text: str, at: tuple[int, int], colour: Colour = _BLACK) -> None:
    cv2.putText(canvas, text, at, _FONT, _SCALE, colour, 1, cv2.LINE_AA)
