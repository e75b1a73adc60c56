"""What a decoded picture's bytes mean: its planes, its matrix and range, and how they become RGB or luma."""

from __future__ import annotations

import ctypes
import re
import sys
from typing import Any, Literal, NamedTuple

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Colorspace

from streamseg.sources.planes import Plane
from streamseg.types import F32

# ITU-T H.273 matrix coefficients, as FFmpeg numbers them, and swscale's name for each.
_UNSPECIFIED = 2
_MATRICES = {
    1: Colorspace.ITU709,
    4: Colorspace.FCC,
    5: Colorspace.ITU601,
    6: Colorspace.ITU601,
    7: Colorspace.SMPTE240M,
    9: Colorspace.BT2020,
    10: Colorspace.BT2020,
}
LUMA_OF_RED_AND_BLUE = {
    Colorspace.ITU709: (0.2126, 0.0722),
    Colorspace.FCC: (0.30, 0.11),
    Colorspace.ITU601: (0.299, 0.114),
    Colorspace.SMPTE240M: (0.212, 0.087),
    Colorspace.BT2020: (0.2627, 0.0593),
}
"""What red and blue contribute to luma; green the rest."""
_FULL_RANGE = 2


# Formats whose planes are scaled as they are, little-endian where a sample has two bytes.
_PLANAR = re.compile(
    r"(?P<kind>yuv[aj]?4\d\d|gbra?|gray|nv12|nv16|nv24|p[024])p?(?P<bits>9|10|12|14|16)?(?P<two>le)?"
)
_PACKED = {"rgb24": (0, 1, 2), "bgr24": (2, 1, 0), "rgba": (0, 1, 2), "rgb0": (0, 1, 2), "bgra": (2, 1, 0)}
_PACKED["bgr0"] = _PACKED["bgra"]
_LEVEL = 128  # of a byte, in the 15 bits that planes.py mixes
_GREY = (0.299, 0.114)  # what red and blue contribute to the luma of RGB


class Mixture(NamedTuple):
    """Planes, and how their components in 15 bits become colours of 0 to 255."""

    planes: list[Plane]
    matrix: F32  # (colours, 3)
    offset: F32  # (colours,)


def rgb_of(image: VideoFrame) -> Mixture:
    """How a picture with planes becomes RGB; they lie in the picture's own memory."""
    planes, kind, bits = _planes(image)
    white = _white(bits)
    if kind == "gray":
        return _mixture(planes, [[255 / white, 0, 0]] * 3, [0, 0, 0])
    if kind == "rgb":
        order = _PACKED.get(image.format.name, (2, 0, 1))  # planes come as green, blue, red
        return _mixture(planes, [[255 / white * (c == at) for c in range(3)] for at in order], [0, 0, 0])
    matrix, full = colours_of(image)
    red, blue = LUMA_OF_RED_AND_BLUE[matrix]
    green = 1 - red - blue
    black, luma, chroma = (0, white, white) if full else (16 * _LEVEL, 219 * _LEVEL, 224 * _LEVEL)
    ycc = np.array(
        [
            [1, 0, 2 * (1 - red)],
            [1, -2 * blue * (1 - blue) / green, -2 * red * (1 - red) / green],
            [1, 2 * (1 - blue), 0],
        ]
    )
    to_rgb = 255 * ycc / np.array([luma, chroma, chroma])
    return _mixture(planes, to_rgb, -to_rgb @ np.array([black, 128 * _LEVEL, 128 * _LEVEL]))


def luma_of(image: VideoFrame) -> Mixture:
    """How a picture with planes becomes its luma alone; its chroma is not read."""
    planes, kind, bits = _planes(image)
    if kind == "rgb":
        mixture = rgb_of(image)
        red, blue = _GREY
        return mixture._replace(
            matrix=(np.array([[red, 1 - red - blue, blue]]) @ mixture.matrix).astype(np.float32),
            offset=np.zeros(1, np.float32),
        )
    full = kind == "gray" or colours_of(image)[1]
    black, luma = (0, _white(bits)) if full else (16 * _LEVEL, 219 * _LEVEL)
    return _mixture(planes[:1], [[255 / luma, 0, 0]], [-255 * black / luma])


