"""The table of networks: names, constructors, inputs and sizes.

A network's module, and with it torch, is imported when the network is built.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from streamseg.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn


class Preprocessing(NamedTuple):
    """(level - mean) / std of the RGB levels 0..255; then, for the Caffe networks, the order becomes BGR."""

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    bgr: bool


CAFFE = Preprocessing((122.675, 116.669, 104.008), (1.0, 1.0, 1.0), bgr=True)
TFLITE = Preprocessing((128.0, 128.0, 128.0), (128.0, 128.0, 128.0), bgr=False)
TORCHVISION = Preprocessing((123.675, 116.28, 103.53), (58.395, 57.12, 57.375), bgr=False)

VOC_SIZE = (376, 504)  # VOC's pictures are about 375x500, and the Caffe networks saw them unscaled
SHORT_SIDE_520 = (520, 696)  # torchvision scales the short side to 520
SHORT_SIDE_528 = (528, 704)  # the same in multiples of 16
VOC_SIZE_16 = (384, 512)  # VOC_SIZE in multiples of 16


@dataclass(frozen=True, slots=True)
class Network:
    """One network of the zoo."""

    name: str
    constructor: str  # module:function under streamseg.models
    preprocessing: Preprocessing
    parameters: int  # of the released file
    gmac: dict[tuple[int, int], float]  # at an input size (height, width)
    output_stride: int = 8  # of the logits
    size_multiple: int = 8  # of the sides of the input
    input_size: tuple[int, int] = VOC_SIZE
    classes: int = 21  # PASCAL VOC's
    crf_preset: str | None = None  # its name in streamseg.crf.presets

    def build(self, **changes: Any) -> nn.Module:
        """Make the network, untrained; `changes` go to its constructor (classes, widths). Needs torch."""
        module, function = self.constructor.split(":")
        make = getattr(importlib.import_module(f"streamseg.models.{module}"), function)
        return cast("nn.Module", make(**{"classes": self.classes, **changes}))


def _caffe(
    name: str,
    constructor: str,
    parameters: int,
    gmac: tuple[float, float],
    *,
    preset: str | None = None,
    stride: int = 8,
) -> Network:
    return Network(
        name,
        constructor,
        CAFFE,
        parameters,
        {(321, 321): gmac[0], (513, 513): gmac[1]},
        output_stride=stride,
        crf_preset=preset or name.replace("-v1", ""),
    )


def _torchvision(name: str, function: str, parameters: int, stride: int = 8, multiple: int = 8) -> Network:
    size = SHORT_SIDE_520 if multiple == 8 else SHORT_SIDE_528
    return Network(name, f"deeplab_v3:{function}", TORCHVISION, parameters, {}, stride, multiple, size)


def _tflite(name: str, function: str, parameters: int) -> Network:
    where = f"deeplab_v3_mobilenet_v2:{function}"
    return Network(name, where, TFLITE, parameters, {}, 16, 16, VOC_SIZE_16)


# The 2x2 pools of the first two give 42 cells at 321 and 66 at 513, where the others have 41 and 65; with 41
# and 65 cells they would take 125.9 / 316.9 and 242.3 / 610.3 GMAC.
NETWORKS: dict[str, Network] = {
    network.name: network
    for network in (
        _caffe("deeplab-v1", "deeplab_v1:deeplab", 65_140_565, (130.7, 324.7)),
        _caffe("deeplab-v1-7x7", "deeplab_v1:deeplab_7x7", 134_346_581, (252.8, 626.1), preset="deeplab"),
        _caffe("deeplab-v1-msc", "deeplab_v1:deeplab_msc", 66_346_686, (133.3, 335.9), stride=1),
        _caffe("deeplab-v1-largefov", "deeplab_v1:deeplab_largefov", 20_505_429, (50.9, 128.6)),
        _caffe(
            "deeplab-v1-msc-largefov", "deeplab_v1:deeplab_msc_largefov", 21_711_550, (58.3, 147.3), stride=1
        ),
        _caffe("deeplab-v2-vgg16", "deeplab_v2:DeepLabV2Vgg16", 37_877_652, (80.1, 202.0)),
        _caffe("deeplab-v2-resnet101", "deeplab_v2:DeepLabV2ResNet101", 44_048_532, (75.1, 188.9)),
        _caffe(
            "deeplab-v2-resnet101-3scale",
            "deeplab_v2:DeepLabV2ThreeScales",
            44_048_532,
            (137.8, 344.9),
            preset="deeplab-v2-resnet101",
        ),
        _torchvision("deeplabv3-mobilenet-v3-large", "deeplabv3_mobilenet", 11_029_328, 16, 16),
        _torchvision("deeplabv3-resnet50", "deeplabv3_resnet50", 42_004_074),
        _torchvision("deeplabv3-resnet101", "deeplabv3_resnet101", 60_996_202),
        _torchvision("lraspp-mobilenet-v3-large", "Lraspp", 3_221_538, 8, 16),
        _tflite("deeplabv3-mobilenet-v2", "DeepLabV3MobileNetV2", 2_097_013),
        _tflite("deeplabv3-mobilenet-v2-dm05", "deeplabv3_mobilenet_v2_dm05", 688_357),
    )
}

VOC21: dict[str, tuple[int, int, int]] = {
    "background": (0, 0, 0),
    "aeroplane": (128, 0, 0),
    "bicycle": (0, 128, 0),
    "bird": (128, 128, 0),
    "boat": (0, 0, 128),
    "bottle": (128, 0, 128),
    "bus": (0, 128, 128),
    "car": (128, 128, 128),
    "cat": (64, 0, 0),
    "chair": (192, 0, 0),
    "cow": (64, 128, 0),
    "diningtable": (192, 128, 0),
    "dog": (64, 0, 128),
    "horse": (192, 0, 128),
    "motorbike": (64, 128, 128),
    "person": (192, 128, 128),
    "pottedplant": (0, 64, 0),
    "sheep": (128, 64, 0),
    "sofa": (0, 192, 0),
    "train": (128, 192, 0),
    "tvmonitor": (0, 64, 128),
}


def find_network(name: str) -> Network:
    """The network of this name; raises UsageError with the nearest known one."""
    if name in NETWORKS:
        return NETWORKS[name]
    raise UsageError(f"unknown network {name!r}; {did_you_mean(name, NETWORKS)}")
