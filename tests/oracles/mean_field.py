"""Mean field on the lattice in NumPy: the algorithm of streamseg/crf/native, some fifty times slower.

Features, lattice and barycentric weights are float32, as there; everything that mean field does on them is in
`dtype`, so that float64 says what the exact arithmetic would give.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.crf.params import Image, Job, Normalisation, Outputs, PairwiseTerm
from streamseg.errors import CrfError
from streamseg.types import F32, Size
from tests.oracles.lattice import Lattice

_LEAST_LOG = -60.0


def run(job: Job, dtype: type[np.floating] = np.float32) -> Outputs:
    """Run a checked job."""
    _check_numbers(job)
    kernels = [_Kernel(job, term, dtype) for term in job.terms]
    stride = job.lattice_stride if job.iterations else min(job.lattice_stride, job.out_stride)
    size = _grid(job.size, stride)
    unary = _unary(job, stride).astype(dtype)
    q = _softmax(unary) if job.start is None else _rows(job.start).astype(dtype)
    finishes = job.out_stride < stride
    for _ in range(job.iterations - finishes):
        q = _softmax(unary + sum(kernel.message(q) for kernel in kernels))
    if finishes:
        size = job.out_size
        messages = sum(kernel.message_at(q, job.out_stride) for kernel in kernels)
        q = _softmax(_unary(job, job.out_stride).astype(dtype) + messages)
    planes = _planes(q, size)
    if size != job.out_size:
        planes = _block_means(planes, job.out_stride // stride)
    return Outputs(
        planes if job.probabilities else None,
        np.maximum(np.log(np.maximum(planes, 1e-30)), _LEAST_LOG) if job.log_probabilities else None,
        planes.argmax(0).astype(np.uint8) if job.labels else None,
    )


class _Kernel:
    """One term on the job's lattice grid."""

    def __init__(self, job: Job, term: PairwiseTerm, dtype: type[np.floating]) -> None:
        self.job, self.term = job, term
        features = _features(job, term, job.lattice_stride)
        bounds = _features(job, term, min(job.out_stride, job.lattice_stride))
        self.lattice = Lattice(features, bounds)
        self.compatibility = term.compatibility_array(job.classes)
        self._ones = self.lattice.blur(self.lattice.splat(np.ones((features.shape[1], 1), dtype)))
        self.norm = self._norm(self.lattice.slice(self._ones)[:, 0] * self.lattice.alpha)

    def message(self, q: F32) -> F32:
        """What the term adds to log Q: (N, C)."""
        result = self.lattice.slice(self._blurred(q))
        if self.term.normalisation in (Normalisation.AFTER, Normalisation.SYMMETRIC):
            result *= self.norm[:, None]
        return result

    def message_at(self, q: F32, stride: int) -> F32:
        """The same at the pixels of a finer grid; points the lattice lacks are left out."""
        vertices, weights = self.lattice.place(_features(self.job, self.term, stride))
        present = (weights * (vertices < self.lattice.points)).sum(1)
        result = self.lattice.slice(self._blurred(q), vertices, weights)
        norm = self.lattice.slice(self._ones, vertices, weights)[:, 0] * self.lattice.alpha
        if self.term.normalisation == Normalisation.SYMMETRIC:
            gain = 1.0 / np.sqrt(norm * present + 1e-20)
        elif self.term.normalisation == Normalisation.AFTER:
            gain = 1.0 / (norm + 1e-20)
        else:
            gain = 1.0 / np.maximum(present, 1e-20)
        return np.asarray(result * np.where(present > 0, gain, 0.0)[:, None], q.dtype)

    def _blurred(self, q: F32) -> F32:
        if self.term.normalisation in (Normalisation.BEFORE, Normalisation.SYMMETRIC):
            q = q * self.norm[:, None]
        rows = self.lattice.blur(self.lattice.splat(q))
        rows *= self.lattice.alpha
        if self.term.normalisation == Normalisation.NONE:
            rows *= float(self.job.lattice_stride**2)
        if self.compatibility.ndim == 2:
            return -(rows @ self.compatibility.T)
        rows *= self.compatibility
        return rows

    def _norm(self, sums: F32) -> F32:
        if self.term.normalisation == Normalisation.NONE:
            return np.ones_like(sums)
        if self.term.normalisation == Normalisation.SYMMETRIC:
            return np.asarray(1.0 / np.sqrt(sums + 1e-20))
        return np.asarray(1.0 / (sums + 1e-20))