def has_planes(image: VideoFrame) -> bool:
    """Whether its planes can be scaled as they are."""
    name = image.format.name
    if name in _PACKED:
        return True
    found = _PLANAR.fullmatch(name)
    wide = found is not None and int(found["bits"] or 8) > 8
    return found is not None and wide == bool(found["two"]) and (not wide or sys.byteorder == "little")


def _planes(image: VideoFrame) -> tuple[list[Plane], Literal["yuv", "gray", "rgb"], int]:
    """A picture's planes, what they are of, and the bits that its levels have."""
    name = image.format.name
    if name in _PACKED:
        return [_plane(image, 0, image.format.padded_bits_per_pixel // 8, 8, 8)], "rgb", 8
    found = _PLANAR.fullmatch(name)
    assert found is not None, "asked after has_planes()"
    kind, bits = found["kind"], int(found["bits"] or 8)
    if kind == "gray":
        return [_plane(image, 0, 1, bits, bits)], "gray", bits
    if kind.startswith("gbr"):
        return [_plane(image, i, 1, bits, bits) for i in range(3)], "rgb", bits
    # log2 of how many pixels a sample of chroma stands for
    shifts = (
        6 - image.format.chroma_height(64).bit_length() + 1,
        6 - image.format.chroma_width(64).bit_length() + 1,
    )
    if kind.startswith("yuv"):
        rest = [_plane(image, i, 1, bits, bits, shifts) for i in (1, 2)]
        return [_plane(image, 0, 1, bits, bits), *rest], "yuv", bits
    held = 16 if kind[0] == "p" else 8  # its levels are at the top of sixteen bits
    return [_plane(image, 0, 1, bits, held), _plane(image, 1, 2, bits, held, shifts)], "yuv", bits


def _plane(
    image: VideoFrame, index: int, channels: int, bits: int, held: int, shifts: tuple[int, int] = (0, 0)
) -> Plane:
    plane = image.planes[index]
    kind = np.dtype(np.uint8 if held == 8 else np.uint16)
    rows, columns = (
        -(-side >> shift) for side, shift in zip((image.height, image.width), shifts, strict=True)
    )
    # A picture from the bottom up has lines of negative length: its plane begins at the last one in memory.
    length, step = abs(plane.line_size), channels * kind.itemsize
    lowest = plane.buffer_ptr + min(0, plane.line_size * (rows - 1))
    memory = (ctypes.c_uint8 * (length * (rows - 1) + columns * step)).from_address(lowest)
    samples = np.ndarray(
        (rows, columns, channels), kind, memoryview(memory), strides=(length, step, kind.itemsize)
    )
    return Plane(samples if plane.line_size >= 0 else samples[::-1], held, shifts, image)


def _white(bits: int) -> int:
    """The highest level in 15 bits."""
    return ((1 << bits) - 1) << 15 - bits if bits <= 15 else (1 << 15) - 1


def _mixture(planes: list[Plane], matrix: Any, offset: Any) -> Mixture:
    return Mixture(planes, np.asarray(matrix, np.float32), np.asarray(offset, np.float32))


def colours_of(image: VideoFrame) -> tuple[Colorspace, bool]:
    """A picture's matrix, and whether its levels are of full range.

    An unspecified matrix is BT.709 from 1280 wide or 577 high on, as players assume.
    """
    full = image.color_range == _FULL_RANGE or image.format.name.startswith("yuvj")
    if image.colorspace == _UNSPECIFIED or image.colorspace not in _MATRICES:
        hd = image.width >= 1280 or image.height > 576
        return Colorspace.ITU709 if hd else Colorspace.ITU601, full
    return _MATRICES[image.colorspace], full
