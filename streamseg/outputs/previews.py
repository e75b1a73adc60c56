"""Frames of published masks as small JPEGs, for those who subscribe to pictures; beside the route."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import cv2

from streamseg.runtime.mailbox import Closed
from streamseg.runtime.scheduler import FrameScheduler
from streamseg.types import U8, Frame, Preview, Size

LONGEST_SIDE = 640
JPEG_QUALITY = 80
MOST_PER_S = 30.0  # of one stream: a file that runs as fast as it goes is not worth looking at faster


class Previews:
    """Makes pictures in a thread of its own, so that no mask waits for one.

    offer() may come from any thread; run() is the work of one. Of each stream the newest frame waits; one
    that waits gives way, and its mask then has no picture.
    """

    def __init__(self, wants: Callable[[str], bool], deliver: Callable[[Preview], None]) -> None:
        """wants: whether a stream's pictures are subscribed to. deliver gets each, in the thread of run()."""
        self._wants = wants
        self._deliver = deliver
        self._board: FrameScheduler[Frame] = FrameScheduler()
        self._due_s: dict[str, float] = {}

    def offer(self, frame: Frame) -> None:
        """Leave the frame of a mask that has been handed to the publisher; never waits."""
        if not self._wants(frame.stream):
            return
        now_s = time.monotonic()
        due_s = self._due_s.get(frame.stream, 0.0)
        if now_s < due_s:
            return
        self._due_s[frame.stream] = max(due_s, now_s - 1 / MOST_PER_S) + 1 / MOST_PER_S
        with contextlib.suppress(Closed):
            self._board.replace(frame)

    def run(self) -> None:
        """Make pictures until close(); raises Closed then."""
        while True:
            (frame,) = self._board.take(1, alike=lambda _: 0)
            self._deliver(preview_of(frame))

    def forget(self, stream: str) -> None:
        """Drop what a removed stream left behind."""
        self._board.forget(stream)
        self._due_s.pop(stream, None)

    def close(self) -> None:
        """End run(); closing twice is fine."""
        self._board.close()


def preview_of(frame: Frame) -> Preview:
    """The frame as a JPEG with a longer side of at most LONGEST_SIDE; n and run are still to be set."""
    size = picture_size(frame.size)
    return Preview(frame.stamp, _jpeg(frame.rgb, size), size, frame.size)


def picture_size(size: Size) -> Size:
    """The size of a frame's picture: never enlarged, in the frame's proportions."""
    factor = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _jpeg(rgb: U8, size: Size) -> bytes:
    small = rgb if size == rgb.shape[:2] else cv2.resize(rgb, size[::-1], interpolation=cv2.INTER_AREA)
    bgr = cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    done, packed = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    assert done, "OpenCV encodes any 8-bit picture of this size"
    return packed.tobytes()
