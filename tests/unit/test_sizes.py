"""Sizes of masks, and labels at another size."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from streamseg.inference.scaling import mask_size_of
from streamseg.types.sizes import nearest


def test_a_mask_has_the_frames_size_the_inputs_or_its_own() -> None:
    sizes = [mask_size_of(wanted, (1080, 1920), (312, 552)) for wanted in ("frame", "input", (27, 48))]
    assert sizes == [(1080, 1920), (312, 552), (27, 48)]


def test_labels_come_from_the_pixel_that_their_centre_lies_in() -> None:
    random = np.random.default_rng(0)
    for _ in range(60):
        shape, size = (tuple(random.integers(1, 90, 2).tolist()) for _ in range(2))
        labels = random.integers(0, 256, shape).astype(np.uint8)
        found = nearest(labels, size)
        y, x = (
            np.floor((np.arange(to) + 0.5) * of / to).astype(int) for of, to in zip(shape, size, strict=True)
        )
        np.testing.assert_array_equal(found, labels[y][:, x])
        assert found.flags.c_contiguous


def test_at_a_multiple_of_the_size_they_are_opencvs() -> None:
    """At others its INTER_NEAREST takes the pixel of another point than the centre."""
    labels = np.random.default_rng(0).integers(0, 256, (13, 17)).astype(np.uint8)
    for rows, columns in ((1, 2), (3, 3), (4, 7)):
        size = 13 * rows, 17 * columns
        for how in (cv2.INTER_NEAREST, cv2.INTER_NEAREST_EXACT):
            np.testing.assert_array_equal(
                nearest(labels, size), cv2.resize(labels, size[::-1], interpolation=how)
            )


def test_labels_of_the_right_size_are_not_copied_and_impossible_sizes_are_refused() -> None:
    labels = np.zeros((4, 6), np.uint8)
    assert nearest(labels, (4, 6)) is labels
    for size in ((0, 3), (3, -1)):
        with pytest.raises(ValueError, match="must be above 0"):
            nearest(labels, size)
