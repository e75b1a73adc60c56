"""slim: a dilated DeepLab for the CPU, 0.87 M parameters and 2.9 GMAC at 480x360.

Dense 3x3 convolutions only: per operation they are the fastest on every measured runtime, they quantise to
int8 well, and they export everywhere. Dilation keeps the picture at 1/8 while the view grows, as in DeepLab
(Chen et al., 2017); a 1x1 skip from 1/4 restores thin things, as in DeepLab v3+ (Chen et al., 2018).
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.convolution import Convolution

DILATIONS = (2, 4, 8, 16)
ASPP_RATES = (6, 12)
SIZE_MULTIPLE = 8
OUTPUT_STRIDE = 4
AUXILIARY_STRIDE = 8

# RGB levels 0..255: those of ImageNet, close to CamVid's and well known.
MEAN = (123.675, 116.28, 103.53)
STD = (58.395, 57.12, 57.375)


class ConvBnRelu(nn.Sequential):
    """A convolution without bias, batch normalisation, ReLU; padded so that stride alone changes the size."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1, *, dilation: int = 1
    ) -> None:
        padding = (kernel - 1) * dilation // 2
        super().__init__(
            Convolution(inputs, outputs, kernel, stride, padding, dilation, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(inplace=True),
        )


class ResidualBlock(nn.Module):
    """3x3, then 3x3 with `dilation`, added to what came in."""

    def __init__(self, channels: int, dilation: int = 1) -> None:
        super().__init__()
        self.first = ConvBnRelu(channels, channels)
        self.second = Convolution(channels, channels, 3, padding=dilation, dilation=dilation, bias=False)
        self.norm = nn.BatchNorm2d(channels)
        nn.init.constant_(self.norm.weight, 0.3)  # starts near the identity: allows a high learning rate

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


class LightAspp(nn.Module):
    """Atrous spatial pyramid pooling whose branches are summed, which costs a quarter of joining them."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.point = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.atrous = nn.ModuleList(
            Convolution(inputs, outputs, 3, padding=rate, dilation=rate, bias=False) for rate in ASPP_RATES
        )
        self.image = nn.Conv2d(inputs, outputs, 1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        summed = self.point(x) + self.image(x.mean((2, 3), keepdim=True))
        for branch in self.atrous:
            summed = summed + branch(x)
        return F.relu(self.norm(summed))


def initialise(network: nn.Module) -> None:
    """Start every convolution as He et al. (2015) do, for ReLU."""
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)


class Slim(nn.Module):
    """The network. `forward` gives logits at 1/4; `supervised` gives those at 1/8 too, for training."""

    mean, std = MEAN, STD

    def __init__(self, classes: int, width: int = 96) -> None:
        super().__init__()
        half, quarter, third = width // 2, width // 4, width // 3
        self.stem = ConvBnRelu(3, quarter, stride=2)
        self.down4 = ConvBnRelu(quarter, half, stride=2)
        self.block4 = ResidualBlock(half)
        self.down8 = ConvBnRelu(half, width, stride=2)
        self.blocks8 = nn.Sequential(*(ResidualBlock(width, dilation) for dilation in DILATIONS))
        self.aspp = LightAspp(width, half)
        self.auxiliary = nn.Conv2d(half, classes, 1)
        self.skip = nn.Conv2d(half, half, 1, bias=False)
        self.skip_norm = nn.BatchNorm2d(half)
        self.refine = ConvBnRelu(half, third)
        self.classify = nn.Conv2d(third, classes, 1)
        initialise(self)

    def encode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Features at 1/4 and, with context, at 1/8."""
        x = self.stem(image)  # (N, 3, H, W) -> (N, 24, H/2, W/2)
        fine = self.block4(self.down4(x))  # (N, 48, H/4, W/4)
        x = self.blocks8(self.down8(fine))  # (N, 96, H/8, W/8)
        return fine, self.aspp(x)  # (N, 48, H/4, W/4), (N, 48, H/8, W/8)

    def decode(self, fine: Tensor, context: Tensor) -> Tensor:
        up = F.interpolate(context, scale_factor=2.0, mode="bilinear", align_corners=False)  # 1/8 -> 1/4
        x = F.relu(up + self.skip_norm(self.skip(fine)))  # (N, 48, H/4, W/4)
        logits: Tensor = self.classify(self.refine(x))  # (N, classes, H/4, W/4)
        return logits

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) normalised RGB, H and W multiples of 8, to logits (N, classes, H/4, W/4)."""
        return self.decode(*self.encode(image))

    def supervised(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at 1/4 and the auxiliary logits at 1/8."""
        fine, context = self.encode(image)
        return self.decode(fine, context), self.auxiliary(context)

    def forward_stride8(self, image: Tensor) -> Tensor:
        """Only the logits at 1/8: the network without its quarter-resolution skip, to compare with."""
        logits: Tensor = self.auxiliary(self.encode(image)[1])
        return logits

    def stride4(self) -> nn.Module:
        """What is served: this network without its auxiliary head; shares the weights."""
        return _Part(self, Slim.forward, [self.auxiliary])

    def stride8(self) -> nn.Module:
        """The network of `forward_stride8`, without what only the logits at 1/4 need; shares the weights."""
        return _Part(self, Slim.forward_stride8, [self.skip, self.skip_norm, self.refine, self.classify])


class _Part(nn.Module):
    def __init__(
        self, whole: Slim, forward: Callable[[Slim, Tensor], Tensor], unused: list[nn.Module]
    ) -> None:
        super().__init__()
        for name, module in whole.named_children():
            if not any(module is other for other in unused):
                self.add_module(name, module)
        self._run = functools.partial(forward, whole)

    def forward(self, image: Tensor) -> Tensor:
        return self._run(image)


def count_macs(module: nn.Module, input_size: tuple[int, int]) -> int:
    """Multiply-accumulates of all convolutions and linear layers for one RGB picture of `input_size` (H, W).

    Runs `module` once on zeros; pooling, resizing and additions are not counted.
    """
    total = 0

    def count(layer: nn.Module, _inputs: object, output: Tensor) -> None:
        nonlocal total
        weight = layer.weight
        assert isinstance(weight, Tensor)
        positions = output.numel() // weight.shape[0]
        total += positions * weight.numel()

    hooks = [
        layer.register_forward_hook(count)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    ]
    training = module.training
    module.eval()
    try:
        with torch.no_grad():
            module(torch.zeros(1, 3, *input_size))
    finally:
        module.train(training)
        for hook in hooks:
            hook.remove()
    return total
