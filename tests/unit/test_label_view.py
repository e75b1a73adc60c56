"""Labels as they are published: which settings are refused, and that every form gives the same labels."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import cv2
import numpy as np
import pytest

from streamseg.config.labels import LabelsConfig
from streamseg.errors import ConfigError
from streamseg.inference.label_view import (
    LabelView,
    LabelViews,
    drop_small,
    drop_small_fallback,
    view_of,
)
from streamseg.inference.scaling import fallback, labels_from_logits, labels_of
from streamseg.runtime.native import load_library
from streamseg.types import IGNORE, ClassInfo, LabelSet
from tests.unit.test_holes import frame_of

NAMES = ("sky", "building", "pole", "road", "car", "truck", "pedestrian")
# Cells of a few columns and of many, one column or row, the same size, a smaller one, and the most classes.
SIZES = [
    ((11, 30, 40), (120, 160)),
    ((7, 9, 14), (95, 210)),
    ((21, 12, 13), (60, 67)),
    ((2, 7, 5), (33, 31)),
    ((3, 1, 1), (4, 5)),
    ((5, 20, 30), (20, 30)),
    ((4, 40, 60), (17, 23)),
    ((255, 3, 3), (9, 40)),
    ((1, 2, 9), (2, 2)),
]
STREET = LabelSet("street-7", tuple(ClassInfo(n, (10 * i, i, i), n == "pole") for i, n in enumerate(NAMES)))


def of(classes: LabelSet = STREET, **settings: Any) -> LabelView:
    return view_of(classes, LabelsConfig(**settings))


def numbered(count: int) -> LabelSet:
    return LabelSet("numbers", tuple(ClassInfo(f"c{i}", (i, i, i)) for i in range(count)))


def test_merged_and_chosen_classes_have_a_label_set_of_their_own() -> None:
    view = of(merge={"vehicle": ("truck", "car")}, only=("pedestrian", "vehicle"))
    assert view.label_set.names == ("vehicle", "pedestrian")
    assert view.label_set.classes[0].colour == STREET.classes[5].colour, "of the class that is named first"
    assert view.label_set.id.startswith("street-7+")
    assert view.table.tolist() == [255, 255, 255, 255, 0, 0, 1] + 249 * [255]
    assert view.merges
    same = of(merge={"vehicle": ("truck", "car")}, only=("vehicle", "pedestrian"), min_confidence=0.7)
    assert same.label_set == view.label_set, "an id says which classes, not how sure they are"
    other = of(merge={"vehicle": ("car", "truck")}, only=("vehicle", "pedestrian"))
    assert other.label_set.id != view.label_set.id, "another colour"
    coloured = of(merge={"vehicle": ("truck", "car")}, colours={"vehicle": (1, 2, 3), "sky": (9, 9, 9)})
    assert coloured.label_set.classes[4].colour == (1, 2, 3)
    assert coloured.label_set.classes[0].colour == (9, 9, 9)
    assert of(merge={"stuff": ("pole", "building")}).label_set.classes[1].thin


def test_without_settings_the_labels_are_the_engines() -> None:
    view = of()
    assert view.label_set is STREET
    assert not view.changes
    sure = of(min_confidence=0.5, min_region=4)
    assert sure.label_set is STREET
    assert sure.changes
    assert of(only=NAMES[:-1]).changes, "the last class is not published"


def test_a_class_may_keep_its_name_when_others_join_it_and_one_may_be_renamed() -> None:
    view = of(merge={"car": ("car", "truck"), "person": ("pedestrian",)})
    assert view.label_set.names == ("sky", "building", "pole", "road", "car", "person")


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (
            {"merge": {"vehicle": ("caar", "truck")}},
            "labels.merge.vehicle: unknown class 'caar'; did you mean 'car'? classes: " + ", ".join(NAMES),
        ),
        (
            {"only": ("Pedestrian",)},
            "labels.only: unknown class 'Pedestrian'; did you mean 'pedestrian'? classes: "
            + ", ".join(NAMES),
        ),
        (
            {"only": ("zebra",)},
            "labels.only: unknown class 'zebra'; classes: " + ", ".join(NAMES),
        ),
        (
            {"merge": {"vehicle": ("car",), "big": ("car", "truck")}},
            "labels.merge.big: 'car' is merged twice; it is also in 'vehicle'",
        ),
        ({"merge": {"vehicle": ("car", "car")}}, "labels.merge.vehicle: 'car' is merged twice"),
        (
            {"merge": {"vehicle": ()}},
            "labels.merge.vehicle: must name at least one class; classes: " + ", ".join(NAMES),
        ),
        ({"only": ()}, "labels.only: must name at least one class; leave it out to publish all"),
        (
            {"merge": {"road": ("car", "truck")}},
            "labels.merge.road: is also a class of the engine that is not in it; put 'road' into the list, "
            "or choose another name",
        ),
        (
            {"merge": {"vehicle": ("car", "truck")}, "only": ("car",)},
            "labels.only: 'car' is merged into 'vehicle'; write that",
        ),
        (
            {"colours": {"boat": (1, 2, 3)}},
            "labels.colours: unknown class 'boat'; classes: " + ", ".join(NAMES),
        ),
        (
            {"colours": {"car": (1, 2, 3)}, "only": ("sky",)},
            "labels.colours: 'car' is not published; add it to only, or leave it out",
        ),
    ],
)
def test_settings_that_fit_no_class_are_one_line(settings: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        of(**settings)
    assert caught.value.problems == (problem,)


def test_class_ids_have_no_confidence() -> None:
    with pytest.raises(ConfigError, match="min_confidence: this engine gives class ids without prob"):
        view_of(STREET, LabelsConfig(min_confidence=0.5), "labels")
    view_of(STREET, LabelsConfig(min_confidence=0.0, min_region=5, only=("car",)), "labels")


def test_many_classes_are_not_all_told() -> None:
    with pytest.raises(ConfigError) as caught:
        of(numbered(150), only=("x",))
    assert caught.value.problems[0].endswith("c38, c39, …")


def test_a_streams_fields_win_over_its_engines() -> None:
    engine = LabelsConfig(only=("car",), min_confidence=0.5)
    stream = LabelsConfig(min_confidence=0.0, min_region=9)
    both = stream.over(engine)
    assert (both.only, both.min_confidence, both.min_region) == (("car",), 0.0, 9)
    views = LabelViews()
    view = views.of(STREET, stream, engine)
    assert view.label_set.names == ("car",)
    assert view is views.of(STREET, stream, engine)
    assert views.of(STREET, None, LabelsConfig()).label_set is STREET


def test_a_view_can_go_to_another_process() -> None:
    view = pickle.loads(pickle.dumps(of(only=("car",), min_confidence=0.5)))
    assert view.label_set == of(only=("car",)).label_set


def native(*args: Any) -> Any:
    try:
        load_library("_upsample")
    except OSError as error:
        pytest.skip(str(error))
    return labels_from_logits(*args)


def on_device(logits: np.ndarray, size: tuple[int, int], confidence: bool, *args: Any) -> Any:
    torch = pytest.importorskip("torch")
    from streamseg.inference.upsample_device import TensorLogits

    probabilities, temperature, view = args
    return TensorLogits(torch.from_numpy(logits)).labels(size, view, probabilities, temperature), None


def oracle(
    logits: np.ndarray, size: tuple[int, int], probabilities: bool, temperature: float, view: LabelView
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, confidence, and where neither turns on a rounding, in float64."""
    wide = np.stack([cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) for p in logits]).astype(float)
    ids = wide.argmax(0)
    odds = np.exp((wide - wide.max(0)) / temperature)
    shares = wide.clip(0, 1) if probabilities else odds / odds.sum(0)
    published = view.table[ids]
    members = view.table[: len(logits), None, None] == published
    sure = 255 * np.where(members, shares, 0).sum(0).clip(0, 1)
    ordered = np.sort(wide, axis=0)
    scale = np.abs(logits).max()
    clear = ordered[-1] - ordered[-2] > 1e-5 * scale if len(logits) > 1 else np.ones(size, bool)
    clear &= np.abs(sure - (view.least - 0.5)) > 0.02
    labels = np.where(sure + 0.5 < view.least, IGNORE, published)
    return labels, np.where(labels == IGNORE, 0, sure), clear


