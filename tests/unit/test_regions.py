"""Outlines of regions: filled again they give the mask back."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from streamseg.analytics import regions
from streamseg.analytics.regions import Regions, fill, find_regions
from streamseg.types import IGNORE, U8


def drawn(found: Regions, shape: tuple[int, ...]) -> dict[int, np.ndarray]:
    """What the outlines cover, by class."""
    height, width = shape
    classes: dict[int, np.ndarray] = {}
    for region in found.found:
        mask = fill(region.rings, (height, width))
        classes[region.label] = classes.get(region.label, np.zeros(shape, bool)) | mask
    return classes


def iou_of_classes(labels: U8, found: Regions) -> list[float]:
    again = drawn(found, labels.shape)
    present = [int(c) for c in np.unique(labels) if c != IGNORE]
    assert set(again) <= set(present)
    nothing = np.zeros(labels.shape, bool)
    pairs = [(again.get(c, nothing), labels == c) for c in present]
    return [float((one & other).sum() / (one | other).sum()) for one, other in pairs]


def smooth(seed: int, shape: tuple[int, int], classes: int, sigma: float) -> U8:
    """Random labels with regions about sigma pixels wide."""
    noise = np.random.default_rng(seed).normal(size=(*shape, classes)).astype(np.float32)
    return cv2.GaussianBlur(noise, (0, 0), sigma).argmax(2).astype(np.uint8)


def test_exact_outlines_give_any_mask_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of noise, where pixels touch at corners, and of masks one pixel wide."""
    monkeypatch.setattr(regions, "TOLERANCES", ())
    random = np.random.default_rng(0)
    for _ in range(300):
        height, width = random.integers(1, 14, 2)
        labels = random.choice(np.array([0, 1, 7, IGNORE], np.uint8), (height, width))
        found = find_regions(labels)
        again = drawn(found, labels.shape)
        for label in np.unique(labels[labels != IGNORE]):
            assert np.array_equal(again[label], labels == label)
        assert sum(region.area for region in found.found) == np.count_nonzero(labels != IGNORE)


@pytest.mark.parametrize(("seed", "sigma"), [(0, 2.0), (1, 5.0), (2, 12.0), (3, 30.0)])
def test_simplified_outlines_give_each_class_back_to_99_percent(seed: int, sigma: float) -> None:
    labels = smooth(seed, (180, 240), 5, sigma)
    found = find_regions(labels)
    assert (found.left_out, found.left_out_pixels) == (0, 0)
    assert min(iou_of_classes(labels, found)) >= 0.99


def test_simplified_outlines_have_fewer_points() -> None:
    labels = smooth(0, (360, 480), 3, 20.0)
    exact = sum(len(ring) for one in regions._outlined(labels, 0, None) for ring in one.corners)
    simple = sum(len(ring) for one in find_regions(labels).found if one.label == 0 for ring in one.rings)
    assert simple < exact / 3


def test_a_region_has_its_area_box_confidence_and_holes() -> None:
    labels = np.full((20, 30), IGNORE, np.uint8)
    labels[2:12, 5:25] = 3
    labels[4:6, 8:10] = IGNORE
    labels[15, 1] = 3
    confidence = np.full(labels.shape, 51, np.uint8)
    confidence[15, 1] = 255
    large, small = find_regions(labels, confidence).found
    assert (large.label, large.area, large.box) == (3, 196, (5, 2, 20, 10))
    assert large.confidence == pytest.approx(0.2)
    assert [sorted(map(tuple, ring.tolist())) for ring in large.rings] == [
        [(5, 2), (5, 12), (25, 2), (25, 12)],
        [(8, 4), (8, 6), (10, 4), (10, 6)],
    ]
    assert (small.area, small.box, small.confidence) == (1, (1, 15, 1, 1), 1.0)


def test_pixels_that_touch_at_a_corner_are_one_region() -> None:
    labels = np.full((4, 4), IGNORE, np.uint8)
    labels[[0, 1, 2, 3], [0, 1, 2, 3]] = 1
    (region,) = find_regions(labels).found
    assert region.area == 4
    assert np.array_equal(fill(region.rings, (4, 4)), labels == 1)


def test_what_is_too_much_is_left_out_the_smallest_first() -> None:
    labels = np.full((40, 40), IGNORE, np.uint8)
    labels[0:20, 0:20] = 0
    labels[5:7, 5:7] = IGNORE
    labels[10:14, 10:14] = IGNORE
    labels[30:34, 30:34] = 1
    labels[38, 38] = 2
    two = find_regions(labels, most_regions=2)
    assert ([one.label for one in two.found], two.left_out, two.left_out_pixels) == ([0, 1], 1, 1)
    few = find_regions(labels, most_points=13)
    assert [(one.label, len(one.rings)) for one in few.found] == [(0, 3)]
    assert (few.left_out, few.left_out_pixels) == (2, 17)
    one = find_regions(labels, most_points=11)
    assert [(region.label, len(region.rings)) for region in one.found] == [(0, 2)]
    assert (one.left_out, one.left_out_pixels) == (2, 21)


def test_a_mask_without_labels_has_no_regions() -> None:
    assert find_regions(np.full((5, 5), IGNORE, np.uint8)).found == ()
    assert not fill([], (5, 5)).any()
