"""The upper bounds of a message. Everything is checked against these before memory is allocated."""

from __future__ import annotations

from streamseg.errors import WireError
from streamseg.types import Size

MAX_SIDE = 16384
"""Pixels of one side of a mask."""

MAX_PIXELS = 1 << 26
"""Pixels of a mask (8192 × 8192), so also the bytes that a payload unpacks to."""

MAX_PART = MAX_PIXELS + (1 << 20)
"""Bytes of one message part; ZMQ_MAXMSGSIZE, so that libzmq disconnects a peer that sends more."""

MAX_HEADER = 16 << 10
"""Bytes of a header."""

MAX_DOCUMENT = 4 << 20
"""Bytes of an rle message's JSON document."""

MAX_LABELS = 256 << 10
"""Bytes of a label set."""

MAX_PICTURE = 4 << 20
"""Bytes of a picture's JPEG."""


def check_size(height: int, width: int) -> Size:
    """Return (height, width) when a mask may have that size; raises WireError."""
    if not (0 < height <= MAX_SIDE and 0 < width <= MAX_SIDE and height * width <= MAX_PIXELS):
        raise WireError(
            f"shape: {height}x{width} is outside 1x1 to {MAX_SIDE} a side and {MAX_PIXELS} pixels in all"
        )
    return height, width
