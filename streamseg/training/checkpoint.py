"""Checkpoints of a training run: written whole or not at all, checked when they are read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import torch
from torch import Tensor, nn

from streamseg.config import build_settings
from streamseg.errors import ConfigError, TrainingError, WeightsError, one_line
from streamseg.models.weights.torch_file import load_tensors
from streamseg.runtime.files import written
from streamseg.training.networks import build_network
from streamseg.training.recipe import TrainRecipe

FORMAT = 1
Checkpoint = dict[str, Any]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint; an interrupted write leaves the old one. Raises OutputError."""
    with written(path) as beside, beside.open("wb") as file:
        torch.save({"format": FORMAT, **checkpoint}, file)


def load_checkpoint(path: Path, device: str | torch.device = "cpu") -> Checkpoint:
    """Read a checkpoint. Raises TrainingError when it is missing, damaged, or from another version."""
    if not path.exists():
        raise TrainingError(f"{path}: does not exist")
    try:
        checkpoint = load_tensors(path, device)
    except WeightsError as error:
        raise TrainingError(f"{error}; it must be a checkpoint of streamseg train") from error
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise TrainingError(f"{path}: is not a checkpoint of this version of streamseg")
    return checkpoint


def mean_checkpoint(runs: Sequence[tuple[Path, Checkpoint]]) -> Checkpoint:
    """The first checkpoint with the mean of the averaged weights of all, for runs of one network.

    A mean of runs that began from the same weights is often more accurate elsewhere than each of them
    (Wortsman et al. 2022, "Model soups"). Raises TrainingError where they do not go together.
    """
    (path, first), *others = runs
    weights: dict[str, Tensor] = trained_network(first).state_dict()
    sums = {name: tensor.double() for name, tensor in weights.items()}
    classes = recipe_of(first).class_names
    for theirs_at, other in others:
        theirs = trained_network(other).state_dict()
        if recipe_of(other).class_names != classes or _shapes(theirs) != _shapes(weights):
            raise TrainingError(f"{theirs_at}: is of another network or of other classes than {path}")
        for name, tensor in theirs.items():
            sums[name] += tensor
    mean = {name: (total / len(runs)).to(weights[name].dtype) for name, total in sums.items()}
    return {**first, "ema": mean}


def _shapes(weights: dict[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in weights.items()}


def averaged_weights(path: Path) -> dict[str, Tensor] | None:
    """The averaged weights of a checkpoint of ours; None where the file is something else."""
    try:
        checkpoint = load_checkpoint(path)
    except TrainingError:
        return None
    weights = checkpoint.get("ema")
    return weights if isinstance(weights, dict) else None


def recipe_of(checkpoint: Checkpoint) -> TrainRecipe:
    """The recipe a checkpoint was trained with."""
    try:
        return build_settings(TrainRecipe, msgspec.json.decode(msgspec.json.encode(checkpoint["recipe"])))
    except (KeyError, TypeError, ConfigError) as error:
        raise TrainingError(f"the checkpoint's recipe cannot be read: {error}") from error


def trained_network(checkpoint: Checkpoint) -> nn.Module:
    """The network with its averaged weights, in evaluation mode."""
    recipe = recipe_of(checkpoint)
    network = build_network(recipe)
    try:
        network.load_state_dict(checkpoint["ema"])
    except (KeyError, RuntimeError, TypeError, AttributeError) as error:
        raise TrainingError(f"the checkpoint does not fit its recipe ({one_line(error)})") from error
    return network.eval()
