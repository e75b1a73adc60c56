"""Scores near boundaries and over time, on pictures drawn for them."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from streamseg.errors import TrainingError
from streamseg.evaluation.boundaries import boundary_distance, boundary_f, edge_pixels
from streamseg.evaluation.refinement import Tally
from streamseg.evaluation.temporal import agreement, flicker, motion
from streamseg.types import IGNORE, U8

SIZE = (60, 80)


def halves(column: int) -> U8:
    """Class 0 to the left of a column, class 1 from it on."""
    labels = np.zeros(SIZE, np.uint8)
    labels[:, column:] = 1
    return labels


def test_the_distance_counts_from_the_pixels_on_both_sides_of_a_boundary() -> None:
    distance = boundary_distance(halves(40))
    assert distance[30, 36:44].tolist() == [3, 2, 1, 0, 0, 1, 2, 3]
    assert (distance < 5).sum() == 10 * SIZE[0]


def test_without_a_boundary_every_pixel_is_infinitely_far() -> None:
    assert np.isinf(boundary_distance(np.zeros(SIZE, np.uint8))).all()


def test_the_border_of_what_is_unlabelled_is_no_boundary() -> None:
    labels = halves(40)
    labels[:, 38:42] = IGNORE
    assert not edge_pixels(labels, labels != IGNORE).any()


@pytest.mark.parametrize(("shift", "score"), [(0, 1.0), (2, 1.0), (8, 0.0)])
def test_contours_agree_within_three_pixels(shift: int, score: float) -> None:
    assert boundary_f(halves(40), halves(40 + shift), 2) == score


@pytest.mark.parametrize(
    ("down", "right", "hit"),
    [(0, 3, True), (2, 2, True), (1, 2, True), (1, 3, False), (2, 3, False), (0, 4, False)],
)
def test_hits_lie_within_a_disc_of_three_pixels_whichever_way(down: int, right: int, hit: bool) -> None:
    true_spot, found = np.zeros((2, 25, 25), np.uint8)
    true_spot[12, 12] = 1  # one pixel is all of class 1, so its contour; class 0's is round it
    for y, x in ((down, right), (right, down), (-down, -right), (-right, down)):
        found[:] = 0
        found[12 + y, 12 + x] = 1
        score = boundary_f(true_spot, found, 2)
        assert score is not None
        assert (score > 0.5) == hit


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_picture_and_its_transpose_score_the_same(seed: int) -> None:
    random = np.random.default_rng(seed)
    truth, predicted = (
        (cv2.GaussianBlur(random.normal(size=SIZE), (0, 0), 4) > 0).astype(np.uint8) for _ in range(2)
    )
    turned = boundary_f(truth.T.copy(), predicted.T.copy(), 2)
    assert turned == pytest.approx(boundary_f(truth, predicted, 2), abs=1e-12)


def test_a_contour_of_a_class_that_is_not_there_scores_nothing() -> None:
    predicted = halves(40)
    predicted[20:40, 60:70] = 2
    # class 0 agrees; class 1 has twice the contour it should have; class 2 is made up
    score = boundary_f(halves(40), predicted, 3)
    assert score is not None
    extra = 2 * (
        12 + 22
    )  # pixels of class 1 round the made-up block: two sides of 12... counted without corners
    precision = 60 / (60 + extra - 8)
    assert score == pytest.approx((1 + 2 * precision / (1 + precision) + 0) / 3, abs=0.01)
    assert boundary_f(np.zeros(SIZE, np.uint8), np.zeros(SIZE, np.uint8), 2) is None


def test_a_trimap_counts_only_its_band_and_halves_add_up() -> None:
    truth, predicted = halves(40), halves(42)
    predicted[:, 70:] = 0  # far from the boundary
    one, two = Tally(("left", "right")), Tally(("left", "right"))
    for tally in (one, two):
        tally.add(truth, boundary_distance(truth), predicted, None)
    scores = (one + two).scores()
    assert scores.frames == 2
    # in 5 px: left 5 columns all right, right 2 of 5 wrong: IoU 5/7 and 3/5
    assert scores.trimap["5"] == pytest.approx(100 * (5 / 7 + 3 / 5) / 2, abs=0.01)
    assert scores.trimap["1"] == pytest.approx(100 * (1 / 2 + 0) / 2, abs=0.01)
    assert scores.miou is not None
    assert scores.trimap["20"] is not None
    assert scores.miou < scores.trimap["20"] + 15
    assert scores.consistency is None


@pytest.mark.parametrize("value", [0, IGNORE])
def test_without_a_boundary_or_a_label_there_is_no_score(value: int) -> None:
    tally = Tally(("left", "right"))
    truth = np.full(SIZE, value, np.uint8)
    tally.add(truth, boundary_distance(truth), halves(40), None)
    scores = tally.scores()
    assert set(scores.trimap.values()) == {None}
    assert scores.consistency is None
    assert scores.flicker is None
    assert (scores.miou is None) == (value == IGNORE)
    nothing = Tally(("left", "right")).scores()
    assert (nothing.miou, nothing.pixel_accuracy, nothing.boundary_f, nothing.frames) == (None, None, None, 0)
    assert (tally + Tally(("left", "right"))).scores() == scores


def test_masks_that_move_with_the_picture_are_consistent_and_others_flicker() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (100, 140, 3)).astype(np.uint8)
    world = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), None, 0, 255, cv2.NORM_MINMAX)
    before, now = (np.ascontiguousarray(world[20:80, x : x + 80]) for x in (20, 24))
    where = motion(now, before)
    moves = agreement(halves(36), halves(40), where, 2)
    stays = agreement(halves(40), halves(40), where, 2)
    assert flicker(moves) == pytest.approx(0, abs=1.0)
    assert flicker(stays) == pytest.approx(100 * 4 / 76, abs=1.5)
    assert np.trace(moves) > 0.9 * 60 * 76


def test_what_came_in_from_outside_or_is_unlabelled_is_not_compared() -> None:
    where = np.dstack(np.meshgrid(np.arange(80, dtype=np.float32) + 10, np.arange(60, dtype=np.float32)))
    labels = halves(40)
    unlabelled = labels.copy()
    unlabelled[:10] = IGNORE
    matrix = agreement(unlabelled, labels, np.ascontiguousarray(where, np.float32), 2)
    assert matrix.sum() == 50 * 70


@pytest.mark.parametrize("size", [(6, 8), (11, 11), (11, 3000), (4, 400)])
def test_frames_too_small_to_follow_motion_in_are_named(size: tuple[int, int]) -> None:
    frame = np.zeros((*size, 3), np.uint8)
    with pytest.raises(TrainingError, match=f"{size[1]}x{size[0]} are too small or too narrow"):
        motion(frame, frame)


def test_nothing_that_moved_is_no_flicker_of_0() -> None:
    assert flicker(np.zeros((2, 2), np.int64)) is None
