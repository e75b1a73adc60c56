"""The networks that can be trained from scratch."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from torch import Tensor, nn

from streamseg.models.ablation import Ablation
from streamseg.models.slim import Slim
from streamseg.training.recipe import TrainRecipe


class Trainable(Protocol):
    """What training wants of a network, beside being a torch module."""

    def supervised(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at 1/4 and auxiliary ones at 1/8, both of which the loss counts."""
        ...


_MAKERS: dict[str, Callable[[int, int], nn.Module]] = {
    "slim": Slim,
    "deeplab": partial(Ablation, large_fov=False, multi_scale=False),
    "deeplab-msc": partial(Ablation, large_fov=False, multi_scale=True),
    "deeplab-largefov": partial(Ablation, large_fov=True, multi_scale=False),
    "deeplab-msc-largefov": partial(Ablation, large_fov=True, multi_scale=True),
}


def build_network(recipe: TrainRecipe) -> nn.Module:
    """The recipe's network, untrained; a Trainable."""
    return _MAKERS[recipe.network](len(recipe.classes), recipe.width)