@pytest.mark.parametrize("form", [native, fallback, on_device])
@pytest.mark.parametrize("probabilities", [False, True])
@pytest.mark.parametrize(("shape", "size"), SIZES)
def test_every_form_gives_what_the_probabilities_say(
    form: Callable[..., Any], shape: tuple[int, int, int], size: tuple[int, int], probabilities: bool
) -> None:
    """Smooth pictures and noise, random merges, choices, thresholds and temperatures, against NumPy."""
    random = np.random.default_rng([*shape, *size, probabilities])
    classes = numbered(shape[0])
    for round_ in range(6 if form is native else 3):
        logits = random.normal(0, 4, shape).astype(np.float32)
        if round_ % 2 and min(shape[1:]) > 5:
            logits = np.stack([4 * cv2.GaussianBlur(plane, (0, 0), 3) for plane in logits])
        if probabilities:
            odds = np.exp(logits - logits.max(0))
            logits = (odds / odds.sum(0)).astype(np.float32)
        order = random.permutation(shape[0])
        cut = sorted(random.integers(0, shape[0] + 1, 2))
        merge = {f"m{i}": tuple(f"c{c}" for c in part) for i, part in enumerate(np.split(order, cut)[:2])}
        merge = {name: members for name, members in merge.items() if members}
        names = view_of(classes, LabelsConfig(merge=merge)).label_set.names
        some = tuple(n for n in names if random.random() < 0.6) or names[:1]
        view = of(
            classes,
            merge=merge if round_ % 3 else {},
            only=some if round_ % 3 == 1 else None,
            min_confidence=float(random.choice([0.0, 0.25, 0.6, 0.95])),
        )
        temperature = 1.0 if probabilities else float(random.choice([0.6, 1.0, 2.5]))
        want, sure, clear = oracle(logits, size, probabilities, temperature, view)
        args = (probabilities, temperature, view)
        labels, _ = form(logits, size, False, *args)
        assert labels.dtype == np.uint8
        np.testing.assert_array_equal(labels[clear], want[clear])
        if form is on_device:
            continue
        with_confidence, confidence = form(logits, size, True, *args)
        np.testing.assert_array_equal(with_confidence, labels)
        assert np.abs(confidence - sure)[clear].max() < 0.53
        assert (confidence[labels == IGNORE] == 0).all()


