"""The networks of the zoo made narrow, to compute in milliseconds; their weights mean nothing."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

import streamseg
from streamseg.models.export import write_engine
from streamseg.models.zoo import NETWORKS
from tests.once import one_at_a_time

# Three of the fourteen have everything that an export meets: Caffe's plain grid, branches at the picture's
# own size, torchvision's with hard swishes. The others are slow tests.
TYPICAL = ("deeplab-v1", "deeplab-v1-msc-largefov", "lraspp-mobilenet-v3-large")
EXPORTS = Path(__file__).resolve().parents[1] / ".pytest_cache" / "narrow"

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
    "deeplabv3-mobilenet-v2": MOBILE,
    "deeplabv3-mobilenet-v2-dm05": MOBILE,
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


def narrow_engine(name: str) -> Path:
    """The folder of narrow_network(name, classes=21) as an engine. Shared by all tests: copy it to change it.

    Exported once for each state of the sources, whichever test or worker asks first; the others wait for it.
    """
    folder = EXPORTS / _sources_key() / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with one_at_a_time(folder.parent / f"{name}.lock"):
        if not (folder / "engine.toml").is_file():  # it is written last
            shutil.rmtree(folder, ignore_errors=True)
            write_engine(narrow_network(name, classes=21), name, folder)
    return folder


@functools.cache
def _sources_key() -> str:
    """A hash of all that an export is made of; exports of other states are removed."""
    package = Path(streamseg.__file__).parent
    digest = hashlib.sha256()
    sources = [*package.glob("models/*.py"), package / "inference" / "spec.py", Path(__file__)]
    for source in sorted(sources):
        digest.update(source.read_bytes())
    for library in ("torch", "onnx", "onnxscript"):
        digest.update(importlib.metadata.version(library).encode())
    key = digest.hexdigest()[:16]
    for other in EXPORTS.glob("*"):
        if other.name != key:
            shutil.rmtree(other, ignore_errors=True)
    return key
