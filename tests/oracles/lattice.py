"""The permutohedral lattice in NumPy (Adams, Baek, Davis 2010)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import CrfError
from streamseg.types import F32

I64 = npt.NDArray[np.int64]
_MOST_STEPS = 2**21  # a coordinate beyond this many cells has no exact float32 rest


class Lattice:
    """The points round a set of feature vectors, and the three steps of filtering on them.

    features (dims, N) float32, already divided by their sigmas. Values are (N, C) at pixels and (M + 1, C) at
    points; the last row stands for points that are not there and is zero.
    """

    def __init__(self, features: F32, bounds: F32 | None = None) -> None:
        self.dims = features.shape[0]
        self._scale = _scales(self.dims)
        self._lay_out(features if bounds is None else bounds)
        keys, self.weights = self._embed(features)
        self._keys, vertices = np.unique(keys, return_inverse=True)
        self.points = len(self._keys)
        self.vertices: I64 = vertices.reshape(keys.shape).astype(np.int64)
        self._neighbours = [
            (self._find(self._keys + step), self._find(self._keys - step)) for step in self._steps
        ]
        self.alpha = 1.0 / (1.0 + 2.0**-self.dims)

    def place(self, features: F32) -> tuple[I64, F32]:
        """Vertices and weights (N', dims + 1) of other vectors; points the lattice lacks are `points`."""
        keys, weights = self._embed(features)
        return self._find(keys), weights

    def splat(self, values: F32) -> F32:
        """Spread values (N, C) over the points: (points + 1, C)."""
        result = np.zeros((self.points + 1, values.shape[1]), values.dtype)
        flat = self.vertices.reshape(-1)
        for c in range(values.shape[1]):
            spread = (self.weights * values[:, c, None]).reshape(-1)
            result[:, c] = np.bincount(flat, spread, self.points + 1)
        return result

    def blur(self, rows: F32) -> F32:
        """Blur rows (points + 1, C) by (1/2, 1, 1/2) along every axis, in place."""
        for plus, minus in self._neighbours:
            rows[:-1] += 0.5 * (rows[plus] + rows[minus])
        return rows

    def slice(self, rows: F32, vertices: I64 | None = None, weights: F32 | None = None) -> F32:
        """Values (N, C) at the pixels, or at other places from `place`."""
        if vertices is None or weights is None:
            vertices, weights = self.vertices, self.weights
        result = weights[:, :1] * rows[vertices[:, 0]]
        for k in range(1, self.dims + 1):
            result += weights[:, k : k + 1] * rows[vertices[:, k]]
        return result

    def _lay_out(self, features: F32) -> None:
        """Offsets and units that give every coordinate that can occur its own bits of a key."""
        d = self.dims
        low, high = np.zeros(d + 1), np.zeros(d + 1)
        least = features.min(1).astype(np.float64) * self._scale
        most = features.max(1).astype(np.float64) * self._scale
        if not np.isfinite(least).all() or not np.isfinite(most).all():
            raise CrfError("features hold NaN or infinity")
        for k in range(d):
            low[: k + 1] += least[k]
            high[: k + 1] += most[k]
            low[k + 1] -= (k + 1) * most[k]
            high[k + 1] -= (k + 1) * least[k]
        if max(abs(low).max(), abs(high).max()) / (d + 1) >= _MOST_STEPS:
            raise CrfError("lattice coordinates are too large: raise the smallest sigma")
        self._low = np.floor(low[:d]).astype(np.int64) - 4 * (d + 1)
        bits = [
            math.ceil(math.log2(h - lo + 8 * (d + 1) + 2)) for lo, h in zip(low[:d], high[:d], strict=True)
        ]
        self._units: I64
        if sum(bits) <= 63:
            self._units = np.asarray(1 << np.cumsum([0, *bits[:-1]], dtype=np.int64), np.int64)
        else:  # random units make the key a fingerprint
            odd = np.random.default_rng(1).integers(0, 2**61, d, np.int64) * 2 + 1
            self._units = np.asarray(odd, np.int64)
        ones = self._units.sum(dtype=np.int64, keepdims=True)  # an array, because arrays wrap round silently
        self._steps: list[np.int64] = [*(ones - (d + 1) * self._units), *ones]

    def _embed(self, features: F32) -> tuple[I64, F32]:
        """Keys and barycentric weights, (N, dims + 1) each, of the simplex round each vector."""
        d = self.dims
        elevated = _elevate(features, self._scale)  # (N, d + 1)
        cells = np.round(elevated / np.float32(d + 1))
        rest = elevated - cells * (d + 1)
        off = cells.sum(1).astype(np.int64)
        order = np.argsort(-rest, axis=1, kind="stable")
        rank = np.empty_like(order)
        np.put_along_axis(rank, order, np.broadcast_to(np.arange(d + 1), order.shape), 1)
        rank += off[:, None]
        turns = (rank < 0).astype(np.int64) - (rank > d).astype(np.int64)
        rank += turns * (d + 1)
        corner = (cells.astype(np.int64) + turns) * (d + 1)
        rest = np.sort((elevated - corner.astype(np.float32)) / np.float32(d + 1), axis=1)[:, ::-1]
        weights = np.empty(rest.shape, np.float32)
        weights[:, 0] = 1.0 + rest[:, d] - rest[:, 0]
        for k in range(1, d + 1):
            weights[:, k] = rest[:, d - k] - rest[:, d + 1 - k]
        axis_of_rank = np.argsort(rank, axis=1)
        steps = np.asarray(self._steps, np.int64)
        keys = np.empty(rest.shape, np.int64)
        keys[:, 0] = ((corner[:, :d] - self._low) * self._units).sum(1, dtype=np.int64)
        for k in range(1, d + 1):  # a vertex is the one before it, one step along the axis of that rank
            keys[:, k] = keys[:, k - 1] + steps[axis_of_rank[:, d + 1 - k]]
        return keys, weights

    def _find(self, keys: I64) -> I64:
        """Index of each key, `points` where there is none."""
        at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.where(self._keys[at] == keys, at, len(self._keys))


def _scales(dims: int) -> npt.NDArray[np.float32]:
    """Of each feature, so that the blur has unit standard deviation (Adams et al. 2010, section 3.1)."""
    width = math.sqrt(2.0 / 3.0) * (dims + 1)
    return np.array([width / math.sqrt((k + 1) * (k + 2)) for k in range(dims)], np.float32)


def _elevate(features: F32, scale: F32) -> Any:
    """Feature vectors (dims, N) on the plane of the lattice, (N, dims + 1) float32."""
    d = features.shape[0]
    scaled = features * scale[:, None]
    elevated = np.empty((features.shape[1], d + 1), np.float32)
    total = np.zeros(features.shape[1], np.float32)
    for j in range(d, 0, -1):
        elevated[:, j] = total - np.float32(j) * scaled[j - 1]
        total += scaled[j - 1]
    elevated[:, 0] = total
    return elevated
