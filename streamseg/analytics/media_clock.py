"""Seconds of a stream's video, across connections, loops, jumps of its time stamps and set clocks."""

from __future__ import annotations

from streamseg.types import Stamp

MOST_AHEAD_S = 10.0
"""A video may be ahead of the time that has gone by by so much; beyond it its time stamps have jumped."""


class MediaClock:
    """The time of one stream, which begins at 0 and never goes back."""

    def __init__(self) -> None:
        self._time_s = 0.0
        self._last: Stamp | None = None
        self._monotonic_s: float | None = None  # when that frame came

    def frame(self, stamp: Stamp, monotonic_s: float | None = None) -> float:
        """The time of a frame, in the order of decoding.

        Time goes on by the PTS. Where they begin again, stand still, go back, jump ahead or are missing, it
        goes on by monotonic_s, that of this machine; in its absence by the clock that captured the frames.
        """
        last, self._last = self._last, stamp
        passed_s = 0.0
        if last is not None:
            passed_s = max(0.0, (stamp.captured_unix_ns - last.captured_unix_ns) / 1e9)
            if monotonic_s is not None and self._monotonic_s is not None:
                passed_s = max(0.0, monotonic_s - self._monotonic_s)
            passed_s = _by_pts(last, stamp, passed_s)
        self._monotonic_s = monotonic_s
        self._time_s += passed_s
        return self._time_s

    def now(self, monotonic_s: float) -> float:
        """The time now, when no frame comes; the next one may be earlier."""
        if self._monotonic_s is None:
            self._monotonic_s = monotonic_s
        return self._time_s + max(0.0, monotonic_s - self._monotonic_s)


def _by_pts(last: Stamp, stamp: Stamp, passed_s: float) -> float:
    """How far the video has gone on between two frames; passed_s where their PTS do not say it."""
    if stamp.epoch != last.epoch or stamp.pts is None or last.pts is None:
        return passed_s
    step_s = float((stamp.pts * stamp.time_base) - (last.pts * last.time_base))
    return step_s if 0 < step_s <= passed_s + MOST_AHEAD_S else passed_s
