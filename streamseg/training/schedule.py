"""What changes over a run: the learning rate, and the average of the weights."""

from __future__ import annotations

import math

import torch
from torch import nn

from streamseg.training.recipe import TrainRecipe


def learning_rate(recipe: TrainRecipe, progress: float) -> float:
    """The rate at `progress` (0 to 1) of the run: a rise, a plateau until `hold`, then half a cosine to 0.

    On the plateau nothing depends on the run's length, so a run may be resumed with another one there.
    """
    if progress < recipe.warmup:
        return recipe.learning_rate * max(progress / recipe.warmup, 1e-3)
    if progress < recipe.hold:
        return recipe.learning_rate
    start = max(recipe.hold, recipe.warmup)
    fallen = (progress - start) / max(1 - start, 1e-9)
    return recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * min(fallen, 1)))


class WeightAverage:
    """An exponential average of a network's weights and of its batch-norm statistics."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._now = [t for t in network.state_dict().values() if t.is_floating_point()]
        self._names = [n for n, t in network.state_dict().items() if t.is_floating_point()]
        self._average = [t.detach().clone() for t in self._now]

    @torch.no_grad()
    def update(self) -> None:
        self._steps += 1
        decay = min(self._decay, self._steps / (self._steps + 10))  # a young average forgets its start
        torch._foreach_lerp_(self._average, self._now, 1 - decay)

    def state_dict(self) -> dict[str, torch.Tensor]:
        return dict(zip(self._names, self._average, strict=True))

    def load(self, state: dict[str, torch.Tensor], steps: int) -> None:
        self._steps = steps
        for name, tensor in zip(self._names, self._average, strict=True):
            tensor.copy_(state[name])
