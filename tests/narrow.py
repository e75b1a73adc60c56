"""The networks of the zoo made narrow, to compute in milliseconds; their weights mean nothing."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from streamseg.models.zoo import NETWORKS

VGG = {"channels": (4, 4, 6, 6, 8), "hidden": 8, "classes": 5}
MSC = {**VGG, "branch_channels": 4}
RESNET_V2 = {"width": 4, "blocks": (1, 2, 3, 2), "classes": 5}
RESNET_V3 = {"width": 4, "hidden": 6, "classes": 5}
MOBILE = {"width": 0.25, "hidden": 8, "classes": 5}

NARROW: dict[str, dict[str, Any]] = {
    "deeplab-v1": VGG,
    "deeplab-v1-7x7": VGG,
    "deeplab-v1-msc": MSC,
    "deeplab-v1-largefov": VGG,
    "deeplab-v1-msc-largefov": MSC,
    "deeplab-v2-vgg16": VGG,
    "deeplab-v2-resnet101": RESNET_V2,
    "deeplab-v2-resnet101-3scale": RESNET_V2,
    "deeplabv3-mobilenet-v3-large": MOBILE,
    "deeplabv3-resnet50": RESNET_V3,
    "deeplabv3-resnet101": RESNET_V3,
    "lraspp-mobilenet-v3-large": MOBILE,
}


def narrow_network(name: str, seed: int = 0, **changes: Any) -> nn.Module:
    """Build the zoo's network `name` narrow, in eval mode, with random weights and statistics."""
    torch.manual_seed(seed)
    network = NETWORKS[name].build(**{**NARROW[name], **changes})
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)  # the default one lets little of the picture through
            if module.bias is not None:
                nn.init.uniform_(module.bias, -0.2, 0.2)
    return network.eval()
