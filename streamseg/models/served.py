"""A network as an engine runs it: pictures as uint8 in, logits in the middle of their cells out."""

from __future__ import annotations

import copy
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamseg.models.grid import Grid
from streamseg.models.zoo import Normalisation


class Served(nn.Module):
    """uint8 RGB (N, H, W, 3) to float32 logits (N, C, H/s, W/s), s the network's output stride.

    H and W are multiples of the zoo's size_multiple. Normalises, swaps to BGR for the Caffe networks, and
    pads with the mean so that logits lie where the pipeline takes them to be (see Grid). Copies the network.
    """

    def __init__(self, network: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.network = copy.deepcopy(network).eval()
        self.grid = cast(Grid, network.grid)
        self.order = nn.Buffer(torch.tensor([2, 1, 0] if normalisation.bgr else [0, 1, 2]))
        self.swap = normalisation.bgr
        self.mean = nn.Buffer(torch.tensor(normalisation.mean).view(1, 3, 1, 1))
        self.scale = nn.Buffer(1 / torch.tensor(normalisation.std).view(1, 3, 1, 1))
        self.scales = normalisation.std != (1.0, 1.0, 1.0)

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
