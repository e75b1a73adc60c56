"""DeepLab v1: VGG16 with the hole algorithm, five variants (Chen et al. 2015, arXiv 1412.7062).

The variants differ in fc6, the old VGG16's first fully connected layer turned into a convolution: how much
of the picture it sees (its field of view), and how much it costs. The multi-scale ones add the logits of
small branches on the picture and the first four pools.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.backbones import CHANNELS, Vgg16
from streamseg.models.served import Grid, corners


class Head(NamedTuple):
    """fc6 and the pooling before it."""

    kernel: int
    dilation: int
    padding: int
    hidden: int
    average: bool = False  # pool5a before it


PLAIN = Head(4, 4, 6, 4096)
SEVEN = Head(7, 4, 12, 4096)  # VGG16's own 7x7
LARGE_FOV = Head(3, 12, 12, 1024, average=True)

BRANCHES = ("data", "pool1", "pool2", "pool3", "pool4")
BRANCH_CHANNELS = 128
# 2x2 pools with padding move the grid: logit 0 is at pixel -7.5. The paper crops 7 and 8 pixels instead.
SHIFTED = Grid(8, -7.5, before=5, after=3, skip=2)


class DeepLabV1(Vgg16):
    """The network. With `msc` its logits are the sum over scales, at the picture's own size; else at 1/8."""

    def __init__(
        self,
        head: Head,
        *,
        classes: int = 21,
        hidden: int | None = None,
        msc: bool = False,
        pool_kernel: int = 3,
        channels: tuple[int, ...] = CHANNELS,
        branch_channels: int = BRANCH_CHANNELS,
    ) -> None:
        super().__init__(channels, pool_kernel)
        head = head._replace(hidden=hidden or head.hidden)
        self.msc = msc
        self.pool5a = nn.AvgPool2d(3, 1, 1) if head.average else nn.Identity()
        self.fc6 = nn.Conv2d(
            channels[-1], head.hidden, head.kernel, padding=head.padding, dilation=head.dilation
        )
        self.fc7 = nn.Conv2d(head.hidden, head.hidden, 1)
        self.fc8 = nn.Conv2d(head.hidden, classes, 1)
        self.dropout = nn.Dropout(0.5)
        if msc:
            for name, inputs in zip(BRANCHES, (3, *channels[:4]), strict=True):
                self.add_module(f"{name}_conv", nn.Conv2d(inputs, branch_channels, 3, padding=1))
                self.add_module(f"{name}_fc", nn.Conv2d(branch_channels, branch_channels, 1))
                self.add_module(f"{name}_ms", nn.Conv2d(branch_channels, classes, 1))
        if msc:
            self.grid = corners(1)
        else:
            self.grid = SHIFTED if pool_kernel == 2 else corners()

    def forward(self, image: Tensor) -> Tensor:
        """(N, 3, H, W) BGR less its mean to logits (N, classes, h, w); h = H with `msc`, else about H/8."""
        pools = self.stages(image)
        x = self.pool5a(pools[4])  # (N, 512, h, w), h = 41 of 321, 65 of 513
        x = self.dropout(F.relu(self.fc6(x)))
        x = self.dropout(F.relu(self.fc7(x)))
        logits: Tensor = self.fc8(x)
        if not self.msc:
            return logits
        # Caffe's Interp x8; at sides 8k + 1 it gives the picture's size, at others we ask for that size
        size = image.shape[2:]
        summed = _interp(logits, size)
        for name, feature in zip(BRANCHES, (image, *pools[:4]), strict=True):
            summed = summed + _interp(self._branch(name, feature), size)
        return summed

    def _branch(self, name: str, x: Tensor) -> Tensor:
        x = self.dropout(F.relu(self.get_submodule(f"{name}_conv")(x)))
        x = self.dropout(F.relu(self.get_submodule(f"{name}_fc")(x)))
        logits: Tensor = self.get_submodule(f"{name}_ms")(x)
        return logits


def _interp(logits: Tensor, size: tuple[int, ...]) -> Tensor:
    """Caffe's Interp: bilinear with aligned corners."""
    if logits.shape[2:] == size:
        return logits
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=True)


deeplab = partial(DeepLabV1, PLAIN, pool_kernel=2)
deeplab_7x7 = partial(DeepLabV1, SEVEN, pool_kernel=2)
deeplab_msc = partial(DeepLabV1, PLAIN, msc=True)
deeplab_largefov = partial(DeepLabV1, LARGE_FOV)  # the paper's fast one
deeplab_msc_largefov = partial(DeepLabV1, LARGE_FOV, msc=True)  # the paper's best