def test_a_threshold_on_the_plane_of_confidence_gives_the_same_labels() -> None:
    """Cells are filled without a look at their pixels: not one of them may be another for that."""
    random = np.random.default_rng(5)
    for _ in range(16):
        logits = 6 * cv2.GaussianBlur(random.normal(0, 9, (30, 40, 7)).astype(np.float32), (0, 0), 2.5)
        logits = np.ascontiguousarray(logits.transpose(2, 0, 1))
        size = tuple(random.integers(10, 260, 2).tolist())
        temperature, least = float(random.choice([0.7, 1, 3])), float(random.random())
        merge = {"vehicle": ("car", "truck"), "ground": ("road", "sky")}
        for settings in ({}, {"merge": merge}, {"only": ("car", "road")}):
            plain, sure = native(logits, size, True, False, temperature, of(**settings))
            view = of(min_confidence=least, **settings)
            kept, _ = native(logits, size, False, False, temperature, view)
            np.testing.assert_array_equal(kept, np.where(sure < 255 * least, IGNORE, plain))


@pytest.mark.parametrize("settings", [{}, {"merge": {"both": ("c0", "c1")}}, {"only": ("c1",)}])
@pytest.mark.parametrize("least", [0.0, 0.4])
def test_a_hole_has_no_label_whatever_is_published(settings: dict[str, Any], least: float) -> None:
    random = np.random.default_rng(3)
    for classes in (3, 255):
        logits = random.normal(0, 4, (classes, 9, 12)).astype(np.float32)
        view = of(numbered(classes), min_confidence=least, **settings)
        whole, sure = labels_of(frame_of(logits), (27, 50), True, view)
        logits[1, :3, :3] = np.nan
        labels, confidence = labels_of(frame_of(logits), (27, 50), True, view)
        alone, _ = labels_of(frame_of(logits), (27, 50), False, view)
        np.testing.assert_array_equal(alone, labels)
        assert (labels[:8, :12] == IGNORE).all()
        assert confidence is not None
        assert (confidence[labels == IGNORE] == 0).all()
        np.testing.assert_array_equal(labels[:, 20:], whole[:, 20:])
        assert sure is not None
        np.testing.assert_array_equal(confidence[:, 20:], sure[:, 20:])


