"""Logits that are no numbers: such pixels have no label, and classes ruled out do not spoil the others."""

from __future__ import annotations

import logging
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from streamseg.errors import NotNumbersError
from streamseg.inference import holes
from streamseg.inference.holes import HoleReports, holes_in, without_holes
from streamseg.inference.scaling import (
    all_numbers,
    fallback,
    labels_from_logits,
    labels_of,
    numbers_of,
    unlabelled,
)
from streamseg.types import F32, IGNORE, U8, Frame, Geometry, Logits, Stamp

Form = Callable[..., tuple[U8, U8]]
FORMS = (labels_from_logits, fallback)
SIZES = ((6, 8), (24, 32), (11, 70), (3, 4))


def scene(classes: int = 4) -> F32:
    return np.random.default_rng(3).normal(0, 3, (classes, 6, 8)).astype(np.float32)


def frame_of(logits: F32) -> Logits:
    stamp = Stamp("gate", 0, 0, 0, Fraction(1, 25), 0, "arrival")
    frame = Frame(stamp, np.zeros((24, 32, 3), np.uint8), 0)
    return Logits(frame, logits, Geometry((24, 32), (24, 32)), engine="x/fp16/torch")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("value", [-np.inf, np.float32(-3e38)])
def test_a_class_that_is_ruled_out_leaves_the_others_as_they_are(
    form: Form, size: tuple[int, int], value: float
) -> None:
    logits = scene()
    for out in (0, 3):
        spoilt = logits.copy()
        spoilt[out] = value
        labels, confidence = form(spoilt, size, True)
        others = [c for c in range(4) if c != out]
        want, sure = form(np.ascontiguousarray(logits[others]), size, True)
        assert np.array_equal(labels, np.array(others, np.uint8)[want])
        assert np.abs(confidence.astype(int) - sure).max() <= 1


@pytest.mark.parametrize("form", FORMS)
def test_a_class_ruled_out_in_a_part_wins_elsewhere_only(form: Form) -> None:
    logits = scene(3)
    logits[1] = 50
    logits[1, :, :4] = -np.inf
    labels, confidence = form(logits, (24, 32), True)
    assert not (labels[:, :16] == 1).any()
    assert (labels[:, 20:] == 1).all()
    assert confidence[:, 20:].min() == 255


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, np.float32(3e38)])
def test_holes_are_an_error_where_scores_are_made(form: Form, value: float) -> None:
    logits = scene()
    logits[2, 5, 7] = value  # the last cell
    with pytest.raises(NotNumbersError, match=r"NaN or infinity in 2\.08 % of its cells"):
        form(logits, (24, 32), True)
    logits[:] = -np.inf
    with pytest.raises(NotNumbersError, match="in 100 % of its cells"):
        form(logits, (24, 32), False)


@pytest.mark.parametrize("classes", [2, 4, 255])
@pytest.mark.parametrize("confident", [True, False])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_mask_has_no_label_where_nothing_is_known_and_the_others_elsewhere(
    classes: int, confident: bool, value: float
) -> None:
    logits = scene(classes)
    want, sure = labels_from_logits(logits, (24, 32), confident)
    logits[1, :2, :2] = value
    labels, confidence = labels_of(frame_of(logits), (24, 32), confident)
    assert (labels[:8, :8] == IGNORE).all()
    known = np.ones((24, 32), bool)
    known[:10, :10] = False  # a cell reaches to the centre of the next
    assert np.array_equal(labels[known], want[known])
    if confident:
        assert confidence is not None
        assert sure is not None
        assert (confidence[:8, :8] == 0).all()
        assert np.array_equal(confidence[known], sure[known])


def test_all_of_a_frame_may_be_unknown() -> None:
    labels, confidence = labels_of(frame_of(np.full((3, 6, 8), np.nan, np.float32)), (24, 32), True)
    assert (labels == IGNORE).all()
    assert confidence is not None
    assert not confidence.any()


def test_logits_on_a_device_are_labelled_the_same() -> None:
    torch = pytest.importorskip("torch")
    from streamseg.inference.upsample_device import TensorLogits

    for value in (np.nan, -np.inf, np.inf):
        logits = scene()
        logits[2, 2:4, 2:4] = value
        on_host = frame_of(logits)
        on_device = Logits(on_host.frame, TensorLogits(torch.from_numpy(logits)), on_host.geometry)
        assert np.array_equal(labels_of(on_host, (24, 32))[0], labels_of(on_device, (24, 32))[0])


def test_the_crf_and_fusion_get_numbers_and_their_labels_are_taken_away_again() -> None:
    whole = frame_of(scene())
    assert numbers_of(whole) == (whole, True)
    logits = scene()
    logits[0] = -np.inf
    assert numbers_of(frame_of(logits))[1]
    logits[1, 0, 0] = np.nan
    numbers, known = numbers_of(frame_of(logits))
    assert not known
    assert all_numbers(numbers.array)
    labels, confidence = unlabelled(
        frame_of(logits), np.ones((24, 32), np.uint8), np.full((24, 32), 9, np.uint8)
    )
    assert labels[0, 0] == IGNORE
    assert confidence is not None
    assert confidence[0, 0] == 0
    assert labels[20, 20] == 1


def test_what_is_filled_in_can_be_interpolated_at_any_scale_of_the_logits() -> None:
    for scale in (1e-6, 1.0, 1e6, 1e28):
        logits = (scene() * np.float32(scale)).astype(np.float32)
        logits[0, 0, 0], logits[1, 3, 3] = np.nan, -np.inf
        numbers, plane = without_holes(logits)
        assert plane is not None
        assert np.isfinite(numbers).all()
        assert np.array_equal(plane > numbers.max(), holes_in(logits))


def test_the_log_says_it_when_it_begins_and_once_a_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(holes.time, "monotonic", lambda: clock[0])
    reports = HoleReports()
    with caplog.at_level(logging.WARNING):
        for second in range(130):
            clock[0] = float(second)
            reports.count("a", 0.5)
        reports.count("b", 1.0)
    said = [record.getMessage() for record in caplog.records]
    assert [text.split(";")[0] for text in said] == [
        f"engine {name} computes NaN or infinity: {share} % of this frame has no label (255), "
        f"{count} frames so far"
        for name, share, count in (("a", 50, 1), ("a", 50, 61), ("a", 50, 121), ("b", 100, 1))
    ]
