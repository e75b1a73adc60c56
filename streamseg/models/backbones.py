"""The bodies of the networks, each with the names of its released files.

VGG16 (Simonyan & Zisserman 2014) as DeepLab uses it (Chen et al. 2015, section 3.1): pooling stops at 1/8,
and conv5 is dilated instead (the hole algorithm). Its modules have the names of the layers in the Caffe
files, so a state dict's keys are those names with .weight and .bias.
ResNet-50 and -101 (He et al. 2015) as torchvision's segmentation networks use them, at 1/8, and
MobileNetV3-Large (Howard et al. 2019), dilated, at 1/16: state-dict keys are torchvision's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = (64, 128, 256, 512, 512)
CONVOLUTIONS = (2, 2, 3, 3, 3)


class Vgg16(nn.Module):
    """The body: pool1 … pool5 at 1/2, 1/4, 1/8, 1/8, 1/8 of the picture, rounded up as Caffe rounds."""

    def __init__(self, channels: tuple[int, ...] = CHANNELS, pool_kernel: int = 3) -> None:
        super().__init__()
        inputs = 3
        for stage, (outputs, convolutions) in enumerate(zip(channels, CONVOLUTIONS, strict=True), 1):
            dilation = 2 if stage == 5 else 1
            for i in range(1, convolutions + 1):
                layer = nn.Conv2d(inputs, outputs, 3, padding=dilation, dilation=dilation)
                self.add_module(f"conv{stage}_{i}", layer)
                inputs = outputs
            kernel, stride = (pool_kernel if stage < 5 else 3), (2 if stage < 4 else 1)
            self.add_module(f"pool{stage}", nn.MaxPool2d(kernel, stride, 1, ceil_mode=True))

    def stages(self, image: Tensor) -> list[Tensor]:
        """(N, 3, H, W) to the outputs of the five pools."""
        pools, x = [], image
        for stage, convolutions in enumerate(CONVOLUTIONS, 1):
            for i in range(1, convolutions + 1):
                x = F.relu(self.get_submodule(f"conv{stage}_{i}")(x))
            x = self.get_submodule(f"pool{stage}")(x)
            pools.append(x)
        return pools


EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 (which has the stride and the dilation), 1x1, added to what came in."""

    def __init__(self, inputs: int, middle: int, stride: int, dilation: int, project: bool) -> None:
        super().__init__()
        outputs = EXPANSION * middle
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if project:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """layer3 and layer4 are dilated in place of their strides, each after its first 3x3."""

    def __init__(self, blocks: tuple[int, int, int, int], width: int = 64) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        inputs, before = width, 1
        for stage, (count, stride, dilation) in enumerate(
            zip(blocks, (1, 2, 1, 1), (1, 1, 2, 4), strict=True)
        ):
            middle = width * 2**stage
            layer = [Bottleneck(inputs, middle, stride, before, project=True)]
            inputs = EXPANSION * middle
            layer += [Bottleneck(inputs, middle, 1, dilation, project=False) for _ in range(count - 1)]
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layer))
            before = dilation

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, H, W) to the outputs of layer3 (N, 1024, H/8, W/8) and layer4 (N, 2048, H/8, W/8)."""
        x = self.maxpool(F.relu(self.bn1(self.conv1(image))))
        for stage in (1, 2, 3):
            x = self.get_submodule(f"layer{stage}")(x)
        return x, self.get_submodule("layer4")(x)


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
    Block(5, 672, 160, True, True, 1, 2),  # dilated instead of a stride of 2
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
