"""Planes scaled and mixed in one pass: as OpenCV scales them, and the kernel's bytes are the fallback's."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest

from streamseg.runtime.native import load_library
from streamseg.sources import planes as module
from streamseg.sources.planes import Plane, fallback, scale_planes, taps_of
from streamseg.types import Size

SAME = np.array([[255 / (255 * 128), 0, 0]], np.float32), np.zeros(1, np.float32)


@pytest.fixture(autouse=True)
def built() -> None:
    try:
        load_library("_scale_planes")
    except OSError as error:
        pytest.skip(str(error))


def apart(samples: np.ndarray, gap: int) -> Any:
    """The same samples with a gap behind each row, as a decoder aligns them."""
    rows, columns, channels = samples.shape
    wide = np.full((rows, columns * channels + gap), 201, samples.dtype)
    wide[:, : columns * channels] = samples.reshape(rows, -1)
    return np.ndarray(
        samples.shape,
        samples.dtype,
        wide,
        strides=(wide.strides[0], channels * samples.itemsize, samples.itemsize),
    )


def drawn(rng: np.random.Generator, size: Size, bits: int, shifts: Size, channels: int, held: int) -> Plane:
    rows, columns = -(-size[0] >> shifts[0]), -(-size[1] >> shifts[1])
    kind = np.uint8 if held == 8 else np.uint16
    samples = rng.integers(0, 1 << bits, (rows, columns, channels), kind) << (held - bits)
    return Plane(apart(samples.astype(kind), int(rng.integers(0, 9))), held, shifts)


@pytest.mark.parametrize("seed", range(150))
def test_the_kernels_bytes_are_the_fallbacks(seed: int) -> None:
    rng = np.random.default_rng(seed)
    most = 90 if seed % 3 else 9
    size, to = ((int(rng.integers(1, most)), int(rng.integers(1, most))) for _ in range(2))
    bits, held = [(8, 8), (10, 10), (10, 16), (16, 16), (9, 9)][rng.integers(5)]
    shifts = [(0, 0), (1, 1), (0, 1), (2, 2), (1, 0)][rng.integers(5)]
    asked = [drawn(rng, size, bits, (0, 0), 1, held)]
    if seed % 4 == 1:
        asked = [drawn(rng, size, bits, (0, 0), int(rng.integers(3, 5)), held)]
    elif seed % 4 == 2:
        asked.append(drawn(rng, size, bits, shifts, 2, held))
    elif seed % 4 == 3:
        asked += [drawn(rng, size, bits, shifts, 1, held) for _ in range(2)]
    colours = int(rng.choice([1, 3]))
    matrix = rng.uniform(-0.02, 0.02, (colours, 3)).astype(np.float32)
    offset = rng.uniform(-90, 90, colours).astype(np.float32)
    got = scale_planes(asked, size, to, matrix, offset)
    taps = [taps_of(size, to, plane.shifts) for plane in asked]
    assert got.shape == (*to, colours)
    np.testing.assert_array_equal(got, fallback(asked, taps, matrix, offset))


@pytest.mark.parametrize(
    "to", [(13, 20), (24, 32), (1, 1), (47, 63), (50, 70), (96, 128), (30, 200), (99, 9)]
)
@pytest.mark.parametrize("size", [(48, 64), (47, 63), (1, 1), (2, 90)])
def test_a_plane_is_scaled_as_opencv_scales_it(size: Size, to: Size) -> None:
    rng = np.random.default_rng(to[0])
    samples = rng.integers(0, 256, (*size, 1), np.uint8)
    got = scale_planes([Plane(samples, 8)], size, to, *SAME)[..., 0]
    shrinks = size[0] > 2 * to[0] or size[1] > 2 * to[1]
    if shrinks and (to[0] > size[0] or to[1] > size[1]):  # OpenCV repeats pixels there
        rows = cv2.resize(samples, (size[1], to[0]), interpolation=cv2.INTER_LINEAR if to[0] > size[0] else 3)
        want = cv2.resize(rows, to[::-1], interpolation=cv2.INTER_LINEAR if to[1] > size[1] else 3)
    else:
        want = cv2.resize(samples, to[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    assert np.abs(got.astype(int) - want).max() <= 2
    assert np.abs(got.astype(int) - want).mean() <= 0.6


def test_what_is_of_one_level_stays_so_at_any_size_and_depth() -> None:
    for bits, kind in ((8, np.uint8), (10, np.uint16), (16, np.uint16)):
        for level in (0, 1, 90, 255):
            samples = np.full((37, 41, 1), level << (bits - 8), kind)
            for to in ((5, 7), (36, 40), (37, 41), (80, 90), (1, 1)):
                got = scale_planes([Plane(samples, bits)], (37, 41), to, *SAME)
                assert np.abs(got.astype(int) - level).max() <= 0, (bits, level, to)


def test_the_weights_of_each_output_have_one_sum() -> None:
    for size, to in (((1080, 1920), (312, 552)), ((3456, 4608), (8, 9)), ((7, 5), (100, 90))):
        for shifts in ((0, 0), (1, 1)):
            down, across = taps_of(size, to, shifts)
            assert set(down.weight.sum(1, dtype=int)) == {256}
            assert set(across.weight.sum(1, dtype=int)) == {16384}


def test_without_the_kernel_the_fallback_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = np.random.default_rng(1).integers(0, 256, (20, 30, 1), np.uint8)
    want = scale_planes([Plane(samples, 8)], (20, 30), (7, 9), *SAME)

    def missing(name: str) -> Any:
        raise OSError(f"{name} was not found")

    monkeypatch.setattr(module, "load_library", missing)
    np.testing.assert_array_equal(scale_planes([Plane(samples, 8)], (20, 30), (7, 9), *SAME), want)
