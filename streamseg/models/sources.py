"""Where published weights are, their licences, and their SHA-256."""

from __future__ import annotations

from dataclasses import dataclass

from streamseg.errors import WeightsError
from streamseg.models.zoo import find_network

TORCHVISION = "https://download.pytorch.org/models/"
COCO_LICENCE = "BSD-3-Clause (torchvision); trained on COCO, whose pictures have their own terms"
VOC_LICENCE = "not stated by its authors, so for research only; trained on PASCAL VOC 2012 and ImageNet"


@dataclass(frozen=True, slots=True)
class Source:
    """One published file. Without `url` it must be downloaded by hand from `page`."""

    file: str
    licence: str
    page: str
    url: str | None = None
    sha256_start: str = ""  # its published first digits, in hexadecimal
    note: str = ""  # its name on that page

    @property
    def by_hand(self) -> bool:
        return self.url is None


def _torchvision(file: str) -> Source:
    return Source(
        file=file,
        licence=COCO_LICENCE,
        page="https://pytorch.org/vision/stable/models.html",
        url=TORCHVISION + file,
        sha256_start=file.rpartition("-")[2].partition(".")[0],
    )


def _caffe(name: str, page: str, note: str) -> Source:
    return Source(file=f"{name}.caffemodel", licence=VOC_LICENCE, page=page, note=note)


# The authors publish no hashes, and their pages have moved before: these files are downloaded by hand.
_V1 = "http://liangchiehchen.com/projects/DeepLab_Models.html"
_V2 = "http://liangchiehchen.com/projects/DeepLabv2_{}.html"
_V2_ZIP = "http://liangchiehchen.com/projects/released/deeplab_aspp_{}/prototxt_and_model.zip"
_RESNET = f"train2_iter_20000.caffemodel in {_V2_ZIP.format('resnet101')}"

SOURCES: dict[str, Source] = {
    "deeplab-v1": _caffe("deeplab-v1", _V1, "the .caffemodel of DeepLab"),
    "deeplab-v1-7x7": _caffe("deeplab-v1-7x7", _V1, "the .caffemodel of DeepLab-7x7"),
    "deeplab-v1-msc": _caffe("deeplab-v1-msc", _V1, "the .caffemodel of DeepLab-MSc"),
    "deeplab-v1-largefov": _caffe(
        "deeplab-v1-largefov",
        _V1,
        "train2_iter_8000.caffemodel of DeepLab-LargeFOV, "
        "http://www.cs.jhu.edu/~alanlab/ccvl/DeepLab-LargeFOV/train2_iter_8000.caffemodel",
    ),
    "deeplab-v1-msc-largefov": _caffe(
        "deeplab-v1-msc-largefov", _V1, "the .caffemodel of DeepLab-MSc-LargeFOV"
    ),
    "deeplab-v2-vgg16": _caffe(
        "deeplab-v2-vgg16", _V2.format("vgg"), f"train2_*.caffemodel in {_V2_ZIP.format('vgg16')}"
    ),
    "deeplab-v2-resnet101": _caffe("deeplab-v2-resnet101", _V2.format("resnet"), _RESNET),
    "deeplab-v2-resnet101-3scale": _caffe("deeplab-v2-resnet101", _V2.format("resnet"), _RESNET),
    "deeplabv3-mobilenet-v3-large": _torchvision("deeplabv3_mobilenet_v3_large-fc3c493d.pth"),
    "deeplabv3-resnet50": _torchvision("deeplabv3_resnet50_coco-cd0a2569.pth"),
    "deeplabv3-resnet101": _torchvision("deeplabv3_resnet101_coco-586e9e4e.pth"),
    "lraspp-mobilenet-v3-large": _torchvision("lraspp_mobilenet_v3_large-d234d4ea.pth"),
}


def find_source(name: str) -> Source:
    """Where the weights of the zoo's network `name` are; raises UsageError or WeightsError."""
    find_network(name)
    if name not in SOURCES:
        raise WeightsError(f"{name}: no published weights are known")
    return SOURCES[name]
