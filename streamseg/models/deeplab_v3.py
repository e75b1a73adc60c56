"""DeepLab v3 (Chen et al. 2017, arXiv 1706.05587) and LR-ASPP (Howard et al. 2019), as torchvision has them.

State-dict keys are torchvision's. The released files also hold an auxiliary head that only training uses; it
is built on request (`auxiliary`), to count what the files hold.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.backbones import EXPANSION, LAST, MobileNetV3Large, ResNet, divisible
from streamseg.models.served import Grid, centres

ASPP_RATES = (12, 24, 36)
RESNET50, RESNET101 = (3, 4, 6, 3), (3, 4, 23, 3)


class ImagePooling(nn.Sequential):
    """The features of the whole picture, at every place."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(
            nn.Identity(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled = x.mean((2, 3), keepdim=True)
        for layer in self:
            pooled = layer(pooled)
        return pooled.expand(-1, -1, x.shape[2], x.shape[3])


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling: a 1x1, three rates and the picture's mean, joined and projected."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                _convolution(inputs, outputs, 1),
                *(_convolution(inputs, outputs, 3, rate) for rate in ASPP_RATES),
                ImagePooling(inputs, outputs),
            ]
        )
        self.project = nn.Sequential(
            *_convolution(len(self.convs) * outputs, outputs, 1).children(), nn.Dropout(0.5)
        )

    def forward(self, x: Tensor) -> Tensor:
        joined = torch.cat([branch(x) for branch in self.convs], dim=1)
        projected: Tensor = self.project(joined)
        return projected


class DeepLabV3(nn.Module):
    """A backbone, whose forward gives middle and last features, and the head on the last."""

    def __init__(
        self,
        backbone: nn.Module,
        middle: int,
        last: int,
        grid: Grid,
        classes: int,
        hidden: int,
        auxiliary: bool,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Sequential(
            Aspp(last, hidden), *_convolution(hidden, hidden, 3).children(), nn.Conv2d(hidden, classes, 1)
        )
        if auxiliary:
            self.aux_classifier = nn.Sequential(
                *_convolution(middle, middle // 4, 3).children(),
                nn.Dropout(0.1),
                nn.Conv2d(middle // 4, classes, 1),
            )
        self.grid = grid

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) normalised RGB to logits (N, classes, H/s, W/s), s = 8, or 16 for MobileNetV3."""
        _, features = self.backbone(image)
        logits: Tensor = self.classifier(features)
        return logits


class Lraspp(nn.Module):
    """LR-ASPP on MobileNetV3-Large: features at 1/16 weighed by the whole picture, and a skip from 1/8."""

    def __init__(self, *, classes: int = 21, width: float = 1.0, hidden: int = 128) -> None:
        super().__init__()
        self.backbone = MobileNetV3Large(width)
        low, high = divisible(40 * width), divisible(LAST * width)
        self.classifier = LrasppHead(low, high, hidden, classes)
        self.grid = centres(8)

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) normalised RGB to logits (N, classes, H/8, W/8)."""
        low, high = self.backbone(image)
        logits: Tensor = self.classifier(low, high)
        return logits


class LrasppHead(nn.Module):
    """Its names are those of torchvision's file."""

    def __init__(self, low: int, high: int, hidden: int, classes: int) -> None:
        super().__init__()
        self.cbr = _convolution(high, hidden, 1)
        self.scale = nn.Sequential(nn.Identity(), nn.Conv2d(high, hidden, 1, bias=False), nn.Sigmoid())
        self.low_classifier = nn.Conv2d(low, classes, 1)
        self.high_classifier = nn.Conv2d(hidden, classes, 1)

    def forward(self, low: Tensor, high: Tensor) -> Tensor:
        x = self.cbr(high) * self.scale(high.mean((2, 3), keepdim=True))
        x = F.interpolate(x, size=low.shape[2:], mode="bilinear", align_corners=False)  # 1/16 -> 1/8
        logits: Tensor = self.low_classifier(low) + self.high_classifier(x)
        return logits


def deeplabv3_resnet(
    blocks: tuple[int, int, int, int],
    *,
    classes: int = 21,
    width: int = 64,
    hidden: int = 256,
    auxiliary: bool = False,
) -> DeepLabV3:
    """DeepLab v3 on a ResNet, logits at 1/8."""
    channels = EXPANSION * width
    return DeepLabV3(
        ResNet(blocks, width), 4 * channels, 8 * channels, centres(8), classes, hidden, auxiliary
    )


def deeplabv3_resnet50(
    *, classes: int = 21, width: int = 64, hidden: int = 256, auxiliary: bool = False
) -> DeepLabV3:
    """DeepLab v3 on ResNet-50."""
    return deeplabv3_resnet(RESNET50, classes=classes, width=width, hidden=hidden, auxiliary=auxiliary)


def deeplabv3_resnet101(
    *, classes: int = 21, width: int = 64, hidden: int = 256, auxiliary: bool = False
) -> DeepLabV3:
    """DeepLab v3 on ResNet-101."""
    return deeplabv3_resnet(RESNET101, classes=classes, width=width, hidden=hidden, auxiliary=auxiliary)


def deeplabv3_mobilenet(
    *, classes: int = 21, width: float = 1.0, hidden: int = 256, auxiliary: bool = False
) -> DeepLabV3:
    """DeepLab v3 on MobileNetV3-Large, logits at 1/16."""
    middle, last = divisible(40 * width), divisible(LAST * width)
    return DeepLabV3(MobileNetV3Large(width), middle, last, centres(16), classes, hidden, auxiliary)


def _convolution(inputs: int, outputs: int, kernel: int, rate: int = 1) -> nn.Sequential:
    """Convolution without bias, batch normalisation, ReLU."""
    padding = rate * (kernel // 2)
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, padding=padding, dilation=rate, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )
