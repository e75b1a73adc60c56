"""ResNet-50 and -101 as torchvision's segmentation networks use them: logits at 1/8 (He et al. 2015).

State-dict keys are torchvision's, so that its released files load key for key.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

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
