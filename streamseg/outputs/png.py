"""Label masks as pictures that any program shows in the colours of their classes."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

from streamseg.runtime.files import write_file
from streamseg.types import U8


def save_png(path: Path, image: U8) -> None:
    """Write an image, (H, W) or BGR (H, W, 3), as a PNG that appears whole; raises OutputError."""
    write_file(path, png(image))


def png(image: U8) -> bytes:
    """An image, (H, W) or BGR (H, W, 3), as a PNG."""
    import cv2

    return cv2.imencode(".png", image)[1].tobytes()


def indexed_png(labels: U8, palette: U8) -> bytes:
    """An 8-bit indexed PNG (ISO/IEC 15948) of labels (H, W) with palette (256, 3)."""
    height, width = labels.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = labels
    head = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", head),
        (b"PLTE", palette.tobytes()),
        (b"IDAT", zlib.compress(lines.data, 6)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
    )
