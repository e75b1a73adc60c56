"""The networks that can be trained: built, fed, and written as ONNX graphs."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from streamseg.models.ablation import Ablation
from streamseg.models.export import export_onnx
from streamseg.models.lite import Lite
from streamseg.models.slim import LightAspp, ResidualBlock, Slim
from streamseg.training.recipe import TrainRecipe

Rgb = tuple[float, float, float]

GRAPH_PREFIX = "network."  # of a network's weights in the graph that is served


class Trainable(Protocol):
    """What training needs of a network, which is also a torch module."""

    mean: Rgb  # of the levels 0..255 that it is fed with: (level - mean) / std
    std: Rgb

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
    classes = len(recipe.classes)
    if recipe.pretrained:
        return Lite(classes, recipe.network, recipe.output_stride, recipe.cut_blocks, recipe.head_width)
    return _MAKERS[recipe.network](classes, recipe.width)


def normalise(rgb: npt.NDArray[np.uint8], network: nn.Module, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 to float32 (N, 3, H, W) as `network` wants it, channels last in memory."""
    levels = cast("Trainable", network)
    x = torch.from_numpy(rgb).to(device).float()
    x = (x - torch.tensor(levels.mean, device=device)) / torch.tensor(levels.std, device=device)
    return x.permute(0, 3, 1, 2)


def served_part(network: nn.Module, stride8: bool = False) -> nn.Module:
    """The network without what only training uses; shares the weights."""
    if isinstance(network, Slim):
        return network.stride8() if stride8 else network.stride4()
    if isinstance(network, Lite):
        served = copy.copy(network)
        served._modules = {name: part for name, part in network._modules.items() if name != "auxiliary"}
        return served
    return network


def write_graph(network: nn.Module, path: Path, stride8: bool = False) -> None:
    """Export `network` to `path`: uint8 RGB (N, H, W, 3) in, float32 logits (N, C, h, w) out.

    N is free, H and W are any multiples of 8. Logits are at 1/4, or with `stride8` the auxiliary ones at 1/8.
    Raises EngineError when the graph differs from the network.
    """

    def reference(picture: Tensor) -> Tensor:
        return _network(network, normalise(picture.numpy(), network, torch.device("cpu")), stride8)

    export_onnx(_Served(network, stride8), path, reference=reference)


def fold_batch_norm(network: nn.Module) -> nn.Module:
    """A copy in which every batch normalisation is part of the convolution before it."""
    folded = copy.deepcopy(network).eval()
    for module in list(folded.modules()):
        if isinstance(module, nn.Sequential) and len(module) > 1 and isinstance(module[1], nn.BatchNorm2d):
            module[0], module[1] = _fused(module[0], module[1]), nn.Identity()
        elif isinstance(module, ResidualBlock):
            module.second = _fused(module.second, module.norm)  # type: ignore[assignment]
            module.norm = _identity()
        elif isinstance(module, LightAspp):
            _fold_sum(module)
        elif isinstance(module, Slim):
            module.skip, module.skip_norm = _fused(module.skip, module.skip_norm), _identity()
    return folded


class _Served(nn.Module):
    """The network as an engine runs it. Of the normalisation only the subtraction is a step of its own: the
    division is folded into the first convolution's weights. (The mean cannot be, because of the padding.)
    """

    def __init__(self, network: nn.Module, stride8: bool) -> None:
        super().__init__()
        self.network = fold_batch_norm(network)
        self.stride8 = stride8
        levels = cast("Trainable", network)
        self.mean = nn.Buffer(torch.tensor(levels.mean).view(1, 3, 1, 1))
        scale_input(self.network, levels.std, back=False)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).float() - self.mean  # (N, H, W, 3) uint8 -> (N, 3, H, W)
        logits: Tensor = _network(self.network, x, self.stride8)
        return logits


def _network(network: nn.Module, x: Tensor, stride8: bool) -> Tensor:
    return cast("Slim", network).forward_stride8(x) if stride8 else cast("Tensor", network(x))


@torch.no_grad()
def scale_input(network: nn.Module, std: Rgb, *, back: bool) -> None:
    """Fold the division by `std` into the convolutions of the picture, or take it `back` out of them."""
    for first in _first_convolutions(network):
        assert isinstance(first, nn.Conv2d)
        levels = torch.tensor(std, device=first.weight.device).view(1, 3, 1, 1)
        first.weight.copy_(first.weight * levels if back else first.weight / levels)


def _first_convolutions(network: nn.Module) -> list[nn.Module]:
    """The convolutions whose input is the picture."""
    if isinstance(network, Lite):
        return [network.backbone.stem[0]]
    assert isinstance(network, Slim | Ablation)
    stages = [network.stem, *(network.branches[:1] if isinstance(network, Ablation) else ())]
    return [next(module for module in stage.modules() if isinstance(module, nn.Conv2d)) for stage in stages]


def _fused(convolution: nn.Module, norm: nn.Module) -> nn.Conv2d:
    assert isinstance(convolution, nn.Conv2d)
    assert isinstance(norm, nn.BatchNorm2d)
    return fuse_conv_bn_eval(convolution, norm)


def _identity() -> nn.BatchNorm2d:
    return nn.Identity()  # type: ignore[return-value]


def _fold_sum(aspp: LightAspp) -> None:
    """The branches are summed and then normalised: scale each of them, and give one of them the bias."""
    for branch in (aspp.image, *aspp.atrous):
        assert isinstance(branch, nn.Conv2d)
        scale = aspp.norm.weight / torch.sqrt(_tensor(aspp.norm.running_var) + aspp.norm.eps)
        branch.weight.data = branch.weight.data * scale.detach()[:, None, None, None]
    aspp.point, aspp.norm = _fused(aspp.point, aspp.norm), _identity()


def _tensor(value: Tensor | None) -> Tensor:
    assert value is not None
    return value
