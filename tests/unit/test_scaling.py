"""Frames scaled to the network's input; labels from logits: the fused kernel and its array fallback."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from streamseg.inference.scaling import fallback, fit_size, labels_from_logits, make_batch
from streamseg.runtime.native import load_library

SIZES = [
    ((11, 90, 120), (360, 480)),
    ((21, 41, 41), (321, 321)),
    ((2, 7, 5), (33, 31)),
    ((3, 1, 1), (4, 5)),
    ((5, 20, 30), (20, 30)),
    ((4, 40, 60), (17, 23)),
    ((255, 3, 3), (9, 40)),
    ((1, 2, 9), (2, 2)),
]


def native(*args: object) -> object:
    try:
        load_library("_upsample")
    except OSError as error:
        pytest.skip(str(error))
    return labels_from_logits(*args)  # type: ignore[arg-type]


@pytest.mark.parametrize("form", [native, fallback])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_labels_and_confidence_are_those_of_bilinear_logits(
    form: Callable[..., tuple[np.ndarray, np.ndarray]], shape: tuple[int, ...], size: tuple[int, int]
) -> None:
    logits = np.random.default_rng(1).normal(0, 4, shape).astype(np.float32)
    full = np.stack([cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR) for plane in logits])
    odds = np.exp(full - full.max(0))
    highest = (odds / odds.sum(0)).max(0) * 255
    ordered = np.sort(full, axis=0)
    clear = ordered[-1] - ordered[-2] > 1e-4 if len(full) > 1 else np.ones(size, bool)
    labels, confidence = form(logits, size, True)
    assert (labels == full.argmax(0))[clear].all()
    assert np.abs(confidence - highest).max() < 0.52
    without, none = form(logits, size, False)
    assert none is None
    assert (without == labels).all()


@pytest.mark.parametrize("form", [native, fallback])
def test_of_equal_logits_the_lower_class_wins(form: Callable[..., tuple[np.ndarray, np.ndarray]]) -> None:
    labels, confidence = form(np.zeros((4, 6, 8), np.float32), (24, 32), True)
    assert (labels == 0).all()
    assert (confidence == 64).all()


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="255 classes"):
        native(np.zeros((256, 2, 2), np.float32), (4, 4))


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


@pytest.mark.parametrize("form", [native, fallback])
def test_a_temperature_changes_the_confidence_and_no_label(
    form: Callable[..., tuple[np.ndarray, np.ndarray]],
) -> None:
    logits = np.random.default_rng(4).normal(0, 3, (5, 9, 12)).astype(np.float32)
    size = (33, 50)
    labels, plain = form(logits, size, True)
    wide = np.stack([cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) for p in logits])
    for temperature in (0.5, 1.0, 2.5):
        same, confidence = form(logits, size, True, False, temperature)
        np.testing.assert_array_equal(same, labels)
        scores = wide / temperature
        want = 255 / np.exp(scores - scores.max(0)).sum(0)
        assert confidence is not None
        assert np.abs(confidence - want).max() < 0.52 + 0.05
    np.testing.assert_array_equal(form(logits, size, True, False, 1.0)[1], plain)
