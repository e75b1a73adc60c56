"""Frames scaled to the network's input."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.inference.preprocess import fit_size, make_batch


@pytest.mark.parametrize(
    ("frame", "expected"),
    [
        ((360, 480), (360, 480)),
        ((720, 960), (360, 480)),
        ((432, 768), (312, 552)),
        ((768, 432), (552, 312)),
        ((1, 4000), (8, 26288)),
    ],
)
def test_the_input_keeps_the_frames_shape_and_the_number_of_pixels(
    frame: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fit_size(frame, (360, 480), 8) == expected


def test_a_picture_of_the_right_size_is_not_copied() -> None:
    picture = np.zeros((16, 24, 3), np.uint8)
    assert np.shares_memory(make_batch([picture], (16, 24)), picture)


def test_a_batch_holds_the_scaled_pictures_in_order() -> None:
    pictures = [np.full((20 * k, 30 * k, 3), 40 * k, np.uint8) for k in (1, 2, 5)]
    batch = make_batch(pictures, (16, 24))
    assert batch.shape == (3, 16, 24, 3)
    assert batch.flags.c_contiguous
    assert [int(b[5, 5, 0]) for b in batch] == [40, 80, 200]


def test_scaling_lines_up_pixel_centres() -> None:
    ramp = np.repeat(np.arange(64, dtype=np.uint8)[None, :, None] * 4, 32, 0).repeat(3, 2)
    small = make_batch([np.ascontiguousarray(ramp)], (16, 32))[0, 8, :, 0].astype(float)
    assert np.abs(small - (np.arange(32) * 8 + 2)).max() <= 1