def _check_numbers(job: Job) -> None:
    worst = job.logits.max(0)
    if np.isnan(job.logits).any() or not np.isfinite(worst).all():
        raise CrfError("unary holds NaN or infinity")
    if job.start is not None and np.isnan(job.start).any():
        raise CrfError("start holds NaN")


def _features(job: Job, term: PairwiseTerm, stride: int) -> F32:
    """(dims, N) float32 on every stride-th pixel, the picture's values being means."""
    if term.features is not None:
        return np.ascontiguousarray(term.features, np.float32)
    h, w = _grid(job.size, stride)
    y, x = np.mgrid[:h, :w].astype(np.float32)
    shift = np.float32(0.5 * (stride - 1))
    sigma_x, sigma_y = term.sigma_x_y()
    planes = [(x * stride + shift) / np.float32(sigma_x), (y * stride + shift) / np.float32(sigma_y)]
    if term.sigma_channels is not None and job.image is not None:
        sigmas = term.channel_sigmas(job.image.shape[2])
        assert sigmas is not None
        planes += list(_block_means(_channels(job.image), stride) / sigmas[:, None, None])
    return np.stack([plane.reshape(-1) for plane in planes]).astype(np.float32)


def _channels(image: Image) -> F32:
    return np.ascontiguousarray(np.moveaxis(image, 2, 0), np.float32)


def _unary(job: Job, stride: int) -> F32:
    """log p up to a constant per pixel, (N, C), on every stride-th pixel."""
    if job.logits.shape[1:] == job.size:
        planes = _block_means(job.logits, stride)
    elif job.logits.shape[1:] == _grid(job.size, stride):
        planes = job.logits
    else:
        planes = _bilinear(job.logits, job.size, stride)
    rows = _rows(planes)
    return np.asarray(np.maximum(rows - rows.max(1, keepdims=True), -1e4), np.float32)


def _bilinear(planes: F32, size: Size, stride: int) -> F32:
    for axis, full in ((1, size[0]), (2, size[1])):
        have = planes.shape[axis]
        centre = (np.arange(-(-full // stride)) + 0.5) * stride - 0.5
        at = np.clip((centre + 0.5) * have / full - 0.5, 0, have - 1)
        first = at.astype(np.int64)
        share = (at - first).astype(np.float32).reshape((-1, 1) if axis == 1 else (-1,))
        a = planes.take(first, axis)
        planes = a + share * (planes.take(np.minimum(first + 1, have - 1), axis) - a)
    return np.asarray(planes, np.float32)


def _block_means(planes: F32, step: int) -> F32:
    """Means over step x step blocks; those at the far edges may be smaller."""
    if step == 1:
        return planes
    for axis in (1, 2):
        starts = np.arange(0, planes.shape[axis], step)
        counts = np.diff(np.append(starts, planes.shape[axis])).astype(np.float32)
        sums = np.add.reduceat(planes, starts, axis=axis)
        planes = np.asarray(sums / counts.reshape((-1, 1) if axis == 1 else (-1,)), np.float32)
    return planes


def _grid(size: Size, stride: int) -> Size:
    return -(-size[0] // stride), -(-size[1] // stride)


def _rows(planes: npt.NDArray[Any]) -> F32:
    return np.ascontiguousarray(planes.reshape(planes.shape[0], -1).T, np.float32)


def _planes(rows: F32, size: Size) -> F32:
    return np.ascontiguousarray(rows.T).reshape(-1, *size)


def _softmax(x: Any) -> F32:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))
