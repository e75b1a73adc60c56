"""A network as an engine runs it: uint8 pictures in, logits at the centres of their cells out."""

from __future__ import annotations

import copy
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.zoo import Preprocessing


class Grid(NamedTuple):
    """Where a network's logits are, and the border that moves them to the centres of their cells.

    The pipeline takes logit i of a network with output stride s as the centre of pixels s·i … s·i + s − 1.
    torchvision's networks were trained that way. The Caffe networks were trained with aligned corners: their
    logit i is at pixel `first` + s·i. A border of the mean colour moves the grid to within half a pixel of
    the centres, and `skip` logits on each side are dropped.
    """

    stride: int  # output stride
    first: float  # pixel of the first logit
    before: int = 0  # pixels of border at the top and left
    after: int = 0  # at the bottom and right
    skip: int = 0  # logits dropped at the top and left


def corners(stride: int = 8) -> Grid:
    """Logits at pixels 0, s, 2s …; the border makes the sides s·k + 1, so that all layers' grids agree."""
    if stride == 1:
        return Grid(1, 0, after=1)
    return Grid(stride, 0, before=stride // 2, after=stride // 2 + 1, skip=1)


def centres(stride: int) -> Grid:
    """Logits at the centres of their cells, as bilinear upsampling with align_corners=False takes them."""
    return Grid(stride, (stride - 1) / 2)


class Served(nn.Module):
    """uint8 RGB (N, H, W, 3) to float32 logits (N, C, H/s, W/s), s the network's output stride.

    H and W are multiples of the zoo's size_multiple. Normalises, swaps to BGR for the Caffe networks, and
    pads with the mean so that logits are at the centres of their cells (see Grid). Copies the network.
    """

    def __init__(self, network: nn.Module, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.grid = cast(Grid, network.grid)
        self.order = nn.Buffer(torch.tensor([2, 1, 0] if preprocessing.bgr else [0, 1, 2]))
        self.swap = preprocessing.bgr
        self.mean = nn.Buffer(torch.tensor(preprocessing.mean).view(1, 3, 1, 1))
        self.scale = nn.Buffer(1 / torch.tensor(preprocessing.std).view(1, 3, 1, 1))
        self.scales = preprocessing.std != (1.0, 1.0, 1.0)

    def forward(self, image: Tensor) -> Tensor:
        x = image.permute(0, 3, 1, 2).to(self.mean.dtype) - self.mean
        if self.scales:
            x = x * self.scale
        if self.swap:
            x = x.index_select(1, self.order)  # RGB -> BGR
        stride, _, before, after, skip = self.grid
        if before or after:
            x = F.pad(x, (before, after, before, after))
        logits: Tensor = self.network(x)
        if before or after:
            height, width = image.shape[1] // stride, image.shape[2] // stride
            logits = logits[:, :, skip : skip + height, skip : skip + width]
        return logits
