"""What pydensecrf.utils has: unary energies and features of grids and pictures."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import CrfError
from streamseg.types import F32


def unary_from_labels(
    labels: npt.NDArray[Any], n_labels: int, gt_prob: float, zero_unsure: bool = True
) -> F32:
    """Energies (n_labels, N) of a labelling that is right with probability gt_prob.

    With zero_unsure, 0 means that nothing is known and label k is class k − 1; otherwise labels are classes.
    """
    if not 0 < gt_prob < 1:
        raise CrfError(f"gt_prob: must lie between 0 and 1; is {gt_prob}")
    flat = np.asarray(labels).reshape(-1).astype(np.int64)
    energies = np.full((n_labels, flat.size), -np.log((1.0 - gt_prob) / (n_labels - 1)), np.float32)
    known = flat != 0 if zero_unsure else np.ones(flat.shape, bool)
    classes = flat - 1 if zero_unsure else flat
    energies[classes[known], np.flatnonzero(known)] = -np.log(gt_prob)
    energies[:, ~known] = np.log(n_labels)
    return energies


def unary_from_softmax(sm: npt.NDArray[Any], scale: float | None = None, clip: float | None = 1e-5) -> F32:
    """Energies (classes, N) of probabilities (classes, …), first mixed with the uniform, then clipped."""
    p = np.asarray(sm)
    if scale is not None:
        if not 0 < scale <= 1:
            raise CrfError(f"scale: must be above 0 and at most 1; is {scale}")
        p = scale * p + (1.0 - scale) / p.shape[0]
    if clip is not None:
        p = np.clip(p, clip, 1.0)
    return np.asarray(-np.log(p).reshape(p.shape[0], -1), np.float32)


def compute_unary(labels: npt.NDArray[Any], M: int, GT_PROB: float = 0.5) -> F32:
    """unary_from_labels by its old name."""
    warnings.warn("compute_unary is now unary_from_labels", DeprecationWarning, stacklevel=2)
    return unary_from_labels(labels, M, GT_PROB)


def softmax_to_unary(sm: npt.NDArray[Any], GT_PROB: float = 1) -> F32:
    """unary_from_softmax by its old name, without clipping."""
    warnings.warn("softmax_to_unary is now unary_from_softmax", DeprecationWarning, stacklevel=2)
    return unary_from_softmax(sm, None if GT_PROB == 1 else GT_PROB, clip=None)


def create_pairwise_gaussian(sdims: Sequence[float], shape: Sequence[int]) -> F32:
    """Features (dimensions, N) of a grid: each coordinate divided by its width."""
    return _coordinates(sdims, tuple(shape)).reshape(len(sdims), -1)


def create_pairwise_bilateral(
    sdims: Sequence[float], schan: float | Sequence[float], img: npt.NDArray[Any], chdim: int = -1
) -> F32:
    """Features (dimensions + channels, N) of a picture of any number of dimensions.

    chdim: where its channels are; −1 if it has none.
    """
    channels = np.asarray(img[None] if chdim == -1 else np.moveaxis(img, chdim, 0), np.float32)
    widths = np.broadcast_to(np.asarray(schan, np.float32), (channels.shape[0],))
    scaled = channels / widths.reshape(-1, *(1,) * (channels.ndim - 1))
    grid = _coordinates(sdims, channels.shape[1:])
    return np.concatenate([grid, scaled]).reshape(len(grid) + len(scaled), -1)


def _coordinates(widths: Sequence[float], shape: tuple[int, ...]) -> F32:
    grid = np.indices(shape, np.float32)
    return np.asarray(grid / np.asarray(widths, np.float32).reshape(-1, *(1,) * len(shape)), np.float32)
