"""Where published weights are, their licences, and their SHA-256."""

from __future__ import annotations

from dataclasses import dataclass

from streamseg.errors import UsageError, WeightsError, nearest
from streamseg.models.zoo import VOC_SIZE_16, find_network
from streamseg.types import Size

TORCHVISION = "https://download.pytorch.org/models/"
COCO_LICENCE = "BSD-3-Clause (torchvision); trained on COCO, whose pictures have their own terms"
CORAL = "https://raw.githubusercontent.com/google-coral/test_data/master/"
CORAL_VOC = (
    "Apache-2.0 (Google); trained on ImageNet, COCO and PASCAL VOC 2012, whose pictures have their own terms"
)
CORAL_CITYSCAPES = (
    "Apache-2.0 (Google); trained on Cityscapes, a data set for non-commercial use, so for that only"
)
VOC_LICENCE = "not stated by its authors, so for research only; trained on PASCAL VOC 2012 and ImageNet"


@dataclass(frozen=True, slots=True)
class Source:
    """One published file. Without `url` it must be downloaded by hand from `page`."""

    file: str
    licence: str
    page: str
    url: str | None = None
    sha256_start: str = ""  # its first digits in hexadecimal, as published, or all of them
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


def _coral(file: str, licence: str, sha256: str) -> Source:
    page = "https://github.com/google-coral/test_data"
    return Source(file=file, licence=licence, page=page, url=CORAL + file, sha256_start=sha256)


def _caffe(name: str, page: str, note: str) -> Source:
    return Source(file=f"{name}.caffemodel", licence=VOC_LICENCE, page=page, note=note)


# The authors publish no hashes, and their pages have moved before: these files are downloaded by hand.
_V1 = "http://liangchiehchen.com/projects/DeepLab_Models.html"
_V2 = "http://liangchiehchen.com/projects/DeepLabv2_{}.html"
_V2_ZIP = "http://liangchiehchen.com/projects/released/deeplab_aspp_{}/prototxt_and_model.zip"
_RESNET = f"train2_iter_20000.caffemodel in {_V2_ZIP.format('resnet101')}"

_MNV2_VOC = _coral(
    "deeplabv3_mnv2_pascal_quant.tflite",
    CORAL_VOC,
    "350af47fd346ea6d74b58833a351f583ba860e9806ec5bd292ff8d8f1f249398",
)
_MNV2_DM05_VOC = _coral(
    "deeplabv3_mnv2_dm05_pascal_quant.tflite",
    CORAL_VOC,
    "0470d2a782aa54eeeb99d32e7b6b3fb7722905c7c4f5d26bd957ec861366d48b",
)
_EDGETPU_CITYSCAPES = _coral(
    "deeplab_mobilenet_edgetpu_slim_cityscapes_quant.tflite",
    CORAL_CITYSCAPES,
    "322fe29945cb1693f426952f2a330ab67ea5678545ddee6f2548e0cfd0ca03e5",
)

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
    "deeplabv3-mobilenet-v2": _MNV2_VOC,
    "deeplabv3-mobilenet-v2-dm05": _MNV2_DM05_VOC,
}


@dataclass(frozen=True, slots=True)
class Released:
    """A released .tflite file that becomes an engine as it is fetched."""

    source: Source
    network: str
    input_size: Size
    classes: int
    parameters: int
    crf_preset: str | None = None  # its name in streamseg.crf.presets


RELEASED: dict[str, Released] = {
    "deeplabv3-mobilenet-v2-voc": Released(
        _MNV2_VOC, "deeplabv3-mobilenet-v2", VOC_SIZE_16, 21, 2_097_013, "deeplab-v2-resnet101"
    ),
    "deeplabv3-mobilenet-v2-dm05-voc": Released(
        _MNV2_DM05_VOC, "deeplabv3-mobilenet-v2-dm05", VOC_SIZE_16, 21, 688_357, "deeplab-v2-resnet101"
    ),
    "deeplabv3-mobilenet-edgetpu-slim-cityscapes": Released(
        _EDGETPU_CITYSCAPES, "deeplabv3-mobilenet-edgetpu-slim", (384, 512), 19, 2_055_379
    ),
}


def find_source(name: str) -> Source:
    """Where the weights of a network of the zoo, or of a released engine, are; raises UsageError.

    Raises WeightsError for a network of which no weights are known.
    """
    if name in RELEASED:
        return RELEASED[name].source
    try:
        find_network(name)
    except UsageError as error:
        near = nearest(name, [*RELEASED, *SOURCES])
        raise (
            UsageError(f"unknown network {name!r}; did you mean {near!r}?") if near is not None else error
        ) from None
    if name not in SOURCES:
        raise WeightsError(f"{name}: no published weights are known")
    return SOURCES[name]
