"""Class shares over time, from the pixel counts of each mask."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from streamseg.recorded.segments import FrameRecord

MAX_BINS = 600


class Summary:
    """Adds up masks one by one; its memory grows with the length in seconds, not with the frames."""

    def __init__(self, names: Sequence[str], tick: Fraction) -> None:
        self.names, self.tick = names, tick
        self.frames = 0
        self._whole: Counter[int] = Counter()
        self._seconds: dict[int, tuple[int, Counter[int]]] = {}  # second → (frames, pixels by class)
        self._seen: dict[int, tuple[float, float]] = {}  # class → first and last time
        self._peaks: dict[int, tuple[float, float]] = {}  # class → (share, time)

    def add(self, record: FrameRecord) -> None:
        self.frames += 1
        time = record.ticks * self.tick
        time_s = round(float(time), 6)
        labelled = {i: n for i, n in record.pixels.items() if i < len(self.names)}
        all_labelled = sum(labelled.values())
        self._whole.update(labelled)
        count, pixels = self._seconds.get(int(time), (0, Counter()))
        pixels.update(labelled)
        self._seconds[int(time)] = (count + 1, pixels)
        for i, n in labelled.items():
            self._seen[i] = (self._seen.get(i, (time_s, 0))[0], time_s)
            if n / all_labelled > self._peaks.get(i, (0.0, 0.0))[0]:
                self._peaks[i] = (n / all_labelled, time_s)

    def result(self) -> dict[str, Any]:
        """Plain values for JSON; a share is of the pixels that have a class.

        over_time has bins of one second, or as many seconds as keep it within MAX_BINS.
        """
        seconds = sorted(self._seconds)
        width = max(1, math.ceil((seconds[-1] - seconds[0] + 1) / MAX_BINS)) if seconds else 1
        total = sum(self._whole.values())
        return {
            "frames": self.frames,
            "bin_s": width,
            "classes": [self._class(i, name, total) for i, name in enumerate(self.names)],
            "over_time": self._over_time(width),
        }

    def _class(self, i: int, name: str, total: int) -> dict[str, Any]:
        first_s, last_s = self._seen.get(i, (None, None))
        peak_share, peak_s = self._peaks.get(i, (0.0, None))
        return {
            "id": i,
            "name": name,
            "share": _share(self._whole[i], total),
            "first_s": first_s,
            "last_s": last_s,
            "peak_share": round(peak_share, 6),
            "peak_s": peak_s,
        }

    def _over_time(self, width: int) -> list[dict[str, Any]]:
        bins: dict[int, tuple[int, Counter[int]]] = {}
        for second, (frames, pixels) in sorted(self._seconds.items()):
            at = second // width * width
            before, merged = bins.get(at, (0, Counter()))
            bins[at] = (before + frames, merged + pixels)
        return [
            {
                "from_s": at,
                "frames": frames,
                "shares": {self.names[i]: _share(n, pixels.total()) for i, n in sorted(pixels.items())},
            }
            for at, (frames, pixels) in bins.items()
        ]


def _share(pixels: int, total: int) -> float:
    return round(pixels / total, 6) if total else 0.0
