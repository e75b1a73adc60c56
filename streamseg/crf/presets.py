"""CRF parameters of every released DeepLab model, by name, and those for CamVid."""

from __future__ import annotations

from streamseg.crf.params import CrfParams
from streamseg.errors import CrfError, did_you_mean


def _deeplab(w1: float, xy: float, rgb: float, w2: float = 3.0, smooth: float = 3.0) -> CrfParams:
    return CrfParams(
        appearance_weight=w1,
        appearance_sigma_xy=xy,
        appearance_sigma_rgb=rgb,
        smoothness_weight=w2,
        smoothness_sigma=smooth,
        iterations=10,
    )


# From the models' own test scripts (Chen et al. 2015 and 2017); all Potts, symmetric, ten iterations.
PRESETS: dict[str, CrfParams] = {
    "deeplab": _deeplab(5, 50, 10),
    "deeplab-msc": _deeplab(3, 95, 3),
    "deeplab-largefov": _deeplab(4, 121, 5),
    "deeplab-msc-largefov": _deeplab(4, 83, 5),
    "deeplab-coco-largefov": _deeplab(5, 69, 5),
    "deeplab-msc-coco-largefov": _deeplab(4, 59, 5),
    "deeplab-v2-vgg16": _deeplab(4, 65, 3, 2, 2),
    "deeplab-v2-resnet101": _deeplab(4, 67, 3, 3, 1),
    # Commonly used on CamVid with pydensecrf.
    "camvid": _deeplab(5, 50, 3),
}


def preset(name: str) -> CrfParams:
    """The parameters of that name; raises CrfError that names the nearest."""
    try:
        return PRESETS[name]
    except KeyError:
        raise CrfError(f"no CRF preset {name!r}; {did_you_mean(name, PRESETS, cutoff=0)}") from None
