"""What a run trains, and how fast: groups of parameters with their rates, and what stays as it came."""

from __future__ import annotations

from typing import Any, NamedTuple

from torch import nn

from streamseg.models.lite import Lite
from streamseg.training.recipe import TrainRecipe


class Groups(NamedTuple):
    """The optimiser's groups, and for each its learning rate as a share of the run's."""

    groups: list[dict[str, Any]]
    factors: list[float]


def parameter_groups(network: nn.Module, recipe: TrainRecipe) -> Groups:
    """The parameters that are trained: matrices with weight decay, others without, by their rate."""
    freeze(network, recipe)
    slow = {id(p): factor for module, factor in _stage_factors(network, recipe) for p in module.parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {(1.0, True): [], (1.0, False): []}
    for parameter in network.parameters():
        if parameter.requires_grad:
            key = (slow.get(id(parameter), 1.0), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    made: list[dict[str, Any]] = []
    for (_, decays), parameters in groups.items():
        made.append({"params": parameters} if decays else {"params": parameters, "weight_decay": 0.0})
    return Groups(made, [factor for factor, _ in groups])


def freeze(network: nn.Module, recipe: TrainRecipe) -> None:
    """Take what the recipe freezes out of training."""
    for module in _frozen(network, recipe):
        module.requires_grad_(False)


def train_mode(network: nn.Module, recipe: TrainRecipe) -> None:
    """Training mode, except for what is frozen: its statistics stay."""
    network.train()
    for module in _frozen(network, recipe):
        module.eval()


def _stages(network: nn.Module) -> list[nn.Module]:
    """The backbone from the picture on: the stem and seven stages; nothing where nothing is pretrained."""
    return [network.backbone.stem, *network.backbone.stages] if isinstance(network, Lite) else []


def _frozen(network: nn.Module, recipe: TrainRecipe) -> list[nn.Module]:
    stages = _stages(network)
    frozen = stages[: recipe.frozen_stages]
    if recipe.frozen_batch_norm:
        frozen += [m for stage in stages for m in stage.modules() if isinstance(m, nn.BatchNorm2d)]
    return frozen


def _stage_factors(network: nn.Module, recipe: TrainRecipe) -> list[tuple[nn.Module, float]]:
    stages = _stages(network)
    last = len(stages) - 1
    return [(s, recipe.backbone_rate * recipe.stage_decay ** (last - i)) for i, s in enumerate(stages)]
