"""A convolution that stays right in mixed precision on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Convolution(nn.Conv2d):
    """nn.Conv2d, in float32 where oneDNN's bf16 is known to be wrong.

    Its gradient of the weights of a dilated convolution with more than 16 input channels that are no multiple
    of 16 is off by half, not a number, or a crash (oneDNN 3.12, with and without bf16 instructions).
    """

    def forward(self, x: Tensor) -> Tensor:
        if not self.wrong_in_bf16 or x.device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float())

    @property
    def wrong_in_bf16(self) -> bool:
        channels = self.in_channels // self.groups
        return max(self.dilation) > 1 and channels > 16 and channels % 16 > 0
