"""DeepLab v3 on MobileNetV2 (Sandler et al. 2018, arXiv 1801.04381), logits at 1/16, as Google released it.

The body's last stage is dilated instead of a stride; the head is the light one of that paper's section 6.2:
a 1x1 beside the picture's mean, joined and projected. Batch normalisation is in the convolutions, as in the
released .tflite files, whose names the modules have.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.served import corners

EXPANSION = 6
STEM, LAST = 32, 320
# Of each stage: channels, blocks, stride of the first block, dilation of the others.
STAGES = (
    (16, 1, 1, 1),
    (24, 2, 2, 1),
    (32, 3, 2, 1),
    (64, 4, 2, 1),
    (96, 3, 1, 1),
    (160, 3, 1, 2),
    (LAST, 1, 1, 2),
)


class Block(nn.Module):
    """Expand, depthwise, project; added to what came in where the shape stays."""

    def __init__(self, inputs: int, outputs: int, stride: int, dilation: int, first: bool) -> None:
        super().__init__()
        middle = inputs if first else EXPANSION * inputs
        self.expand = None if first else nn.Conv2d(inputs, middle, 1)
        self.depthwise = nn.Conv2d(middle, middle, 3, stride, dilation, dilation, groups=middle)
        self.project = nn.Conv2d(middle, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y = x if self.expand is None else F.relu6(self.expand(x))
        y = self.project(F.relu6(self.depthwise(y)))
        out: Tensor = x + y if self.residual else y
        return out


class MobileNetV2(nn.Module):
    """The stem and seventeen blocks. `width` scales every number of channels, those of dm05 by a half."""

    def __init__(self, width: float) -> None:
        super().__init__()
        inputs = round(STEM * width)
        self.Conv = nn.Conv2d(3, inputs, 3, 2, 1)
        self.blocks: list[str] = []
        for channels, count, stride, dilation in STAGES:
            for i in range(count):
                number = len(self.blocks)
                outputs = round(channels * width)
                # The first block of a stage is not dilated, but the last stage, which has only one.
                rate = dilation if i or channels == LAST else 1
                block = Block(inputs, outputs, stride if i == 0 else 1, rate, number == 0)
                self.blocks.append(name := f"expanded_conv_{number}" if number else "expanded_conv")
                self.add_module(name, block)
                inputs = outputs

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu6(self.Conv(image))
        for name in self.blocks:
            x = self.get_submodule(name)(x)
        return x


class DeepLabV3MobileNetV2(nn.Module):
    """2.10 M parameters; at half width 0.69 M."""

    def __init__(self, *, classes: int = 21, width: float = 1.0, hidden: int = 256) -> None:
        super().__init__()
        features = round(LAST * width)
        self.MobilenetV2 = MobileNetV2(width)
        self.aspp0 = nn.Conv2d(features, hidden, 1)
        self.image_pooling = nn.Conv2d(features, hidden, 1)
        self.concat_projection = nn.Conv2d(2 * hidden, hidden, 1)
        self.logits = nn.ModuleDict({"semantic": nn.Conv2d(hidden, classes, 1)})
        self.grid = corners(16)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) normalised RGB to logits (N, classes, H/16, W/16), rounded up."""
        x = self.MobilenetV2(image)
        pooled = F.relu(self.image_pooling(x.mean((2, 3), keepdim=True)))
        pooled = pooled.expand(-1, -1, x.shape[2], x.shape[3])
        x = torch.cat([pooled, F.relu(self.aspp0(x))], dim=1)
        logits: Tensor = self.logits["semantic"](F.relu(self.concat_projection(x)))
        return logits


def deeplabv3_mobilenet_v2_dm05(
    *, classes: int = 21, width: float = 0.5, hidden: int = 256
) -> DeepLabV3MobileNetV2:
    """The same at half width."""
    return DeepLabV3MobileNetV2(classes=classes, width=width, hidden=hidden)
