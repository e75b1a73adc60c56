"""The permutohedral lattice in torch operations (Adams, Baek, Davis 2010), on any device."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from streamseg.errors import CrfError

_MOST_STEPS = 2**21  # a coordinate beyond this many cells has no exact float32 rest


class TorchLattice:
    """The points round feature vectors (dims, N) float32, already divided by their sigmas.

    vertices (N, dims + 1) int64 and weights (N, dims + 1) float32 place each pixel among the `points`;
    neighbours holds, for each axis, the next and the previous point, or `points` where there is none.
    """

    def __init__(self, features: Tensor) -> None:
        self.dims = d = features.shape[0]
        self.alpha = 1.0 / (1.0 + 2.0**-d)
        width = math.sqrt(2.0 / 3.0) * (d + 1)
        self._scale = [width / math.sqrt((k + 1) * (k + 2)) for k in range(d)]
        low, units = self._lay_out(features)
        ones = sum(units)
        steps = [_wrap(ones - (d + 1) * unit) for unit in units] + [_wrap(ones)]
        keys, self.weights = self._embed(features, low, units, steps)
        self._keys, vertices = torch.unique(keys, return_inverse=True)
        self.points = len(self._keys)
        self.vertices = vertices.reshape(keys.shape).contiguous()
        self.neighbours = [(self._find(self._keys + step), self._find(self._keys - step)) for step in steps]

    def _lay_out(self, features: Tensor) -> tuple[list[int], list[int]]:
        """Smallest coordinates, and for each coordinate the unit that gives it its own bits of a key."""
        d = self.dims
        low, high = [0.0] * (d + 1), [0.0] * (d + 1)
        bounds = torch.stack([features.amin(1), features.amax(1)]).tolist()  # the one wait for the device
        for k in range(d):
            least, most = bounds[0][k] * self._scale[k], bounds[1][k] * self._scale[k]
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
        """Keys and barycentric weights, (N, dims + 1) each, of the simplex round each vector."""
        d, device = self.dims, features.device
        scaled = features * torch.tensor(self._scale, device=device)[:, None]
        elevated = torch.empty((features.shape[1], d + 1), device=device)
        total = torch.zeros(features.shape[1], device=device)
        for j in range(d, 0, -1):
            elevated[:, j] = total - j * scaled[j - 1]
            total = total + scaled[j - 1]
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
        step = torch.tensor(steps, device=device)
        keys = torch.empty(rest.shape, dtype=torch.int64, device=device)
        offset, unit = torch.tensor(low, device=device), torch.tensor(units, device=device)
        keys[:, 0] = ((corner[:, :d] - offset) * unit).sum(1)
        for k in range(1, d + 1):  # a vertex is the one before it, one step along the axis of that rank
            keys[:, k] = keys[:, k - 1] + step[axis_of_rank[:, d + 1 - k]]
        return keys, weights.contiguous()

    def _find(self, keys: Tensor) -> Tensor:
        at = torch.searchsorted(self._keys, keys).clamp_max(self.points - 1)
        return torch.where(self._keys[at] == keys, at, self.points)


def _wrap(value: int) -> int:
    """The value as a signed 64-bit integer."""
    return (value + 2**63) % 2**64 - 2**63
