"""What may change between two parts of a run, and what is refused, by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

torch = pytest.importorskip("torch")

from streamseg.errors import TrainingError  # noqa: E402
from streamseg.training.recipe import CAMVID_CLASSES, AugmentRecipe, TrainRecipe  # noqa: E402
from streamseg.training.resume import MAY_CHANGE, check_same_run  # noqa: E402

LAST = Path("out/last.pt")
LITE = TrainRecipe(network="lite0")


def identity(recipe: TrainRecipe, **changes: Any) -> dict[str, Any]:
    known = {"recipe": msgspec.to_builtins(recipe), "init": "a.whl 12", "data": "34", "val": None}
    return known | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"epochs": 9},
        {"evaluate_every": 3, "threads": 1, "device": "cpu", "loader_threads": 4},
        {"licence": "CC0", "arithmetic": "fp32"},
    ],
)
def test_what_does_not_change_the_result_may_change(changes: dict[str, Any]) -> None:
    assert set(changes) <= set(MAY_CHANGE)
    check_same_run(LAST, identity(LITE), identity(msgspec.structs.replace(LITE, **changes)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seed": 5}, "seed (1, now 5)"),
        ({"batch_size": 2, "learning_rate": 0.1}, "batch_size (8, now 2), learning_rate (0.004, now 0.1)"),
        ({"classes": (*CAMVID_CLASSES[1::-1], *CAMVID_CLASSES[2:])}, "data: classes; --resume"),
        ({"classes": CAMVID_CLASSES[:5]}, "data: classes; --resume"),
        ({"label_set": "mine"}, 'label_set ("camvid-11", now "mine")'),
        ({"network": "lite1"}, 'network ("lite0", now "lite1")'),
        ({"head_width": 96}, "head_width (128, now 96)"),
        ({"input_size": (192, 256)}, "input_size ([360,480], now [192,256])"),
        ({"frozen_stages": 2, "ema": 0.9}, "frozen_stages (0, now 2), ema (0.998, now 0.9)"),
        (
            {"augment": AugmentRecipe(crop_size=(64, 96), flip=0)},
            "augment.crop_size ([288,384], now [64,96])",
        ),
    ],
)
def test_what_means_another_run_is_refused_by_name(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError) as caught:
        check_same_run(LAST, identity(LITE), identity(msgspec.structs.replace(LITE, **changes)))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": "35"}, "data: the training images; --resume"),
        ({"val": "35"}, "data: the validation images; --resume"),
        ({"init": "b.whl 13"}, "data: the initial weights; --resume"),
    ],
)
def test_other_images_and_weights_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(TrainingError) as caught:
        check_same_run(LAST, identity(LITE), identity(LITE, **changes))
    assert said in str(caught.value)


def test_the_initial_weights_need_not_be_given_again() -> None:
    check_same_run(LAST, identity(LITE), identity(LITE, init=None))
    with pytest.raises(TrainingError, match="the initial weights"):
        check_same_run(LAST, identity(LITE, init=None), identity(LITE))


def test_an_older_checkpoint_has_the_defaults_of_newer_settings() -> None:
    older = identity(TrainRecipe())
    for key in ("head_width", "arithmetic"):
        del older["recipe"][key]
    del older["data"], older["val"], older["init"]
    check_same_run(LAST, older, identity(TrainRecipe(), init=None))
    with pytest.raises(TrainingError, match="head_width"):
        check_same_run(LAST, older, identity(msgspec.structs.replace(LITE, head_width=96)))


@pytest.mark.parametrize(
    "recipe",
    [5, None, {"augment": 5}, {"epochs": object()}],
    ids=["5", "none", "augment", "object"],
)
def test_a_recipe_that_cannot_be_read_is_named(recipe: object) -> None:
    with pytest.raises(TrainingError, match=r"out/last\.pt: its recipe cannot be read"):
        check_same_run(LAST, identity(LITE) | {"recipe": recipe}, identity(LITE))
