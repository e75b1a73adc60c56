"""One keyframe through the CRF: logits and picture in, log-probabilities and labels out. Pure."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from streamseg.config import CrfConfig
from streamseg.crf import CrfParams, Quality, mean_field_outputs, preset
from streamseg.engine.spec import EngineSpec
from streamseg.errors import ConfigError, CrfError
from streamseg.types import F32, U8, Size
from streamseg.upsample import labels_from_logits

GRID_STRIDE = 2  # pixels of the network's input for each log-probability: what fusion works on


@dataclass(frozen=True, slots=True)
class CrfSetup:
    """How keyframes are refined; the same for all of an engine."""

    params: CrfParams
    quality: Quality
    threads: int
    backend: Literal["native", "pydensecrf"]
    thin: tuple[bool, ...]  # for each class: kept as the network saw it


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """What the CRF says about a picture."""

    log_probabilities: F32  # (C, ceil(H / 2), ceil(W / 2))
    labels: U8 | None  # at the size they were asked for, thin classes as the network saw them


def crf_setup(config: CrfConfig, spec: EngineSpec) -> CrfSetup:
    """The settings as they apply to an engine; raises ConfigError for what is not installed or not known."""
    if config.backend == "pydensecrf" and importlib.util.find_spec("pydensecrf") is None:
        raise ConfigError("crf.backend: pydensecrf is not installed; pip install 'streamseg[pydensecrf]'")
    own = spec.crf
    if config.preset == "engine":
        params = CrfParams(
            smoothness_weight=own.smoothness_weight,
            smoothness_sigma=own.smoothness_sigma,
            appearance_weight=own.appearance_weight,
            appearance_sigma_xy=own.appearance_sigma_xy,
            appearance_sigma_rgb=own.appearance_sigma_rgb,
            iterations=own.iterations,
        )
    else:
        try:
            params = preset(config.preset)
        except CrfError as error:
            raise ConfigError(f"crf.preset: {error}") from error
    thin = tuple(c.thin for c in spec.classes)
    return CrfSetup(params, config.quality, config.threads, config.backend, thin)


def refine_picture(setup: CrfSetup, logits: F32, picture: U8, labels_size: Size | None = None) -> Posterior:
    """Run mean field on logits (C, h, w) under a picture (H, W, 3) of the network's input size.

    Without labels_size nothing is computed at full resolution, which is cheaper. Raises CrfError.
    """
    run = _native if setup.backend == "native" else _reference
    if labels_size is None and setup.backend == "native":
        return Posterior(run(setup, logits, picture, GRID_STRIDE), None)
    full = run(setup, logits, picture, 1)
    if labels_size is None:
        return Posterior(_halved(full), None)
    labels, _ = labels_from_logits(full, labels_size)
    raw, _ = labels_from_logits(logits, labels_size)
    return Posterior(_halved(full), with_thin(labels, raw, setup.thin))


def with_thin(labels: U8, raw: U8, thin: tuple[bool, ...]) -> U8:
    """labels, but as in raw (both (H, W)) wherever that has a thin class."""
    is_thin = np.zeros(256, bool)
    is_thin[: len(thin)] = thin
    return np.where(is_thin[raw], raw, labels)


def _native(setup: CrfSetup, logits: F32, picture: U8, stride: int) -> F32:
    outputs = mean_field_outputs(
        logits,
        picture,
        setup.params,
        quality=setup.quality,
        threads=setup.threads,
        out_stride=stride,
        log_probabilities=True,
    )
    assert outputs.log_probabilities is not None
    return outputs.log_probabilities


def _reference(setup: CrfSetup, logits: F32, picture: U8, stride: int) -> F32:
    """The same through pydensecrf, which knows one quality, one thread and full resolution only."""
    from pydensecrf import densecrf

    assert stride == 1, "the reference works at full resolution"
    if not np.isfinite(logits).all():
        raise CrfError("logits: NaN or infinity in them")
    size = (picture.shape[0], picture.shape[1])
    full = np.stack([cv2.resize(p, size[::-1], interpolation=cv2.INTER_LINEAR) for p in logits])
    full -= full.max(0)
    unary = np.log(np.exp(full).sum(0)) - full  # (C, H, W), −log p
    classes = len(full)
    params = setup.params
    model = densecrf.DenseCRF2D(size[1], size[0], classes)
    model.setUnaryEnergy(np.ascontiguousarray(unary.reshape(classes, -1), np.float32))
    model.addPairwiseGaussian(sxy=params.smoothness_sigma, compat=params.smoothness_weight)
    model.addPairwiseBilateral(
        sxy=params.appearance_sigma_xy,
        srgb=params.appearance_sigma_rgb,
        rgbim=np.ascontiguousarray(picture),
        compat=params.appearance_weight,
    )
    probabilities = np.array(model.inference(params.iterations), np.float32)
    return np.log(np.maximum(probabilities.reshape(classes, *size), np.float32(1e-26)))


def _halved(log_probabilities: F32) -> F32:
    """Means of the probabilities over blocks of 2×2, at odd sides over what is there."""
    _, height, width = log_probabilities.shape
    even = np.pad(log_probabilities, ((0, 0), (0, height % 2), (0, width % 2)), "edge")
    half = (even.shape[2] // 2, even.shape[1] // 2)
    planes = [cv2.resize(p, half, interpolation=cv2.INTER_AREA) for p in np.exp(even)]
    half_log: F32 = np.log(np.maximum(np.stack(planes), np.float32(1e-26)))
    return half_log
