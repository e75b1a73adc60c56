"""Picture files of all kinds → RGB; what is none, is cut off or would fill the memory is refused."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from typing import Any

import cv2
import numpy as np
import pytest

from streamseg.errors import SourceError
from streamseg.runtime.picture_file import read_rgb
from streamseg.types import U8

LEFT, RIGHT = (200, 40, 30), (20, 60, 180)  # RGB


def picture(height: int = 48, width: int = 64) -> U8:
    """Red on the left, blue on the right; a quarter above is white."""
    rgb = np.empty((height, width, 3), np.uint8)
    rgb[:, : width // 2], rgb[:, width // 2 :] = LEFT, RIGHT
    rgb[: height // 4] = 255
    return rgb


def encoded(suffix: str, image: np.ndarray[Any, Any] | None = None) -> bytes:
    bgr = picture()[..., ::-1] if image is None else image
    return cv2.imencode(suffix, bgr)[1].tobytes()


def close(one: np.ndarray[Any, Any], other: np.ndarray[Any, Any], most: float = 20) -> bool:
    """Whether all but the pixels at edges agree."""
    off = abs(one.astype(int) - other.astype(int)).max(axis=2)
    return bool((off > most).mean() < 0.1)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp", ".bmp", ".tif"])
def test_each_kind_is_read_as_rgb(suffix: str) -> None:
    rgb = read_rgb(encoded(suffix))
    assert rgb.shape == (48, 64, 3)
    assert rgb.flags.c_contiguous
    assert close(rgb, picture())


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_become_eight(suffix: str) -> None:
    deep = picture()[..., ::-1].astype(np.uint16) * 257
    assert np.array_equal(read_rgb(encoded(suffix, deep)), picture())


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_grey_becomes_rgb(suffix: str) -> None:
    grey = np.full((20, 30), 90, np.uint8)
    rgb = read_rgb(encoded(suffix, grey))
    assert rgb.shape == (20, 30, 3)
    assert abs(rgb.astype(int) - 90).max() < 4


def test_grey_of_sixteen_bits_with_alpha_and_of_one_bit_are_read() -> None:
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.fromarray(np.full((20, 30), 90 * 257, np.uint16)).save(out, "PNG")
    assert read_rgb(out.getvalue())[0, 0].tolist() == [90, 90, 90]
    out = io.BytesIO()
    image.new("LA", (30, 20), (90, 10)).save(out, "PNG")
    assert read_rgb(out.getvalue())[0, 0].tolist() == [90, 90, 90]
    out = io.BytesIO()
    image.new("1", (30, 20), 1).save(out, "PNG")
    assert read_rgb(out.getvalue())[0, 0].tolist() == [255, 255, 255]
    out = io.BytesIO()
    image.fromarray(picture()).quantize(8).save(out, "PNG")
    assert close(read_rgb(out.getvalue()), picture())


def test_what_is_transparent_has_the_colour_below() -> None:
    bgra = np.dstack([picture()[..., ::-1], np.zeros((48, 64), np.uint8)])
    assert np.array_equal(read_rgb(encoded(".png", bgra)), picture())


def test_cmyk_becomes_rgb() -> None:
    image = pytest.importorskip("PIL.Image")
    out = io.BytesIO()
    image.fromarray(picture()).convert("CMYK").save(out, "JPEG")
    assert close(read_rgb(out.getvalue()), picture(), 30)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_its_exif_says(orientation: int) -> None:
    """The eight orientations of EXIF: read, the picture is upright in each."""
    image = pytest.importorskip("PIL.Image")
    upright = picture()
    stored = {
        1: upright, 2: upright[:, ::-1], 3: upright[::-1, ::-1], 4: upright[::-1],
        5: upright.transpose(1, 0, 2), 6: np.rot90(upright), 7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]  # fmt: skip
    out = io.BytesIO()
    exif = image.Exif()
    exif[0x0112] = orientation
    image.fromarray(np.ascontiguousarray(stored)).save(out, "JPEG", quality=95, exif=exif)
    assert close(read_rgb(out.getvalue()), upright, 40)


def png_of(width: int, height: int, data: bytes = b"") -> bytes:
    """A PNG whose header says this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", data), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )


def test_a_picture_that_would_fill_the_memory_is_refused_by_its_header() -> None:
    bomb = png_of(60000, 60000, zlib.compress(bytes(1 << 20)))
    with pytest.raises(SourceError, match=r"^has 60000x60000 pixels; the most is 67108864 in all"):
        read_rgb(bomb)
    with pytest.raises(SourceError, match=r"^has 20000x10 pixels; .* 16384 a side"):
        read_rgb(png_of(20000, 10))
    with pytest.raises(SourceError, match="the most is 3071"):
        read_rgb(encoded(".jpg"), most_pixels=48 * 64 - 1)
    for suffix in (".jpg", ".webp", ".bmp", ".tif", ".png"):
        with pytest.raises(SourceError, match=r"^has 64x48 pixels"):
            read_rgb(encoded(suffix), most_pixels=100)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "is empty (0 bytes)"),
        (b"hello\n", "is not a picture; must be JPEG, PNG, WebP, BMP or TIFF"),
        (b"<html><body>", "is a web page; download the file itself; must be"),
        (b"\xff\xd8\xff", "is cut off"),
        (b"\x89PNG\r\n\x1a\n\0\0", "is cut off"),
        (b"II*\0\x08\0\0\0", "is cut off"),
        (png_of(0, 10), "its header gives no size"),
        (png_of(30, 10, b"not deflated"), "is damaged"),
        (b"\0\0\0\x20ftypisom" + bytes(100), "is not a picture"),
    ],
)
def test_what_is_no_picture_is_said_to_be_none(data: bytes, said: str) -> None:
    with pytest.raises(SourceError) as refused:
        read_rgb(data)
    assert said in str(refused.value)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
def test_a_picture_that_is_cut_off_is_refused(suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    whole = encoded(suffix, noise)
    for length in (len(whole) // 2, len(whole) * 9 // 10, 40):
        with pytest.raises(SourceError, match=r"is cut off|is damaged"):
            read_rgb(whole[:length])


def test_a_small_picture_in_exif_does_not_stand_for_the_end() -> None:
    image = pytest.importorskip("PIL.Image")
    small, out = io.BytesIO(), io.BytesIO()
    image.fromarray(picture()[:8, :8]).save(small, "JPEG")
    noise = np.random.default_rng(0).integers(0, 255, (60, 80, 3), np.uint8)
    image.fromarray(noise).save(out, "JPEG", exif=b"Exif\0\0" + small.getvalue())
    whole = out.getvalue()
    assert read_rgb(whole).shape == (60, 80, 3)
    with pytest.raises(SourceError, match="is cut off"):
        read_rgb(whole[: len(whole) * 3 // 4])


def test_mutated_pictures_are_read_or_refused() -> None:
    rng = np.random.default_rng(1)
    for suffix in (".jpg", ".png", ".webp", ".bmp", ".tif"):
        good = np.frombuffer(encoded(suffix), np.uint8)
        for _ in range(40):
            bad = good.copy()
            bad[rng.integers(0, min(len(bad), 200), 3)] = rng.integers(0, 255, 3)
            with contextlib.suppress(SourceError):
                assert read_rgb(bad.tobytes(), most_pixels=1 << 20).ndim == 3
