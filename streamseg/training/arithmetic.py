"""Which arithmetic the convolutions of a run use."""

from __future__ import annotations

import torch

from streamseg.training.recipe import TrainRecipe


def use_bf16(recipe: TrainRecipe, device: torch.device) -> bool:
    """Whether convolutions run in bf16: by default where the device has instructions for it.

    A CPU without them emulates them: a step of lite0 takes twice, of slim three times as long as in fp32.
    """
    if recipe.arithmetic != "auto":
        return recipe.arithmetic == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported()
