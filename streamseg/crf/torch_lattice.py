"""The permutohedral lattice in torch operations (Adams, Baek, Davis 2010), on any device."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from streamseg.errors import CrfError

_MOST_STEPS = 2**21  # a coordinate beyond this many cells has no exact float32 rest
_NO_KEY = 2**63 - 1  # in rows that hold no point

Bounds = Sequence[tuple[float, float]]


class TorchLattice:
    """The points round feature vectors (dims, N) float32, already divided by their sigmas.

    vertices (N, dims + 1) int32 and weights (N, dims + 1) float32 place each pixel among the points.
    neighbours holds, for each axis, the row of the next and of the previous point, (capacity,) int32 each,
    or `capacity` where there is none. Arrays of rows have capacity + 1 of them, the last one always 0.

    With `bounds`, the least and the largest value of each feature, and `capacity`, rows for the points,
    nothing is read from the device, so that a CUDA graph can record it; `points`, an int64 tensor of no
    dimensions on the device, may then be above the capacity: what is computed is wrong in that case.
    """

    def __init__(self, features: Tensor, bounds: Bounds | None = None, capacity: int | None = None) -> None:
        """Raises CrfError for features that are no numbers or spread too far."""
        self.dims = d = features.shape[0]
        self.alpha = 1.0 / (1.0 + 2.0**-d)
        width = math.sqrt(2.0 / 3.0) * (d + 1)
        self._scale = [width / math.sqrt((k + 1) * (k + 2)) for k in range(d)]
        low, units = self._lay_out(_bounds_of(features) if bounds is None else bounds)
        ones = sum(units)
        steps = [_wrap(ones - (d + 1) * unit) for unit in units] + [_wrap(ones)]
        keys, self.weights = self._embed(features, low, units, steps)
        ordered, order = keys.reshape(-1).sort()
        is_new = torch.ones_like(ordered)
        is_new[1:] = ordered[1:] != ordered[:-1]
        index = is_new.cumsum(0) - 1
        self.points = index[-1] + 1
        self.capacity = int(self.points) if capacity is None else capacity
        index = index.clamp_max(self.capacity)
        vertices = torch.empty_like(index, dtype=torch.int32)
        vertices.scatter_(0, order, index.to(torch.int32))
        self.vertices = vertices.reshape(keys.shape)
        table = torch.full((self.capacity + 1,), _NO_KEY, device=keys.device)
        self._keys = table.scatter_(0, index, ordered)[: self.capacity]
        self.neighbours = [(self._find(step), self._find(-step)) for step in steps]

    def _lay_out(self, bounds: Bounds) -> tuple[list[int], list[int]]:
        """Smallest coordinates, and for each coordinate the unit that gives it its own bits of a key."""
        d = self.dims
        low, high = [0.0] * (d + 1), [0.0] * (d + 1)
        for k, (smallest, largest) in enumerate(bounds):
            least, most = smallest * self._scale[k], largest * self._scale[k]
            if not (math.isfinite(least) and math.isfinite(most)):
                raise CrfError("features hold NaN or infinity")
            for i in range(k + 1):
                low[i] += least
                high[i] += most
            low[k + 1] -= (k + 1) * most
            high[k + 1] -= (k + 1) * least
        if max(map(abs, low + high)) / (d + 1) >= _MOST_STEPS:
            raise CrfError("lattice coordinates are too large: raise the smallest sigma")
        units, shift = [], 0
        for i in range(d):
            units.append(1 << shift)
            shift += math.ceil(math.log2(high[i] - low[i] + 8 * (d + 1) + 2))
        if shift > 63:  # random units make the key a fingerprint
            generator = torch.Generator().manual_seed(1)
            units = (torch.randint(0, 2**61, (d,), generator=generator) * 2 + 1).tolist()
        return [math.floor(value) - 4 * (d + 1) for value in low[:d]], units

    def _embed(
        self, features: Tensor, low: list[int], units: list[int], steps: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Keys and barycentric weights, (N, dims + 1) each, of the simplex round each vector.

        The lattice's few numbers reach the device as constants of operations: a list that is made a tensor
        would be copied from the host, which no CUDA graph records.
        """
        d = self.dims
        planes = [features[j] * self._scale[j] for j in range(d)]
        total = torch.zeros_like(planes[0])
        elevated = torch.empty((len(total), d + 1), device=total.device)
        for j in range(d, 0, -1):
            elevated[:, j] = total - j * planes[j - 1]
            total = total + planes[j - 1]
        elevated[:, 0] = total
        cells = torch.round(elevated / (d + 1))
        off = cells.sum(1).to(torch.int64)
        rank = torch.argsort(torch.argsort(cells * (d + 1) - elevated, dim=1, stable=True), dim=1)
        rank = rank + off[:, None]
        turns = (rank < 0).to(torch.int64) - (rank > d).to(torch.int64)
        rank = rank + turns * (d + 1)
        corner = (cells.to(torch.int64) + turns) * (d + 1)
        rest = ((elevated - corner) / (d + 1)).sort(dim=1, descending=True).values
        weights = torch.empty_like(rest)
        weights[:, 0] = 1.0 + rest[:, d] - rest[:, 0]
        weights[:, 1:] = rest[:, :d].flip(1) - rest[:, 1:].flip(1)
        axis_of_rank = torch.argsort(rank, dim=1)
        keys = torch.empty_like(rest, dtype=torch.int64)
        first = torch.zeros_like(axis_of_rank[:, 0])
        for k in range(d):
            first += (corner[:, k] - low[k]) * units[k]
        keys[:, 0] = first
        for k in range(1, d + 1):  # a vertex is the one before it, one step along the axis of that rank
            axis = axis_of_rank[:, d + 1 - k]
            keys[:, k] = keys[:, k - 1]
            for i, along in enumerate(steps):
                keys[:, k] += (axis == i) * along
        return keys, weights.contiguous()

    def _find(self, step: int) -> Tensor:
        """The row of the point that lies one step from each."""
        wanted = self._keys + step
        at = torch.searchsorted(self._keys, wanted, out_int32=True).clamp_max(self.capacity - 1)
        found = (self._keys[at] == wanted) & (self._keys != _NO_KEY)
        return at.masked_fill(~found, self.capacity)


def _bounds_of(features: Tensor) -> Bounds:
    """The least and the largest value of each feature; waits for the device."""
    low, high = torch.stack([features.amin(1), features.amax(1)]).tolist()
    return list(zip(low, high, strict=True))


def _wrap(value: int) -> int:
    """The value as a signed 64-bit integer."""
    return (value + 2**63) % 2**64 - 2**63