def test_class_ids_are_merged_chosen_and_cleaned() -> None:
    ids = np.array([[[0, 4, 5, 5], [0, 4, 5, 255], [6, 3, 3, 3]]], np.float32)
    logits = replace(frame_of(ids), kind="labels")
    view = view_of(
        STREET,
        LabelsConfig(merge={"vehicle": ("car", "truck")}, only=("vehicle", "sky"), min_region=3),
        "labels",
    )
    labels, confidence = labels_of(logits, (3, 4), True, view)
    assert confidence is None
    assert labels.tolist() == [[255, 1, 1, 1], [255, 1, 1, 255], [255] * 4]


def regions(form: Callable[..., Any], labels: np.ndarray, least: int) -> np.ndarray:
    confidence = np.full(labels.shape, 9, np.uint8)
    kept, sure = form(labels.copy(), confidence, least)
    np.testing.assert_array_equal(sure, np.where((kept == IGNORE) & (labels != IGNORE), 0, 9))
    np.testing.assert_array_equal(form(labels.copy(), None, least)[0], kept)
    return kept  # type: ignore[no-any-return]


@pytest.mark.parametrize("form", [drop_small, drop_small_fallback])
def test_regions_of_one_class_that_are_too_small_become_255(form: Callable[..., Any]) -> None:
    picture = np.array(
        [
            [0, 0, 1, 1, 0],
            [0, 2, 1, 2, 2],
            [2, 1, 0, 0, 255],
            [2, 1, 1, 0, 255],
        ],
        np.uint8,
    )
    kept = regions(form, picture, 3)
    x = IGNORE
    np.testing.assert_array_equal(kept, [[0, 0, 1, 1, x], [0, x, 1, x, x], [x, 1, 0, 0, x], [x, 1, 1, 0, x]])
    np.testing.assert_array_equal(regions(form, picture, 1), picture)
    assert (regions(form, picture, 99) == IGNORE).all()


def test_both_forms_agree_on_noise_spirals_and_long_rows() -> None:
    random = np.random.default_rng(7)
    for shape in ((1, 1), (1, 300), (300, 1), (37, 61), (20, 257)):
        for classes in (1, 2, 9):
            noise = random.integers(0, classes, shape).astype(np.uint8)
            noise[random.random(shape) < 0.1] = IGNORE
            large = cv2.resize(noise, (shape[1] * 3, shape[0] * 2), interpolation=cv2.INTER_NEAREST)
            for labels in (noise, np.ascontiguousarray(large)):
                for least in (2, 7, 40):
                    np.testing.assert_array_equal(
                        regions(drop_small, labels, least), regions(drop_small_fallback, labels, least)
                    )
