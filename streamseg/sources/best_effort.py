"""The time stamp that FFmpeg would choose for each picture."""

from __future__ import annotations

from fractions import Fraction

from av.video.frame import VideoFrame


class BestEffort:
    """Gives each picture of one connection FFmpeg's best_effort_timestamp, which PyAV does not have.

    It is the picture's PTS, or the DTS of the packet that brought it out, whichever has stepped back less
    often so far (guess_correct_pts in libavcodec/decode.c). PTS are wrong where a container has none and
    FFmpeg takes the packets' order for them: MP4 without composition offsets, AVI with B-frames. Where
    neither is known, as of the last pictures of an AVI, it is one frame after the picture before.
    """

    def __init__(self) -> None:
        self._faulty_pts = self._faulty_dts = 0
        self._last_pts = self._last_dts = -(2**63)
        self._stamp: int | None = None
        self._next_s = Fraction(0)

    def __call__(self, image: VideoFrame, fps: Fraction | None, *, has_pts: bool = True) -> Fraction:
        """Set image.pts → the time in seconds."""
        frame_s, base = 1 / (fps or Fraction(25)), image.time_base
        stamp = self._best(image.pts if has_pts else None, image.dts)
        if stamp is None and self._stamp is not None and base is not None:
            stamp = self._stamp + max(1, round(frame_s / base))
        image.pts = self._stamp = stamp
        time_s = self._next_s if stamp is None or base is None else stamp * base
        self._next_s = time_s + frame_s
        return time_s

    def _best(self, pts: int | None, dts: int | None) -> int | None:
        if dts is not None:
            self._faulty_dts += dts <= self._last_dts
            self._last_dts = dts
        elif pts is not None:
            self._last_dts = pts
        if pts is not None:
            self._faulty_pts += pts <= self._last_pts
            self._last_pts = pts
        elif dts is not None:
            self._last_pts = dts
        return pts if pts is not None and (dts is None or self._faulty_pts <= self._faulty_dts) else dts
