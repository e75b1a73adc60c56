"""What pydensecrf.utils has: unary energies and features of grids and pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.crf.compat.arguments import WrongType, array, real, shown, whole
from streamseg.errors import CrfError
from streamseg.types import F32


def unary_from_labels(
    labels: npt.NDArray[Any], n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> F32:
    """Energies (n_labels, N) of a labelling that is right with probability gt_prob.

    With zero_unsure, 0 means that nothing is known and label k is class k − 1; otherwise labels are classes.
    """
    count = whole(n_labels, "n_labels", 2, 65536)
    if not 0 < real(gt_prob, "gt_prob") < 1:
        raise CrfError(f"gt_prob: must lie between 0 and 1; is {gt_prob}")
    flat = array(labels, "labels").reshape(-1)
    if flat.dtype.kind not in "iu":
        raise CrfError(f"labels: must be whole numbers; are {flat.dtype}")
    last = count if zero_unsure else count - 1
    if flat.size and (flat.min() < 0 or flat.max() > last):
        raise CrfError(f"labels: must be 0 to {last}; are {flat.min()} to {flat.max()}")
    energies = np.full((count, flat.size), -np.log((1.0 - gt_prob) / (count - 1)), np.float32)
    for label in range(count):
        energies[label, flat == label + bool(zero_unsure)] = -np.log(gt_prob)
    if zero_unsure:
        energies[:, flat == 0] = np.log(count)
    return energies


def unary_from_softmax(sm: npt.NDArray[Any], scale: float | None = None, clip: float | None = 1e-5) -> F32:
    """Energies (classes, N) of probabilities (classes, …), first mixed with the uniform, then clipped."""
    p = array(sm, "probabilities")
    if p.ndim == 0 or p.size == 0 or p.dtype.kind not in "fiub":
        raise CrfError(f"probabilities: must be numbers (classes, …); are {p.dtype} {p.shape}")
    if scale is not None:
        if not 0 < real(scale, "scale") <= 1:
            raise CrfError(f"scale: must be above 0 and at most 1; is {scale}")
        p = scale * p + (1.0 - scale) / p.shape[0]
    if clip is not None:
        if not 0 <= real(clip, "clip") <= 1:
            raise CrfError(f"clip: must be 0 to 1; is {clip}")
        p = np.clip(p, clip, 1.0)
    if not p.min() >= 0:
        raise CrfError(f"probabilities: must be 0 or more; the least is {p.min()}")
    with np.errstate(divide="ignore"):
        energies = np.log(p)  # our own memory from here on
    np.negative(energies, out=energies)
    return np.asarray(energies.reshape(p.shape[0], -1), np.float32)


def compute_unary(labels: npt.NDArray[Any], M: int, GT_PROB: float = 0.5) -> F32:
    """unary_from_labels by its old name."""
    warnings.warn("compute_unary is now unary_from_labels", DeprecationWarning, stacklevel=2)
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: npt.NDArray[Any], GT_PROB: float = 1) -> F32:
    """unary_from_softmax by its old name, without clipping."""
    warnings.warn("softmax_to_unary is now unary_from_softmax", DeprecationWarning, stacklevel=2)
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> F32:
    """Features (dimensions, N) of a grid: each coordinate divided by its width.

    Fewer widths than dimensions leave the others as they are, and the rows are then cut as pydensecrf cuts
    them: as many as there are widths.
    """
    size = _shape(shape)
    features = np.empty((len(size), *size), np.float32)
    count = _put_coordinates(features, sdims)
    if not count or features.size % count:
        raise CrfError(f"sdims: {count} for {len(size)} dimensions")
    return features.reshape(count, -1)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: npt.NDArray[Any], chdim: int = -1
) -> F32:
    """Features (dimensions + channels, N) of a picture of any number of dimensions.

    chdim: where its channels are; −1 if it has none. One number as schan divides all channels, a sequence the
    first ones: dimensions and channels without a width of their own stay as they are.
    """
    picture = array(img, "img")
    if picture.ndim == 0 or picture.size == 0 or picture.dtype.kind not in "fiub":
        raise CrfError(f"img: must be a picture; is {picture.dtype} {picture.shape}")
    at = whole(chdim, "chdim", -picture.ndim, picture.ndim - 1)
    planes = picture[None] if at == -1 else np.moveaxis(picture, at, 0)
    dims, channels = planes.ndim - 1, planes.shape[0]
    features = np.empty((dims + channels, *planes.shape[1:]), np.float32)
    _put_coordinates(features[:dims], sdims)
    features[dims:] = planes
    if isinstance(schan, Number):
        features[dims:] /= _width(schan, "schan")
    else:
        _divide(features[dims:], schan, "schan", "channels")
    if not np.isfinite([features.min(), features.max()]).all():
        raise CrfError("img: holds NaN or infinity")
    return features.reshape(dims + channels, -1)


def _shape(shape: Sequence[int]) -> tuple[int, ...]:
    try:
        size = tuple(whole(length, "shape", 1, 1 << 28) for length in shape)
    except WrongType:
        raise
    except TypeError:
        raise WrongType(f"shape: must be whole numbers; is {shown(shape)}") from None
    if not size:
        raise CrfError("shape: must have at least one dimension")
    return size


def _put_coordinates(features: F32, widths: Sequence[float]) -> int:
    """Fill in the coordinates of a grid, divided → number of widths."""
    for axis in range(features.shape[0]):
        length = features.shape[1 + axis]
        shape = [1] * (features.ndim - 1)
        shape[axis] = length
        features[axis] = np.arange(length, dtype=np.float32).reshape(shape)
    return _divide(features, widths, "sdims", "dimensions")


def _divide(planes: F32, widths: Any, what: str, of: str) -> int:
    """Divide the first planes, each by its width → how many."""
    try:
        given = [_width(width, what) for width in widths]
    except WrongType:
        raise
    except TypeError:
        raise WrongType(f"{what}: must be a sequence of numbers; is {shown(widths)}") from None
    if len(given) > len(planes):
        raise CrfError(f"{what}: {len(given)} widths for {len(planes)} {of}")
    for plane, width in zip(planes, given, strict=False):
        plane /= width
    return len(given)


def _width(given: Any, what: str) -> float:
    width = real(given, what)
    if width == 0:
        raise CrfError(f"{what}: a width must not be 0")
    return width
