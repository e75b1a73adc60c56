"""What may change between two parts of a run, and what may not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from streamseg.errors import TrainingError, one_line
from streamseg.training.recipe import TrainRecipe

TABLES = ("augment", "distil")  # of the recipe
MAY_CHANGE = ("epochs", "evaluate_every", "licence", "device", "threads", "loader_threads", "arithmetic")


def check_same_run(path: Path, checkpoint: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Compare what a run began with to what it is to go on with; `now` has the keys of a checkpoint.

    The recipe may differ in MAY_CHANGE; images, teachers and initial weights not at all.
    What older checkpoints do not hold is not compared. Raises TrainingError that names all differences.
    """
    try:
        before, after = (_flat(_recipe(c)) for c in (checkpoint, now))
    except (TypeError, ValueError) as error:
        raise TrainingError(f"{path}: its recipe cannot be read ({one_line(error)})") from error
    differ = [
        key if key == "classes" else f"{key} ({_short(before[key])}, now {_short(after[key])})"
        for key in after
        if key in before and before[key] != after[key] and key not in MAY_CHANGE
    ]
    for key, what in (("data", "the training images"), ("val", "the validation images")):
        if key in checkpoint and checkpoint[key] != now[key]:
            differ.append(what)
    beside = {"teachers": "the teachers", "unlabelled": "the unlabelled pictures", "clips": "the clips"}
    for key, what in beside.items():
        if checkpoint.get(key) != now.get(key):
            differ.append(what)
    if now["init"] is not None and checkpoint.get("init") != now["init"]:
        differ.append("the initial weights")
    if differ:
        raise TrainingError(
            f"{path}: was trained with another recipe or data: {', '.join(differ)}; --resume allows other "
            f"{', '.join(MAY_CHANGE)} alone, so start a new run in another --out"
        )


def _recipe(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """As plain values, with today's defaults for the settings that an older checkpoint lacks."""
    recipe = checkpoint.get("recipe", {})
    defaults: dict[str, Any] = msgspec.to_builtins(TrainRecipe())
    given: dict[str, Any] = {**recipe}
    tables = {key: {**defaults[key], **given.get(key, {})} for key in TABLES}
    merged: dict[str, Any] = msgspec.json.decode(msgspec.json.encode({**defaults, **given, **tables}))
    return merged


def _flat(recipe: Mapping[str, Any]) -> dict[str, Any]:
    inside = {f"{table}.{key}": value for table in TABLES for key, value in recipe[table].items()}
    return {key: value for key, value in recipe.items() if key not in TABLES} | inside


def _short(value: object) -> str:
    return msgspec.json.encode(value).decode()
