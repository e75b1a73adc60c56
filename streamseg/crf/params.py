"""What a mean-field call is made of: kernels, compatibilities, quality and arrays, checked once."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from msgspec import Meta

from streamseg.config import Settings
from streamseg.errors import CrfError
from streamseg.types import F32, U8, Size

Quality = Literal["exact", "balanced", "fast"]
Compatibility = tuple[float | tuple[float, ...], ...] | npt.NDArray[np.floating]


Image = npt.NDArray[Any]  # (H, W, channels) uint8 or float32

_STRIDES = (1, 2, 4, 8)
_MOST_TERMS = 256


class Normalisation(enum.IntEnum):
    """What a kernel k with row sums n is divided by; SYMMETRIC is what DeepLab and the reference use."""

    NONE = 0
    BEFORE = 1  # k(i, j) / n(j)
    AFTER = 2  # k(i, j) / n(i)
    SYMMETRIC = 3  # k(i, j) / sqrt(n(i) n(j))


class QualitySetting(NamedTuple):
    """How a quality is inferred."""

    lattice_stride: int  # mean field runs on every stride-th pixel of both axes; the last step on all
    most_iterations: int | None  # at most so many, also where the parameters have more


KERNEL_KEYS = (
    "smoothness_weight",
    "smoothness_sigma",
    "appearance_weight",
    "appearance_sigma_xy",
    "appearance_sigma_rgb",
    "iterations",
)
"""Of CrfParams: what every engine.toml writes down."""

QUALITIES: dict[Quality, QualitySetting] = {
    "exact": QualitySetting(1, None),
    "balanced": QualitySetting(2, 5),
    "fast": QualitySetting(4, 5),
}


@dataclass(frozen=True, slots=True, eq=False)
class PairwiseTerm:
    """One pairwise term: weight · μ(l, l') · k, k a Gaussian of unit width over a feature vector per pixel.

    The features are either `features`, (dims, N) float32, already divided by their sigmas, N pixels in row
    order; or the position divided by `sigma_xy` (pixels; one number or x, y) followed, where `sigma_channels`
    (levels; one number for all channels, or one for each) is given, by the picture's channels.

    compatibility: None for Potts; (C,) a factor per class, so that equal labels i, i are rewarded by
    weight · c[i]; or (C, C) the penalty μ(l, l') itself (Krähenbühl & Koltun 2011, section 2).
    """

    weight: float
    sigma_xy: float | tuple[float, float] | None = None
    sigma_channels: float | tuple[float, ...] | None = None
    features: F32 | None = None
    compatibility: Compatibility | None = None
    normalisation: Normalisation = Normalisation.SYMMETRIC

    def __post_init__(self) -> None:
        if (self.features is None) == (self.sigma_xy is None):
            raise CrfError("a pairwise term has either features or sigma_xy")
        if self.features is not None and self.sigma_channels is not None:
            raise CrfError("sigma_channels: features are divided by their sigmas already")
        if not np.isfinite(self.weight):
            raise CrfError(f"weight: must be finite; is {self.weight}")

    def compatibility_array(self, classes: int) -> F32:
        """Weight times compatibility: () for Potts, (C,) or (C, C) float32."""
        if self.compatibility is None:
            return np.full((), self.weight, np.float32)
        array = np.asarray(self.compatibility, np.float32) * np.float32(self.weight)
        if array.shape not in ((classes,), (classes, classes)):
            raise CrfError(
                f"compatibility: shape {array.shape} does not fit {classes} classes; "
                f"must be ({classes},) or ({classes}, {classes})"
            )
        return np.ascontiguousarray(array, np.float32)

    def channel_sigmas(self, channels: int) -> F32 | None:
        """One sigma per channel, or None where the picture is not looked at."""
        if self.sigma_channels is None:
            return None
        sigmas = np.atleast_1d(np.asarray(self.sigma_channels, np.float32))
        if sigmas.shape not in ((1,), (channels,)):
            raise CrfError(f"sigma_channels: {sigmas.size} given, the picture has {channels} channels")
        return np.ascontiguousarray(np.broadcast_to(sigmas, (channels,)))

    def sigma_x_y(self) -> tuple[float, float]:
        """The position's sigmas in pixels, x first."""
        sigmas = np.broadcast_to(np.asarray(self.sigma_xy, np.float64), (2,))
        return float(sigmas[0]), float(sigmas[1])


class CrfParams(Settings, frozen=True):
    """DeepLab's two kernels, appearance (position, colour) and smoothness (position): an engine's [crf].

    Potts by default; `compatibility` is that of PairwiseTerm and multiplies both weights. A weight of 0
    leaves its kernel out. presets.py has the parameters of the released DeepLab models.
    """

    smoothness_weight: Annotated[float, Meta(ge=0, description="w2, of the smoothness kernel.")] = 3.0
    smoothness_sigma: Annotated[float, Meta(gt=0, description="σγ in pixels.")] = 1.0
    appearance_weight: Annotated[float, Meta(ge=0, description="w1, of the appearance kernel.")] = 4.0
    appearance_sigma_xy: Annotated[float, Meta(gt=0, description="σα in pixels.")] = 20.0
    appearance_sigma_rgb: Annotated[
        Annotated[float, Meta(gt=0)] | tuple[Annotated[float, Meta(gt=0)], ...],
        Meta(description="σβ in colour levels; of a picture that is not RGB one for all channels or each."),
    ] = 3.0
    iterations: Annotated[int, Meta(ge=0, le=100, description="Mean-field iterations.")] = 5
    compatibility: Annotated[
        tuple[float | tuple[float, ...], ...] | None,
        Meta(description="A factor for each class, or the penalty μ for each pair; unset is Potts."),
    ] = None
    normalisation: Annotated[
        Normalisation, Meta(description="Of the kernels: 0 none, 1 before, 2 after, 3 symmetric.")
    ] = Normalisation.SYMMETRIC

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise CrfError(f"iterations: must be 0 or more; is {self.iterations}")

    def terms(self) -> tuple[PairwiseTerm, ...]:
        """The pairwise terms of these parameters."""
        kernels = (
            (self.smoothness_weight, self.smoothness_sigma, None),
            (self.appearance_weight, self.appearance_sigma_xy, self.appearance_sigma_rgb),
        )
        return tuple(
            PairwiseTerm(weight, xy, rgb, compatibility=self.compatibility, normalisation=self.normalisation)
            for weight, xy, rgb in kernels
            if weight != 0
        )


def terms_of(params: CrfParams | Sequence[PairwiseTerm]) -> tuple[PairwiseTerm, ...]:
    """The pairwise terms of either form of parameters."""
    return params.terms() if isinstance(params, CrfParams) else tuple(params)


class Outputs(NamedTuple):
    """What was asked for, at the output's stride; the caller owns the arrays."""

    probabilities: F32 | None  # (C, h, w)
    log_probabilities: F32 | None  # (C, h, w), not below -60
    labels: U8 | None  # (h, w): the first of the most probable classes


@dataclass(frozen=True, slots=True, eq=False)
class Job:
    """Arrays that fit each other, contiguous, of the right type."""

    logits: F32  # (C, h, w)
    image: Image | None  # (H, W, channels)
    size: Size
    terms: tuple[PairwiseTerm, ...]
    iterations: int
    lattice_stride: int = 1
    out_stride: int = 1
    threads: int = 1
    keep_lattice: bool = False
    filter_only: bool = False
    start: F32 | None = None  # (C, H, W)
    probabilities: bool = True
    log_probabilities: bool = False
    labels: bool = False

    @property
    def classes(self) -> int:
        return int(self.logits.shape[0])

    @property
    def out_size(self) -> Size:
        return _ceil(self.size[0], self.out_stride), _ceil(self.size[1], self.out_stride)

    def empty_outputs(self) -> Outputs:
        """Arrays for what is asked for."""
        shape = (self.classes, *self.out_size)
        return Outputs(
            np.empty(shape, np.float32) if self.probabilities else None,
            np.empty(shape, np.float32) if self.log_probabilities else None,
            np.empty(self.out_size, np.uint8) if self.labels else None,
        )


def make_job(
    logits: npt.NDArray[Any],
    image: npt.NDArray[Any] | None,
    params: CrfParams | Sequence[PairwiseTerm],
    *,
    quality: Quality = "exact",
    iterations: int | None = None,
    size: Size | None = None,
    **options: Any,
) -> Job:
    """Check one call; raises CrfError that names what does not fit.

    `size` (H, W) is wanted only where there is no image. Options are Job's own fields.
    """
    if quality not in QUALITIES:
        raise CrfError(f"quality: must be one of {', '.join(QUALITIES)}; is {quality!r}")
    setting = QUALITIES[quality]
    if iterations is None:
        iterations = params.iterations if isinstance(params, CrfParams) else 10
    if setting.most_iterations is not None:
        iterations = min(iterations, setting.most_iterations)
    picture = None if image is None else _image(image)
    given = np.ascontiguousarray(logits, np.float32)
    if given.ndim != 3 or 0 in given.shape:
        raise CrfError(f"logits: must be (C, h, w); is {given.shape}")
    if picture is not None:
        size = (picture.shape[0], picture.shape[1])
    elif size is None:
        size = (given.shape[1], given.shape[2])
    job = Job(
        logits=given,
        image=picture,
        size=size,
        terms=terms_of(params),
        iterations=iterations,
        **{"lattice_stride": setting.lattice_stride, **options},
    )
    _check(job)
    return job


def _image(image: npt.NDArray[Any]) -> Image:
    picture = image[:, :, None] if image.ndim == 2 else image
    if picture.ndim != 3 or 0 in picture.shape:
        raise CrfError(f"image: must be (H, W) or (H, W, channels); is {image.shape}")
    if picture.dtype not in (np.uint8, np.float32):
        raise CrfError(f"image: must be uint8 or float32; is {picture.dtype}")
    return np.ascontiguousarray(picture)


def _check(job: Job) -> None:
    height, width = job.size
    if job.logits.shape[1] > height or job.logits.shape[2] > width:
        raise CrfError(f"logits: {job.logits.shape[1:]} are larger than the picture {job.size}")
    if not 1 <= len(job.terms) <= _MOST_TERMS:
        raise CrfError(f"{len(job.terms)} pairwise terms; must be 1 to {_MOST_TERMS}")
    if job.out_stride not in _STRIDES or job.lattice_stride not in _STRIDES:
        raise CrfError(f"out_stride: must be one of {', '.join(map(str, _STRIDES))}; is {job.out_stride}")
    if job.threads < 1:
        raise CrfError(f"threads: must be 1 or more; is {job.threads}")
    if job.labels and job.classes > 256:
        raise CrfError(f"labels are 8-bit: {job.classes} classes do not fit")
    for index, term in enumerate(job.terms):
        _check_term(job, term, f"term {index}: ")
    if job.start is not None and job.start.shape != (job.classes, height, width):
        raise CrfError(f"start: must be {(job.classes, height, width)}; is {job.start.shape}")


def _check_term(job: Job, term: PairwiseTerm, name: str) -> None:
    term.compatibility_array(job.classes)
    if term.features is not None:
        if term.features.ndim != 2 or term.features.shape[1] != job.size[0] * job.size[1]:
            raise CrfError(
                f"{name}features: must be (dims, {job.size[0] * job.size[1]}); is {term.features.shape}"
            )
        if job.lattice_stride != 1:
            raise CrfError(f"{name}features of its own need quality exact")
        return
    if not min(term.sigma_x_y()) > 0:
        raise CrfError(f"{name}sigma_xy: must be above 0; is {term.sigma_xy}")
    if term.sigma_channels is None:
        return
    if job.image is None:
        raise CrfError(f"{name}sigma_channels need an image")
    sigmas = term.channel_sigmas(job.image.shape[2])
    if sigmas is not None and not (sigmas > 0).all():
        raise CrfError(f"{name}sigma_channels: must be above 0; are {term.sigma_channels}")


def _ceil(length: int, stride: int) -> int:
    return -(-length // stride)
