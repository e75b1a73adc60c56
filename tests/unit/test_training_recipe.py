"""A recipe's fields and what they mean together are checked when it is read, each by its key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("torch")

from streamseg.errors import ConfigError
from streamseg.training.recipe import CAMVID_CLASSES, AugmentRecipe, TrainRecipe, load_recipe

CLASSES = "".join(f'[[classes]]\nname = "c{i}"\ncolour = [{i}, {i}, {i}]\n' for i in range(3))


def problems(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_recipe(path)
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[augment]\nscale_min = 3.0", "augment.scale_min: must be at most augment.scale_max (2); is 3"),
        (
            "[augment]\nscale_max = 0.5",
            "augment.scale_min: must be at most augment.scale_max (0.5); is 0.65",
        ),
        (
            "input_size = [96, 128]",
            "augment.crop_size: must have at most as many pixels as input_size [96, 128] has at "
            "augment.scale_max (2), or a part of every crop is empty; is [288, 384]",
        ),
        (
            'network = "lite1"\nbatch_size = 1',
            "batch_size: must be at least 2 for lite1, whose pyramid normalises over the batch; is 1",
        ),
        (
            CLASSES.replace("c2", "c0"),
            "classes[2].name: must be unique; 'c0' is also that of classes[0]",
        ),
    ],
)
def test_values_that_do_not_go_together_are_refused_by_name(tmp_path: Path, text: str, said: str) -> None:
    assert problems(tmp_path, text) == said


def test_all_that_does_not_go_together_is_said_at_once(tmp_path: Path) -> None:
    text = "[augment]\nscale_min = 3.0\n" + CLASSES.replace("c1", "c0")
    assert [line.partition(":")[0] for line in problems(tmp_path, text).splitlines()] == [
        "classes[1].name", "augment.scale_min",
    ]  # fmt: skip


def test_a_width_between_two_good_ones_is_told_the_nearest(tmp_path: Path) -> None:
    assert problems(tmp_path, "width = 100") == (
        "width: must be a whole number at least 12, at most 512, a multiple of 12; is 100; the nearest is 96"
    )
    assert "is 103; the nearest is 108" in problems(tmp_path, "width = 103")
    assert problems(tmp_path, "width = 5").endswith("a multiple of 12; is 5")
    assert problems(tmp_path, 'network = "lite0"\nhead_width = 100').endswith("is 100; the nearest is 96")


@pytest.mark.parametrize("value", [-1, "inf", "nan", 1e30])
@pytest.mark.parametrize("kind", [TrainRecipe, AugmentRecipe])
def test_every_number_has_bounds(tmp_path: Path, kind: type[TrainRecipe | AugmentRecipe], value: Any) -> None:
    table, prefix = ("[augment]\n", "augment.") if kind is AugmentRecipe else ("", "")
    for field in msgspec.structs.fields(kind):
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            said = problems(tmp_path, f"{table}{field.name} = {value}")
            assert said.startswith(f"{prefix}{field.name}: must be ")
        elif field.name in ("crop_size", "input_size"):
            said = problems(tmp_path, f"{table}{field.name} = [{value}, {value}]")
            assert said.startswith(f"{prefix}{field.name}: must be a list of 2, each a whole number")


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("input_size = [360, 481]", "input_size"),
        ("input_size = [360]", "input_size"),
        ("[augment]\ncrop_size = [1000000, 1000000]", "augment.crop_size"),
        ("epochs = 0", "epochs"),
        ("ema = 1.0", "ema"),
        ("warmup = 1.0", "warmup"),
        ("class_balance = 1.0", "class_balance"),
        ("learning_rate = 0", "learning_rate"),
        ("output_stride = 12", "output_stride"),
        ('device = "abacus"', "device"),
        ('label_set = ""', "label_set"),
        ('classes = "sky"', "classes"),
        ('[[classes]]\nname = "a"\ncolour = [1, 2, 3]', "classes"),
        (CLASSES.replace("[1, 1, 1]", "[1, 1]"), "classes[1].colour"),
        (CLASSES.replace("[1, 1, 1]", "[1, 1, 256]"), "classes[1].colour"),
        (CLASSES.replace('"c1"', '""'), "classes[1].name"),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key(tmp_path: Path, text: str, key: str) -> None:
    said = problems(tmp_path, text)
    assert said.startswith(f"{key}: must be ")
    assert "Ellipsis" not in said


def test_a_recipe_made_in_python_is_checked_alike() -> None:
    with pytest.raises(ConfigError, match=r"augment\.scale_min: must be at most"):
        TrainRecipe(augment=AugmentRecipe(scale_min=2.5))
    with pytest.raises(ConfigError, match=r"classes\[1\]\.name: must be unique"):
        msgspec.structs.replace(TrainRecipe(), classes=(CAMVID_CLASSES[0],) * 2)
    with pytest.raises(ConfigError, match="epochs: must be"):
        TrainRecipe(epochs=0)


def test_the_largest_and_smallest_values_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(
        "epochs = 1\nbatch_size = 1\nwarmup = 0.0\nema = 0.0\nhold = 1.0\nlovasz_from = 1.0\n"
        "[augment]\nscale_min = 1.0\nscale_max = 1.0\ncrop_size = [360, 480]\n"
        + "".join(f'[[classes]]\nname = "c{i}"\ncolour = [0, 0, {i}]\n' for i in range(255))
    )
    assert len(load_recipe(path).classes) == 255
