"""Brute-force mean field, O(N²) and float64: what the lattice approximates, and the oracle of the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.crf.params import CrfParams, Normalisation, PairwiseTerm, terms_of
from streamseg.errors import CrfError

F64 = npt.NDArray[np.float64]


def exact_mean_field(
    logits: npt.NDArray[Any],
    image: npt.NDArray[Any] | None,
    params: CrfParams | Sequence[PairwiseTerm],
    iterations: int | None = None,
) -> F64:
    """Mean field with every kernel summed over all pairs of pixels (Krähenbühl & Koltun 2011, algorithm 1).

    logits (C, H, W) and image (H, W, channels) have one size; returns probabilities (C, H, W) float64. Takes
    memory for N × N doubles per kernel: meant for crops of up to some 100 × 100.
    """
    classes, height, width = logits.shape
    if image is not None and image.shape[:2] != (height, width):
        raise CrfError(f"logits {logits.shape} and image {image.shape} differ in size")
    if iterations is None:
        iterations = params.iterations if isinstance(params, CrfParams) else 10
    unary = logits.reshape(classes, -1).astype(np.float64)
    kernels = [
        (kernel_matrix(term, image, (height, width)), term.compatibility_array(classes).astype(np.float64))
        for term in terms_of(params)
    ]
    q = _softmax(unary)
    for _ in range(iterations):
        messages = np.zeros_like(unary)
        for kernel, compatibility in kernels:
            filtered = q @ kernel.T  # (C, N)
            if compatibility.ndim == 2:
                messages -= compatibility @ filtered
            else:
                messages += compatibility.reshape(-1, 1) * filtered
        q = _softmax(unary + messages)
    return q.reshape(classes, height, width)


def kernel_matrix(term: PairwiseTerm, image: npt.NDArray[Any] | None, size: tuple[int, int]) -> F64:
    """The term's normalised kernel as a matrix (N, N): what pixel j contributes to pixel i at [i, j]."""
    features = features_of(term, image, size)
    squares = (features**2).sum(0)
    distance = squares[:, None] + squares[None, :] - 2.0 * (features.T @ features)
    kernel = np.exp(-0.5 * np.maximum(distance, 0.0))
    sums = kernel.sum(1)
    if term.normalisation == Normalisation.SYMMETRIC:
        kernel /= np.sqrt(sums[:, None] * sums[None, :])
    elif term.normalisation == Normalisation.AFTER:
        kernel /= sums[:, None]
    elif term.normalisation == Normalisation.BEFORE:
        kernel /= sums[None, :]
    return np.asarray(kernel)


def features_of(term: PairwiseTerm, image: npt.NDArray[Any] | None, size: tuple[int, int]) -> F64:
    """The term's feature vectors, divided by their sigmas: (dims, N) float64."""
    if term.features is not None:
        return term.features.astype(np.float64)
    y, x = np.mgrid[: size[0], : size[1]].astype(np.float64)
    sigma_x, sigma_y = term.sigma_x_y()
    planes = [x / sigma_x, y / sigma_y]
    if term.sigma_channels is not None:
        if image is None:
            raise CrfError("sigma_channels need an image")
        picture = image if image.ndim == 3 else image[:, :, None]
        sigmas = term.channel_sigmas(picture.shape[2])
        assert sigmas is not None
        planes += [picture[:, :, c].astype(np.float64) / sigmas[c] for c in range(picture.shape[2])]
    return np.stack([plane.reshape(-1) for plane in planes])


def _softmax(x: F64) -> F64:
    e = np.exp(x - x.max(0))
    return np.asarray(e / e.sum(0))
