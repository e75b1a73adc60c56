"""Scores against numbers worked out by hand, and labelled folders that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.errors import TrainingError, UsageError
from streamseg.evaluation import IGNORE, LabelledFolder, confusion_matrix, evaluate, scores_of
from streamseg.evaluation.metrics import shown

NAMES = ("road", "car", "tree")


def write_pair(folder: Path, name: str, rgb: np.ndarray, labels: np.ndarray, suffix: str = ".png") -> None:
    for sub, picture, end in (("images", rgb[..., ::-1], suffix), ("labels", labels, ".png")):
        (folder / sub).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(folder / sub / f"{name}{end}"), picture)


def grey(height: int = 8, width: int = 12) -> np.ndarray:
    return np.full((height, width, 3), 90, np.uint8)


def test_the_confusion_matrix_counts_truth_by_prediction_and_leaves_255_out() -> None:
    truth = np.array([[0, 0, 1], [1, IGNORE, 2]], np.uint8)
    predicted = np.array([[0, 1, 1], [1, 2, 0]], np.uint8)
    assert confusion_matrix(truth, predicted, 3).tolist() == [[1, 1, 0], [0, 2, 0], [1, 0, 0]]


def test_scores_are_those_worked_out_by_hand() -> None:
    matrix = np.array([[1, 1, 0], [0, 2, 0], [1, 0, 0]])
    scores = scores_of(matrix, NAMES, images=1)
    # road 1/(2+2-1), car 2/(2+3-2), tree 0/(1+0-0)
    assert scores.per_class == {"road": 33.33, "car": 66.67, "tree": 0.0}
    assert scores.miou == 33.33
    assert scores.pixel_accuracy == 60.0
    assert scores.pixels == 5


def test_a_class_that_is_nowhere_has_no_score_and_does_not_count() -> None:
    scores = scores_of(np.array([[3, 1, 0], [0, 4, 0], [0, 0, 0]]), NAMES, images=1)
    assert scores.per_class["tree"] is None
    assert scores.miou == pytest.approx((75 + 80) / 2)


@pytest.mark.parametrize("classes", [1, 3])
def test_where_nothing_is_labelled_nothing_has_a_score(classes: int) -> None:
    scores = scores_of(np.zeros((classes, classes), np.int64), NAMES[:classes], images=2)
    assert (scores.miou, scores.pixel_accuracy) == (None, None)
    assert set(scores.per_class.values()) == {None}
    assert json.loads(scores.to_json())["miou"] is None
    assert [shown(scores.miou, 6), shown(7.0, 6)] == ["     –", "  7.00"]


def test_one_matrix_is_kept_over_all_images(tmp_path: Path) -> None:
    all_road = np.zeros((8, 12), np.uint8)
    one_car = all_road.copy()
    one_car[0, :6] = 1
    write_pair(tmp_path, "a", grey(), all_road)
    write_pair(tmp_path, "b", grey(), one_car, ".webp")
    seen: list[tuple[int, int]] = []
    scores = evaluate(
        lambda rgb: np.zeros(rgb.shape[:2], np.uint8), tmp_path, NAMES, lambda i, n: seen.append((i, n))
    )
    # 192 pixels, 186 of them road: a mean over two images would be (100 + 46.88) / 2 for road alone.
    assert scores.per_class == {"road": 96.88, "car": 0.0, "tree": None}
    assert scores.images == 2
    assert seen == [(1, 2), (2, 2)]


def test_scores_print_as_json_with_the_names_that_are_promised() -> None:
    printed = json.loads(scores_of(np.array([[3, 1], [0, 4]]), ("road", "car"), images=1).to_json())
    assert printed == {
        "miou": 77.5,
        "pixel_accuracy": 87.5,
        "per_class": {"road": 75.0, "car": 80.0},
        "images": 1,
        "pixels": 8,
    }


def test_a_mask_of_another_size_or_with_an_unknown_label_is_refused() -> None:
    truth = np.zeros((2, 2), np.uint8)
    with pytest.raises(UsageError, match=r"shape \(2, 3\) against ground truth of shape \(2, 2\)"):
        confusion_matrix(truth, np.zeros((2, 3), np.uint8), 3)
    with pytest.raises(UsageError, match="label 3 with 3 classes"):
        confusion_matrix(truth, truth + 3, 3)


def test_pictures_of_all_formats_are_read_as_rgb_in_the_order_of_their_names(tmp_path: Path) -> None:
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 250
    for name, suffix in (("b", ".jpg"), ("a", ".png"), ("c", ".webp")):
        write_pair(tmp_path, name, red, np.ones((16, 16), np.uint8), suffix)
    samples = list(LabelledFolder(tmp_path, 3))
    assert [s.name for s in samples] == ["a", "b", "c"]
    for sample in samples:
        assert sample.rgb[..., 0].mean() > 200
        assert sample.rgb[..., 2].mean() < 30


def test_a_picture_without_labels_is_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", grey(), np.zeros((8, 12), np.uint8))
    write_pair(tmp_path, "b", grey(), np.zeros((8, 12), np.uint8), ".jpg")
    (tmp_path / "labels" / "b.png").unlink()
    with pytest.raises(TrainingError, match=r"images/b\.jpg has no matching file in labels/"):
        LabelledFolder(tmp_path, 3)


def test_labels_without_a_picture_are_named(tmp_path: Path) -> None:
    write_pair(tmp_path, "a", grey(), np.zeros((8, 12), np.uint8))
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(TrainingError, match=r"labels/a\.png has no matching file in images/"):
        LabelledFolder(tmp_path, 3)


def test_a_folder_that_is_no_data_set_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"nowhere/images: no such folder"):
        LabelledFolder(tmp_path / "nowhere", 3)
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    with pytest.raises(TrainingError, match="images/ holds no"):
        LabelledFolder(tmp_path, 3)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((8, 10), np.uint8), r"a\.png: is 10x8, but its image a\.png is 12x8"),
        (np.full((8, 12), 7, np.uint8), r"a\.png: label 7 at 96 pixels; with 3 classes labels are 0 to 2"),
        (np.zeros((8, 12, 3), np.uint8), r"a\.png: labels must have one channel of 8 bits"),
        (np.zeros((8, 12), np.uint16), r"a\.png: labels must have one channel of 8 bits"),
    ],
)
def test_labels_that_do_not_fit_are_refused_with_the_reason(
    tmp_path: Path, labels: np.ndarray, message: str
) -> None:
    write_pair(tmp_path, "a", grey(), labels)
    with pytest.raises(TrainingError, match=message):
        LabelledFolder(tmp_path, 3)[0]


@pytest.mark.parametrize("content", [b"", b"not a picture"])
def test_a_damaged_picture_is_named(tmp_path: Path, content: bytes) -> None:
    write_pair(tmp_path, "a", grey(), np.zeros((8, 12), np.uint8))
    (tmp_path / "images" / "a.png").write_bytes(content)
    with pytest.raises(TrainingError, match=r"images/a\.png: cannot be read as a picture"):
        LabelledFolder(tmp_path, 3)[0]
