"""DeepLab v2: atrous spatial pyramid pooling on VGG16 and ResNet-101 (Chen et al. 2017, arXiv 1606.00915).

Modules carry the names of the layers in the released Caffe files (a Scale layer is part of its bn module).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.backbones import CHANNELS, Vgg16
from streamseg.models.served import corners

ASPP_RATES = (6, 12, 18, 24)
BLOCKS = (3, 4, 23, 3)
EXPANSION = 4


class DeepLabV2Vgg16(Vgg16):
    """ASPP-L on VGG16: four heads like LargeFOV's, each with its own rate, summed."""

    def __init__(
        self, *, classes: int = 21, hidden: int = 1024, channels: tuple[int, ...] = CHANNELS
    ) -> None:
        super().__init__(channels)
        for i, rate in enumerate(ASPP_RATES, 1):
            self.add_module(f"fc6_{i}", nn.Conv2d(channels[-1], hidden, 3, padding=rate, dilation=rate))
            self.add_module(f"fc7_{i}", nn.Conv2d(hidden, hidden, 1))
            self.add_module(f"fc8_{i}", nn.Conv2d(hidden, classes, 1))
        self.dropout = nn.Dropout(0.5)
        self.grid = corners()

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) BGR less its mean to logits (N, classes, h, w), h = 41 of 321, 65 of 513."""
        x = self.stages(image)[4]
        return _sum([self._head(i, x) for i in range(1, len(ASPP_RATES) + 1)])

    def _head(self, i: int, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.get_submodule(f"fc6_{i}")(x)))
        x = self.dropout(F.relu(self.get_submodule(f"fc7_{i}")(x)))
        logits: Tensor = self.get_submodule(f"fc8_{i}")(x)
        return logits


class DeepLabV2ResNet101(nn.Module):
    """ASPP on ResNet-101 whose res4 and res5 are dilated by 2 and 4 and have no stride: logits at 1/8."""

    def __init__(
        self, *, classes: int = 21, width: int = 64, blocks: tuple[int, int, int, int] = BLOCKS
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
        self.bn_conv1 = nn.BatchNorm2d(width)
        self.pool1 = nn.MaxPool2d(3, 2, 1, ceil_mode=True)
        self.names: list[str] = []
        inputs = width
        for stage, count in enumerate(blocks, 2):
            middle = width * 2 ** (stage - 2)
            stride, dilation = (2 if stage == 3 else 1), {4: 2, 5: 4}.get(stage, 1)
            for name in _block_names(stage, count):
                first = name.endswith("a")
                if first:
                    self._convolution(f"{name}_branch1", inputs, EXPANSION * middle, 1, stride)
                self._convolution(f"{name}_branch2a", inputs, middle, 1, stride if first else 1)
                self._convolution(f"{name}_branch2b", middle, middle, 3, 1, dilation)
                self._convolution(f"{name}_branch2c", middle, EXPANSION * middle, 1)
                self.names.append(name)
                inputs = EXPANSION * middle
        for i, rate in enumerate(ASPP_RATES):
            self.add_module(f"fc1_c{i}", nn.Conv2d(inputs, classes, 3, padding=rate, dilation=rate))
        self.grid = corners()

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) BGR less its mean to logits (N, classes, h, w), h = 41 of 321, 65 of 513."""
        x = self.features(image)
        return _sum([self.get_submodule(f"fc1_c{i}")(x) for i in range(len(ASPP_RATES))])

    def features(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) to what the heads see, (N, 2048, h, w)."""
        x: Tensor = self.pool1(F.relu(self.bn_conv1(self.conv1(image))))  # (N, 64, H/4, W/4)
        for name in self.names:
            x = self._block(name, x)
        return x

    def _block(self, name: str, x: Tensor) -> Tensor:
        """Stride, where there is one, is on the first 1x1, unlike in torchvision's ResNet."""
        y = F.relu(self._normalised(f"{name}_branch2a", x))
        y = F.relu(self._normalised(f"{name}_branch2b", y))
        y = self._normalised(f"{name}_branch2c", y)
        short = self._normalised(f"{name}_branch1", x) if name.endswith("a") else x
        joined: Tensor = F.relu(short + y)
        return joined

    def _normalised(self, name: str, x: Tensor) -> Tensor:
        y: Tensor = self.get_submodule(f"bn{name}")(self.get_submodule(f"res{name}")(x))
        return y

    def _convolution(
        self, name: str, inputs: int, outputs: int, kernel: int, stride: int = 1, dilation: int = 1
    ) -> None:
        padding = dilation * (kernel // 2)
        layer = nn.Conv2d(inputs, outputs, kernel, stride, padding, dilation, bias=False)
        self.add_module(f"res{name}", layer)
        self.add_module(f"bn{name}", nn.BatchNorm2d(outputs))


class DeepLabV2ThreeScales(DeepLabV2ResNet101):
    """The same weights on the picture at 1, 3/4 and 1/2; of each logit the largest. Logits at 1/8."""

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) BGR less its mean to logits (N, classes, h, w), h = 41 of 321, 65 of 513."""
        logits = super().forward(image)
        for quarters in (3, 2):
            # as Caffe's Interp shrinks: 321 -> 241, 161; 513 -> 385, 257
            size = [(side - 1) * quarters // 4 + 1 for side in image.shape[2:]]
            small = F.interpolate(image, size=size, mode="bilinear", align_corners=True)
            up = F.interpolate(
                super().forward(small), size=logits.shape[2:], mode="bilinear", align_corners=True
            )
            logits = torch.maximum(logits, up)
        return logits


def _block_names(stage: int, count: int) -> list[str]:
    """The middle stages count, the others use letters: 2a, 2b, 2c, 3a, 3b1 … 3b3, 4a, 4b1 … 4b22, 5a …"""
    if stage in (3, 4):
        return [f"{stage}a", *(f"{stage}b{i}" for i in range(1, count))]
    return [f"{stage}{letter}" for letter in "abcd"[:count]]


def _sum(parts: list[Tensor]) -> Tensor:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total
