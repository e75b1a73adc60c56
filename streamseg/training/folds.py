"""A run for each drive that is left out: how good a recipe is where it was not trained."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from streamseg.errors import UsageError
from streamseg.evaluation import LabelledFolder
from streamseg.evaluation.metrics import mean, shown
from streamseg.training.log import read_log
from streamseg.training.loop import Inputs, train
from streamseg.training.recipe import TrainRecipe

logger = logging.getLogger(__name__)


def train_folds(
    recipe: TrainRecipe, inputs: Inputs, prefixes: Sequence[str], out: Path, resume: bool
) -> list[str]:
    """Train once for each prefix, without the images whose names begin so, into OUT/PREFIX; lines of a table.

    The score of a fold is that of its last epoch on the images left out: the best epoch was chosen by them.
    With `resume` finished folds stay, begun ones go on, and the others begin. Raises StreamsegError.
    """
    if inputs.val is not None:
        raise UsageError("--leave-out: the images left out are the validation images; give no --val")
    _check(recipe, inputs, prefixes)
    lines = [f"{'left out':16} {'images':>6} {'mIoU':>7} {'best':>7}"]
    scores = []
    for prefix in prefixes:
        folder = out / prefix
        logger.info("%s: without %s*", folder, prefix)
        train(recipe, inputs._replace(leave_out=prefix), folder, resume and (folder / "last.pt").exists())
        evaluated = [entry.scores for entry in read_log(folder) if entry.scores is not None]
        last = evaluated[-1]
        scores += [last.miou] if last.miou is not None else []
        best = max((s.miou for s in evaluated if s.miou is not None), default=None)
        lines.append(f"{prefix:16} {last.images:6} {shown(last.miou, 7)} {shown(best, 7)}")
    return [*lines, f"{'mean':16} {'':6} {shown(mean(scores), 7)}"]


def _check(recipe: TrainRecipe, inputs: Inputs, prefixes: Sequence[str]) -> None:
    """Refuse, before the first of many hours, what a later run would be refused for."""
    for at, prefix in enumerate(prefixes):
        if not prefix.strip(".") or "/" in prefix:
            raise UsageError(
                f"--leave-out: must be the beginning of images' names, and no path; is {prefix!r}"
            )
        if any(other.startswith(prefix) or prefix.startswith(other) for other in prefixes[:at]):
            raise UsageError(f"--leave-out: the same images are left out twice, by {prefix!r} for one")
    if inputs.data is not None:
        images = LabelledFolder(inputs.data, len(recipe.classes))
        for prefix in prefixes:
            images.split(prefix)
