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


def kinds_of_logits(random: np.random.Generator, shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Noise, sharp regions, none at all, many ties, smooth pictures, and the smallest numbers."""
    noise = random.normal(0, 4, shape).astype(np.float32)
    blocks = random.integers(0, shape[0], (shape[1] // 4 + 1, shape[2] // 4 + 1)).repeat(4, 0).repeat(4, 1)
    regions = (np.arange(shape[0])[:, None, None] == blocks[: shape[1], : shape[2]]) * np.float32(20)
    coarse = random.normal(0, 6, (shape[0], shape[1] // 5 + 1, shape[2] // 5 + 1)).astype(np.float32)
    return {
        "noise": noise,
        "peaked": regions + noise / 4,
        "flat": np.full(shape, 1.5, np.float32),
        "ties": np.round(noise / 3),
        "smooth": np.stack([cv2.resize(plane, (shape[2], shape[1])) for plane in coarse]),
        "small": noise * np.float32(1e-38),
    }


@pytest.mark.parametrize("classes", [1, 2, 11, 255])
def test_cells_that_are_filled_have_the_labels_of_a_pass_row_by_row(classes: int) -> None:
    """To the pixel, at any size: of narrow cells the confidence is made row by row, and labels with it."""
    random = np.random.default_rng(classes)
    rounds = 2 if classes == 255 else 12
    for _ in range(rounds):
        shape = (classes, *random.integers(1, 24, 2).tolist())
        rows, columns = int(random.integers(1, 24 * shape[1])), int(random.integers(1, 8 * shape[2]))
        for name, logits in kinds_of_logits(random, shape).items():
            labels, _ = native(logits, (rows, columns))  # type: ignore[misc]
            by_rows, _ = native(logits, (rows, columns), True)  # type: ignore[misc]
            np.testing.assert_array_equal(labels, by_rows, f"{name}, {shape} to {(rows, columns)}")


@pytest.mark.parametrize("classes", [1, 2, 11, 255])
def test_ties_go_to_the_lower_class_in_every_form_where_arithmetic_is_exact(classes: int) -> None:
    """Whole numbers at powers of two: not one bit is rounded, so the array fallback decides the same."""
    random = np.random.default_rng(classes)
    for times in [(1, 1), (2, 8), (8, 2), (16, 16)]:
        logits = np.round(random.normal(0, 2, (classes, 7, 9))).astype(np.float32)
        size = (7 * times[0], 9 * times[1])
        labels, confidence = native(logits, size, True)  # type: ignore[misc]
        wanted, sure = fallback(logits, size, True)
        np.testing.assert_array_equal(labels, wanted)
        np.testing.assert_array_equal(native(logits, size)[0], wanted)  # type: ignore[index]
        assert sure is not None
        assert np.abs(confidence.astype(int) - sure).max() <= 1


def test_a_cell_that_is_sure_in_its_corners_has_the_highest_confidence() -> None:
    """Wide cells are filled, with the confidence that NumPy finds for each of their pixels."""
    random = np.random.default_rng(8)
    for name, logits in kinds_of_logits(random, (5, 9, 12)).items():
        for size in ((40, 96), (90, 150), (33, 401)):
            labels, confidence = native(logits, size, True)  # type: ignore[misc]
            wanted, sure = fallback(logits, size, True)
            assert sure is not None
            assert (labels != wanted).mean() < 0.01, name  # where classes are equal but for the rounding
            assert np.abs(confidence.astype(int) - sure).max() <= 1
            np.testing.assert_array_equal(native(logits, size)[0], labels)  # type: ignore[index]
            if name == "peaked":
                assert (confidence == 255).mean() > 0.2
