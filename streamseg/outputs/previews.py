"""Small JPEGs of the frames whose masks are published, for subscribers to pictures; beside the route."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable

import cv2

from streamseg.runtime.mailbox import Closed, FrameScheduler
from streamseg.types import U8, Frame, Preview, Size

LONGEST_SIDE = 640
JPEG_QUALITY = 80
MAX_FPS = 30.0  # of one stream: a file that is decoded as fast as possible is not looked at faster


class Previews:
    """Makes previews in a thread of its own, so that no mask waits for one.

    offer() may be called from any thread; run() is the work of one. Of each stream the newest frame waits;
    the mask of a frame that it replaces has no preview.
    """

    def __init__(self, on_preview: Callable[[Preview], None]) -> None:
        """on_preview gets each, in the thread of run()."""
        self._on_preview = on_preview
        self._scheduler: FrameScheduler[Frame] = FrameScheduler()
        self._due_s: dict[str, float] = {}  # when the next one of a stream may be made; monotonic

    def offer(self, frame: Frame) -> None:
        """Leave the frame of a mask that was handed to the publisher; never waits."""
        now_s = time.monotonic()
        due_s = self._due_s.get(frame.stream, 0.0)
        if now_s < due_s:
            return
        self._due_s[frame.stream] = max(due_s, now_s - 1 / MAX_FPS) + 1 / MAX_FPS
        with contextlib.suppress(Closed):
            self._scheduler.replace(frame)

    def run(self) -> None:
        """Make previews until close(); raises Closed then."""
        while True:
            (frame,) = self._scheduler.take(1, alike=lambda _: 0)
            self._on_preview(preview_of(frame))

    def forget(self, stream: str) -> None:
        """Drop what is kept of a removed stream."""
        self._scheduler.forget(stream)
        self._due_s.pop(stream, None)

    def close(self) -> None:
        """End run(); closing twice is fine."""
        self._scheduler.close()


def preview_of(frame: Frame) -> Preview:
    """The frame as a JPEG with a longer side of at most LONGEST_SIDE; the publisher sets n and run."""
    size = preview_size(frame.size)
    return Preview(frame.stamp, jpeg_of(frame.scaled(size)), size, frame.size)


def preview_size(size: Size) -> Size:
    """The size of a frame's preview: never enlarged, in the frame's proportions."""
    factor = min(1.0, LONGEST_SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def jpeg_of(rgb: U8, quality: int = JPEG_QUALITY) -> bytes:
    """A picture (H, W, 3) as a JPEG."""
    bgr = cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR)
    done, packed = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    assert done, "OpenCV encodes any 8-bit picture of this size"
    return packed.tobytes()
