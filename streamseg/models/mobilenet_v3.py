"""MobileNetV3-Large, dilated, as torchvision's networks use it: logits at 1/16 (Howard et al. 2019).

State-dict keys are torchvision's, so that its released files load key for key.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor, nn

BN_EPS = 1e-3


class Block(NamedTuple):
    """One inverted residual; `hard` is its nonlinearity, hard swish in place of ReLU."""

    kernel: int
    expanded: int
    outputs: int
    attention: bool
    hard: bool
    stride: int = 1
    dilation: int = 1


BLOCKS = (
    Block(3, 16, 16, False, False),
    Block(3, 64, 24, False, False, 2),
    Block(3, 72, 24, False, False),
    Block(5, 72, 40, True, False, 2),
    Block(5, 120, 40, True, False),
    Block(5, 120, 40, True, False),
    Block(3, 240, 80, False, True, 2),
    Block(3, 200, 80, False, True),
    Block(3, 184, 80, False, True),
    Block(3, 184, 80, False, True),
    Block(3, 480, 112, True, True),
    Block(3, 672, 112, True, True),
    Block(5, 672, 160, True, True, 1, 2),  # the stride of 2 that stood here became dilation
    Block(5, 960, 160, True, True, 1, 2),
    Block(5, 960, 160, True, True, 1, 2),
)
STEM, LAST = 16, 960
LOW = 4  # the last module at 1/8, of 40 channels


class ConvNorm(nn.Sequential):
    """Convolution without bias, batch normalisation, and a nonlinearity unless it is linear."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        act: type[nn.Module] | None = None,
    ) -> None:
        padding = (kernel - 1) // 2 * dilation
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, groups, bias=False),
            nn.BatchNorm2d(outputs, BN_EPS),
        ]
        super().__init__(*layers, *([act()] if act else []))


class Attention(nn.Module):
    """Squeeze and excitation (Hu et al. 2017): each channel weighed by what the whole picture says."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = divisible(channels / 4)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.relu = nn.ReLU()
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        weight: Tensor = self.gate(self.fc2(self.relu(self.fc1(x.mean((2, 3), keepdim=True)))))
        return weight * x


class InvertedResidual(nn.Module):
    """Expand, depthwise, attention, project; added to what came in where the shape stays."""

    def __init__(self, inputs: int, block: Block) -> None:
        super().__init__()
        act: type[nn.Module] = nn.Hardswish if block.hard else nn.ReLU
        expanded = block.expanded
        layers: list[nn.Module] = []
        if expanded != inputs:
            layers.append(ConvNorm(inputs, expanded, 1, act=act))
        layers.append(ConvNorm(expanded, expanded, block.kernel, block.stride, block.dilation, expanded, act))
        if block.attention:
            layers.append(Attention(expanded))
        layers.append(ConvNorm(expanded, block.outputs, 1))
        self.block = nn.Sequential(*layers)
        self.residual = block.stride == 1 and inputs == block.outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        return x + y if self.residual else y


class MobileNetV3Large(nn.Sequential):
    """Modules 0 … 16: the stem, fifteen blocks, the last 1x1. `width` scales every number of channels."""

    def __init__(self, width: float = 1.0) -> None:
        inputs = divisible(STEM * width)
        layers: list[nn.Module] = [ConvNorm(3, inputs, 3, 2, act=nn.Hardswish)]
        for block in BLOCKS:
            outputs = divisible(block.outputs * width)
            scaled = block._replace(expanded=divisible(block.expanded * width), outputs=outputs)
            layers.append(InvertedResidual(inputs, scaled))
            inputs = outputs
        super().__init__(*layers, ConvNorm(inputs, divisible(LAST * width), 1, act=nn.Hardswish))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) to features (N, 40, H/8, W/8) and (N, 960, H/16, W/16)."""
        low = x = image
        for i, layer in enumerate(self):
            x = layer(x)
            if i == LOW:
                low = x
        return low, x


def divisible(channels: float) -> int:
    """The nearest multiple of 8, at least 8, and not less than nine tenths of what was asked for."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded
