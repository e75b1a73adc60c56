"""One mean-field call, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from streamseg.crf.params import QUALITIES, CrfParams, PairwiseTerm, Quality, terms_of
from streamseg.errors import CrfError
from streamseg.types import F32, U8, Size

Image = npt.NDArray[Any]  # (H, W, channels) uint8 or float32

_STRIDES = (1, 2, 4, 8)
_MOST_TERMS = 8


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
    scores = np.ascontiguousarray(logits, np.float32)
    if scores.ndim != 3 or 0 in scores.shape:
        raise CrfError(f"logits: (C, h, w) is wanted, got {scores.shape}")
    if picture is not None:
        size = (picture.shape[0], picture.shape[1])
    elif size is None:
        size = (scores.shape[1], scores.shape[2])
    job = Job(
        logits=scores,
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
        raise CrfError(f"image: (H, W) or (H, W, channels) is wanted, got {image.shape}")
    if picture.dtype not in (np.uint8, np.float32):
        raise CrfError(f"image: uint8 or float32 is wanted, got {picture.dtype}")
    return np.ascontiguousarray(picture)


def _check(job: Job) -> None:
    height, width = job.size
    if job.logits.shape[1] > height or job.logits.shape[2] > width:
        raise CrfError(f"logits: {job.logits.shape[1:]} are larger than the picture {job.size}")
    if not 1 <= len(job.terms) <= _MOST_TERMS:
        raise CrfError(f"{len(job.terms)} pairwise terms; 1 to {_MOST_TERMS} can be")
    if job.out_stride not in _STRIDES or job.lattice_stride not in _STRIDES:
        raise CrfError(f"out_stride: must be one of {', '.join(map(str, _STRIDES))}; is {job.out_stride}")
    if job.threads < 1:
        raise CrfError(f"threads: must be 1 or more, is {job.threads}")
    if job.labels and job.classes > 256:
        raise CrfError(f"labels are 8-bit: {job.classes} classes do not fit")
    for index, term in enumerate(job.terms):
        _check_term(job, term, f"term {index}: ")
    if job.start is not None and job.start.shape != (job.classes, height, width):
        raise CrfError(f"start: {(job.classes, height, width)} is wanted, got {job.start.shape}")


def _check_term(job: Job, term: PairwiseTerm, name: str) -> None:
    term.compatibility_array(job.classes)
    if term.features is not None:
        if term.features.ndim != 2 or term.features.shape[1] != job.size[0] * job.size[1]:
            raise CrfError(
                f"{name}features: (dims, {job.size[0] * job.size[1]}) is wanted, got {term.features.shape}"
            )
        if job.lattice_stride != 1:
            raise CrfError(f"{name}features of its own need quality exact")
        return
    if not min(term.sigma_x_y()) > 0:
        raise CrfError(f"{name}sigma_xy: must be above 0, is {term.sigma_xy}")
    if term.sigma_channels is None:
        return
    if job.image is None:
        raise CrfError(f"{name}sigma_channels need an image")
    sigmas = term.channel_sigmas(job.image.shape[2])
    if sigmas is not None and not (sigmas > 0).all():
        raise CrfError(f"{name}sigma_channels: must be above 0, are {term.sigma_channels}")


def _ceil(length: int, stride: int) -> int:
    return -(-length // stride)
