"""VGG16 as DeepLab uses it: pooling stops at 1/8, and conv5 is dilated instead (the hole algorithm).

Simonyan & Zisserman 2014; Chen et al. 2015, section 3.1. Modules carry the names of the layers in the
released Caffe files, so a state dict's keys are those names with .weight and .bias.
"""

from __future__ import annotations

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
