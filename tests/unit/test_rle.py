"""COCO run lengths: the same text as pycocotools, and the same pixels back."""

from __future__ import annotations

import numpy as np
import pytest

coco = pytest.importorskip("pycocotools.mask")

from streamseg.errors import WireError  # noqa: E402
from streamseg.types import IGNORE  # noqa: E402
from streamseg.wire.rle import (  # noqa: E402
    counts_to_string,
    decode_labels,
    encode_labels,
    encode_mask,
    string_to_counts,
)
from tests.masks import draw_labels  # noqa: E402

SIZES = [(1, 1), (1, 9), (9, 1), (7, 5), (36, 48), (361, 479)]


def noise(size: tuple[int, int], classes: int, seed: int = 1) -> np.ndarray:
    labels = np.random.default_rng(seed).integers(0, classes, size, dtype=np.uint8)
    return np.where(labels == classes - 1, np.uint8(IGNORE), labels)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("make", [draw_labels, lambda size: noise(size, 5), lambda size: noise(size, 2)])
def test_each_class_reads_as_pycocotools_writes_it(size: tuple[int, int], make) -> None:  # type: ignore[no-untyped-def]
    labels = make(size)
    found = {value: (area, counts) for value, area, counts in encode_labels(labels)}
    assert set(found) == set(np.unique(labels).tolist()) - {IGNORE}
    for value, (area, counts) in found.items():
        theirs = coco.encode(np.asfortranarray(labels == value))
        assert counts == theirs["counts"].decode("ascii")
        assert area == int(coco.area(theirs)) == int((labels == value).sum())


@pytest.mark.parametrize("size", SIZES)
def test_labels_come_back_exactly(size: tuple[int, int]) -> None:
    for labels in (
        draw_labels(size),
        noise(size, 5),
        np.full(size, IGNORE, np.uint8),
        np.zeros(size, np.uint8),
    ):
        back = decode_labels(((value, counts) for value, _, counts in encode_labels(labels)), size)
        assert back.dtype == np.uint8
        assert back.flags.c_contiguous
        np.testing.assert_array_equal(back, labels)


def test_known_text_from_the_definition() -> None:
    # 4x3 pixels, ones in rows 1 and 2 of the middle column: 5 outside, 2 inside, 5 outside.
    mask = np.zeros((4, 3), np.uint8)
    mask[1:3, 1] = 1
    assert {v: c for v, _, c in encode_labels(mask)}[1] == "525"


def test_counts_survive_their_text_up_to_the_largest_mask() -> None:
    counts = np.array([0, 1, 31, 15, 16, 1 << 20, 3, (1 << 25) - 1, 7])
    np.testing.assert_array_equal(string_to_counts(counts_to_string(counts), int(counts.sum())), counts)


@pytest.mark.parametrize(
    "text",
    ["", "5", "525 ", "52P", "5\x7f5", "ü", "o" * 40, "P" * 40, "5D5", "oooooooooooo0", "525" * 50],
)
def test_other_text_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="counts"):
        string_to_counts(text, 12)


def test_two_classes_on_one_pixel_are_refused() -> None:
    mask = np.zeros((4, 3), np.uint8)
    counts = next(counts for _, _, counts in encode_labels(mask))
    with pytest.raises(WireError, match="one pixel"):
        decode_labels([(0, counts), (1, counts)], (4, 3))


def test_a_part_of_a_picture_has_the_counts_of_the_whole() -> None:
    random = np.random.default_rng(3)
    for _ in range(300):
        height, width = random.integers(1, 9, 2)
        tall, wide = random.integers(1, height + 1), random.integers(1, width + 1)
        top, left = random.integers(0, height - tall + 1), random.integers(0, width - wide + 1)
        inside = random.random((tall, wide)) < random.choice([0.1, 0.5, 0.9, 1.0])
        labels = np.full((height, width), 255, np.uint8)
        labels[top : top + tall, left : left + wide][inside] = 3
        wanted = [counts for _, _, counts in encode_labels(labels)]
        found = encode_mask(inside, (int(top), int(left)), (int(height), int(width)))
        assert [found] == (wanted or [counts_to_string(np.array([height * width]))])
