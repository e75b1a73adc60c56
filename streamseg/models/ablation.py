"""The ablation of the first DeepLab paper in miniature: its four heads on slim's backbone.

Chen et al., arXiv 1412.7062, Table 1 (a): DeepLab, DeepLab-MSc, DeepLab-LargeFOV, DeepLab-MSc-LargeFOV. As in
the paper the four share the backbone, whose last blocks have dilation 2, and differ in the field of view of
fc6 (4x4 with holes of 4, which sees 13 cells of 8 pixels, or 3x3 with holes of 12, which sees 25) and in
whether branches of earlier stages add their logits. There is no other context: no pyramid, no skip.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.slim import MEAN, STD, ConvBnRelu, ResidualBlock, initialise

BLOCK_DILATIONS = (1, 1, 2, 2)  # conv4 and conv5 of the paper's VGG16
FC_WIDTH, BRANCH_WIDTH = 128, 32


class Ablation(nn.Module):
    """One of the four. `forward` gives logits at 1/4; `supervised` gives those of fc8 at 1/8 too.

    All logits are brought to 1/4, also where there are only fc8's: the variants are trained and scored alike.
    """

    mean, std = MEAN, STD

    def __init__(self, classes: int, width: int = 96, *, large_fov: bool, multi_scale: bool) -> None:
        super().__init__()
        half, quarter = width // 2, width // 4
        self.stem = ConvBnRelu(3, quarter, stride=2)
        self.down4 = ConvBnRelu(quarter, half, stride=2)
        self.block4 = ResidualBlock(half)
        self.down8 = ConvBnRelu(half, width, stride=2)
        self.blocks8 = nn.Sequential(*(ResidualBlock(width, dilation) for dilation in BLOCK_DILATIONS))
        if large_fov:
            self.fc6 = ConvBnRelu(width, FC_WIDTH, 3, dilation=12)
        else:
            self.fc6 = ConvBnRelu(width, FC_WIDTH, 4, dilation=4)
        self.fc7 = ConvBnRelu(FC_WIDTH, FC_WIDTH, 1)
        self.fc8 = nn.Conv2d(FC_WIDTH, classes, 1)
        self.branches = nn.ModuleList(
            _branch(channels, classes, stride)
            for channels, stride in ((3, 4), (quarter, 2), (half, 1), (width, 1))
            if multi_scale
        )
        initialise(self)

    def supervised(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits at 1/4 and those of fc8 alone at 1/8."""
        half = self.stem(image)  # (N, 3, H, W) -> (N, 24, H/2, W/2)
        quarter = self.block4(self.down4(half))  # (N, 48, H/4, W/4)
        eighth = self.down8(quarter)  # (N, 96, H/8, W/8)
        fc8: Tensor = self.fc8(self.fc7(self.fc6(self.blocks8(eighth))))  # (N, classes, H/8, W/8)
        logits = _twice(fc8)
        for branch, stage in zip(self.branches, (image, half, quarter, eighth), strict=False):
            more = branch(stage)
            logits = logits + (_twice(more) if stage is eighth else more)
        return logits, fc8

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) normalised RGB, H and W multiples of 8, to logits (N, classes, H/4, W/4)."""
        return self.supervised(image)[0]


def _branch(channels: int, classes: int, stride: int) -> nn.Sequential:
    """The paper's multi-scale branch: 3x3, 1x1, logits; `stride` brings a finer stage to 1/4."""
    return nn.Sequential(
        ConvBnRelu(channels, BRANCH_WIDTH, 3, stride=stride),
        ConvBnRelu(BRANCH_WIDTH, BRANCH_WIDTH, 1),
        nn.Conv2d(BRANCH_WIDTH, classes, 1),
    )


def _twice(logits: Tensor) -> Tensor:
    return F.interpolate(logits, scale_factor=2.0, mode="bilinear", align_corners=False)
