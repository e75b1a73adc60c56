"""One keyframe through the CRF: logits and picture in, log-probabilities and labels out. Pure.

And what a keyframe is on its way to the CRF's process and back.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Union, cast

import cv2
import numpy as np

from streamseg.config import CrfConfig
from streamseg.crf import (
    PRESETS,
    CrfParams,
    Quality,
    Workspace,
    mean_field_outputs,
    native_available,
    native_missing_reason,
)
from streamseg.errors import ConfigError, EngineError, did_you_mean
from streamseg.inference.label_view import LabelView, drop_small
from streamseg.inference.scaling import labels_from_logits
from streamseg.inference.spec import EngineSpec, find_engine
from streamseg.types import F32, U8, Logits, Size

if TYPE_CHECKING:
    from streamseg.crf.gpu_graph import MeanField

Kept = Union[Workspace, "MeanField", None]  # see workspace_of()

DEVICE = "cuda"  # of refinement.crf.backend = "gpu"
Priority = Literal["idle", "low", "normal"]

GRID_STRIDE = 2  # pixels of the network's input for each log-probability: what fusion works on


@dataclass(frozen=True, slots=True)
class CrfSetup:
    """How keyframes are refined; the same for all of an engine."""

    params: CrfParams
    quality: Quality
    threads: int
    backend: Literal["native", "gpu"]
    thin: tuple[bool, ...]  # for each class: kept as the network saw it
    temperature: float = 1.0  # of the confidence


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """The CRF's result for a picture."""

    log_probabilities: F32 | None  # (C, ceil(H / 2), ceil(W / 2)), where asked for
    labels: U8 | None = None  # at the size they were asked for, thin classes from the network
    confidence: U8 | None = None  # in 1/255, where asked for


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message to the CRF's process: at which priority it works."""

    priority: Priority


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """What the CRF needs of one keyframe."""

    setup: CrfSetup
    logits: F32  # (C, h, w)
    picture: U8  # (H, W, 3), of the network's input size
    labels_size: Size | None
    log_probabilities: bool  # wanted: they are two megabytes
    confidence: bool = False
    view: LabelView | None = None  # how the labels are published


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The posterior, or why there is none."""

    posterior: Posterior | None
    problem: str
    took_s: float


@dataclass(frozen=True, slots=True, eq=False)
class Keyframe:
    """A frame for the CRF, and what is wanted of it."""

    setup: CrfSetup
    logits: Logits
    labels_size: Size | None  # of the refined mask
    for_fusion: bool = True  # log-probabilities, too
    confidence: bool = False
    view: LabelView | None = None  # how the labels are published

    @property
    def stream(self) -> str:
        return self.logits.frame.stream

    def request(self) -> Request:
        """The arrays of it; the picture as the network saw it."""
        picture = self.logits.frame.scaled(self.logits.geometry.input_size)
        return Request(
            self.setup,
            self.logits.array,
            picture,
            self.labels_size,
            self.for_fusion,
            self.confidence,
            self.view,
        )


def crf_setup(config: CrfConfig, spec: EngineSpec) -> CrfSetup:
    """The settings as they apply to an engine; raises ConfigError for an unknown preset or a missing GPU.

    Whether the compiled CRF is there is checked by need_crf().
    """
    if config.backend == "gpu" and (reason := _why_no_gpu()):
        raise ConfigError(f"refinement.crf.backend: gpu needs torch and a CUDA device; {reason}")
    params = _params_named(config.preset, spec)
    thin = tuple(c.thin for c in spec.classes)
    return CrfSetup(params, config.quality, config.threads, config.backend, thin, spec.temperature)


def workspace_of(setup: CrfSetup) -> Kept:
    """What a thread keeps from keyframe to keyframe: it spares a third of the time, on a GPU most of it."""
    if setup.backend == "native":
        return Workspace() if native_available() else None
    from streamseg.crf.gpu_graph import MeanField

    return MeanField(setup.params)


def need_crf(setup: CrfSetup) -> None:
    """Raise ConfigError that says how to get the compiled CRF, where it is needed and missing."""
    if setup.backend == "native" and (reason := native_missing_reason()):
        raise ConfigError(reason)


def refine(request: Request, workspace: Kept = None) -> Posterior:
    """Refine a keyframe; raises CrfError."""
    return refine_picture(
        request.setup,
        request.logits,
        request.picture,
        request.labels_size,
        confidence=request.confidence,
        log_probabilities=request.log_probabilities,
        view=request.view,
        workspace=workspace,
    )


def refine_picture(
    setup: CrfSetup,
    logits: F32,
    picture: U8,
    labels_size: Size | None = None,
    *,
    confidence: bool = False,
    log_probabilities: bool = True,
    view: LabelView | None = None,
    workspace: Kept = None,
) -> Posterior:
    """Run mean field on logits (C, h, w) under a picture (H, W, 3) of the network's input size.

    labels_size: the size of the labels; without it nothing is computed at full resolution, which is cheaper.
    log_probabilities: whether they are wanted. view: how the labels are published. workspace:
    workspace_of(setup), kept from call to call. Raises CrfError.
    """
    run = _native if setup.backend == "native" else _gpu
    if labels_size is None and setup.backend == "native":
        return Posterior(run(setup, logits, picture, GRID_STRIDE, workspace))
    full = run(setup, logits, picture, 1, workspace)
    half = _halved(full) if log_probabilities else None
    if labels_size is None:
        return Posterior(half)
    labels = labels_with_thin(full, logits, setup.thin, labels_size, confidence, setup.temperature, view)
    return Posterior(half, *(labels if view is None else drop_small(*labels, view.min_region)))


def labels_with_thin(
    log_probabilities: F32,
    logits: F32,
    thin: Sequence[bool],
    size: Size,
    confidence: bool = False,
    temperature: float = 1.0,
    view: LabelView | None = None,
) -> tuple[U8, U8 | None]:
    """Labels of log-probabilities (C, h, w) at `size`, but the network's own where it has a thin class.

    The CRF's appearance kernel is wider than a pole and takes many of them away (docs/accuracy.md). They are
    put in at full resolution: beside others of another certainty they would not survive being scaled up.
    confidence, temperature and view as in labels_from_logits.
    """
    view = view if view is not None and view.changes else None
    labels, sure = labels_from_logits(log_probabilities, size, confidence, False, temperature, view)
    if not any(thin):
        return labels, sure
    raw, raw_sure = labels_from_logits(logits, size, confidence, temperature=temperature)
    is_thin = np.zeros(256, np.uint8)
    is_thin[: len(thin)] = np.multiply(thin, 255)
    kept = cast(U8, cv2.LUT(raw, is_thin))
    if view is not None and (confidence or view.least):
        raw, raw_sure = labels_from_logits(logits, size, confidence, False, temperature, view)
    elif view is not None:
        raw = view.of(raw)
    cv2.copyTo(raw, kept, labels)
    if sure is not None and raw_sure is not None:
        cv2.copyTo(raw_sure, kept, sure)
    return labels, sure


def _params_named(name: str, spec: EngineSpec) -> CrfParams:
    """`engine` for the engine's own, a preset's, or those tuned for another engine."""
    if name in PRESETS:
        return PRESETS[name]
    try:
        return (spec if name == "engine" else find_engine(name)[1]).crf
    except EngineError as error:
        hint = did_you_mean(name, PRESETS, cutoff=0)
        raise ConfigError(f"refinement.crf.preset: unknown preset {name!r}; {hint} ({error})") from error


def _native(setup: CrfSetup, logits: F32, picture: U8, stride: int, workspace: Kept) -> F32:
    outputs = mean_field_outputs(
        logits,
        picture,
        setup.params,
        quality=setup.quality,
        threads=setup.threads,
        out_stride=stride,
        log_probabilities=True,
        workspace=workspace if isinstance(workspace, Workspace) else None,
    )
    assert outputs.log_probabilities is not None
    return outputs.log_probabilities


def _gpu(setup: CrfSetup, logits: F32, picture: U8, stride: int, workspace: Kept) -> F32:
    """The same on a CUDA device, where quality is always exact and everything is at full resolution."""
    import torch
    from torch.nn import functional

    from streamseg.crf.gpu_graph import MeanField

    assert stride == 1, "the GPU's mean field works at full resolution"
    on_device = torch.from_numpy(np.ascontiguousarray(logits))[None].to(DEVICE)
    full = functional.interpolate(on_device, size=picture.shape[:2], mode="bilinear", align_corners=False)[0]
    mean_field = workspace if isinstance(workspace, MeanField) else MeanField(setup.params)
    q = mean_field(full, torch.from_numpy(np.ascontiguousarray(picture)).to(DEVICE))
    log_probabilities: F32 = q.clamp_min(1e-26).log().cpu().numpy()
    return log_probabilities


def _why_no_gpu() -> str:
    """Why mean field cannot run on a CUDA device; empty if it can."""
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed: pip install 'streamseg[torch]'"
    import torch

    return "" if torch.cuda.is_available() else "torch finds no CUDA device"


def _halved(log_probabilities: F32) -> F32:
    """Means of the probabilities over blocks of 2×2, at odd sides over what is there."""
    _, height, width = log_probabilities.shape
    even = np.pad(log_probabilities, ((0, 0), (0, height % 2), (0, width % 2)), "edge")
    half = (even.shape[2] // 2, even.shape[1] // 2)
    planes = [cv2.resize(p, half, interpolation=cv2.INTER_AREA) for p in np.exp(even)]
    half_log: F32 = np.log(np.maximum(np.stack(planes), np.float32(1e-26)))
    return half_log
