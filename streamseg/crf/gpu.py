"""The same mean field on torch tensors: plain torch operations, or Triton kernels where they can run.

The torch operations run on CPU tensors too and are tested on them. Neither path has been run on GPU hardware
yet: tests/gpu/test_crf_gpu.py is what to run first on a machine with one. The Triton kernels have so far run
only in Triton's interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from streamseg.crf.params import CrfParams, Normalisation, PairwiseTerm, terms_of
from streamseg.crf.torch_lattice import TorchLattice
from streamseg.errors import CrfError

if TYPE_CHECKING:
    from torch import Tensor

Kernels = Literal["auto", "torch", "triton"]


class Steps(Protocol):
    """The three steps of filtering on a lattice, and the update; all rows (…, C) float32 and contiguous."""

    def splat(self, lattice: TorchLattice, values: Tensor) -> Tensor: ...

    def blur(self, lattice: TorchLattice, rows: Tensor) -> Tensor: ...

    def slice(self, lattice: TorchLattice, rows: Tensor) -> Tensor: ...

    def update(
        self, unary: Tensor, terms: Sequence[tuple[TorchLattice, Tensor, Tensor | None]]
    ) -> Tensor: ...


def triton_available() -> bool:
    """Whether Triton's kernels can be used here: the package is there, and a CUDA device."""
    import importlib.util

    import torch

    return torch.cuda.is_available() and importlib.util.find_spec("triton") is not None


def mean_field_torch(
    logits: Tensor,
    image: Tensor | None,
    params: CrfParams | Sequence[PairwiseTerm],
    *,
    iterations: int | None = None,
    kernels: Kernels = "auto",
) -> Tensor:
    """Mean field (Krähenbühl & Koltun 2011, algorithm 1) where the tensors are.

    logits (C, H, W) and image (H, W, channels), of one size, on one device; returns probabilities (C, H, W)
    float32 on it. Equal to streamseg.crf.native with quality exact to float tolerance; sums on a GPU have
    no fixed order, so two runs may differ in the last bits. `auto` takes Triton on a CUDA device where it is
    installed. Raises CrfError for shapes and parameters that cannot be, and NaN.
    """
    import torch

    if logits.ndim != 3 or (image is not None and image.shape[:2] != logits.shape[1:]):
        raise CrfError(f"logits: must be (C, H, W) of the image's size; is {tuple(logits.shape)}")
    classes, height, width = logits.shape
    if iterations is None:
        iterations = params.iterations if isinstance(params, CrfParams) else 10
    unary = logits.reshape(classes, -1).T.to(torch.float32).contiguous()  # (N, C)
    if not bool(torch.isfinite(unary.amax(1)).all()) or bool(torch.isnan(unary).any()):
        raise CrfError("unary holds NaN or infinity")
    unary = (unary - unary.amax(1, keepdim=True)).clamp_min(-1e4)
    steps = _steps(kernels, unary.is_cuda)
    terms = [_Term(t, image, (height, width), classes, unary, steps) for t in terms_of(params)]
    q = torch.softmax(unary, 1)
    for _ in range(iterations):
        q = steps.update(unary, [(term.lattice, term.rows(q), term.gain) for term in terms])
    return q.T.reshape(classes, height, width).contiguous()


def _steps(kernels: Kernels, is_cuda: bool) -> Steps:
    if kernels == "triton" or (kernels == "auto" and is_cuda and triton_available()):
        from streamseg.crf.triton_kernels import TritonSteps

        return TritonSteps()
    return TorchSteps()


class _Term:
    """One pairwise term's lattice, norm and compatibility on the device."""

    def __init__(
        self,
        term: PairwiseTerm,
        image: Tensor | None,
        size: tuple[int, int],
        classes: int,
        like: Tensor,
        steps: Steps,
    ) -> None:
        import torch

        self.normalisation = term.normalisation
        self.steps = steps
        self.lattice = TorchLattice(_features(term, image, size, like))
        compatibility = torch.from_numpy(np.atleast_1d(term.compatibility_array(classes))).to(like.device)
        self.compatibility = compatibility * self.lattice.alpha
        ones = torch.ones((len(like), 1), dtype=torch.float32, device=like.device)
        sums = steps.slice(self.lattice, steps.blur(self.lattice, steps.splat(self.lattice, ones)))
        self.norm = self._norm(sums * self.lattice.alpha)  # (N, 1)
        sliced = term.normalisation in (Normalisation.AFTER, Normalisation.SYMMETRIC)
        self.gain = self.norm.contiguous() if sliced else None  # of what is sliced

    def rows(self, q: Tensor) -> Tensor:
        """The term's blurred rows (M + 1, C), compatibility included: what an update slices."""
        if self.normalisation in (Normalisation.BEFORE, Normalisation.SYMMETRIC):
            q = (q * self.norm).contiguous()
        rows = self.steps.blur(self.lattice, self.steps.splat(self.lattice, q))
        if self.compatibility.ndim == 2:
            return -(rows @ self.compatibility.T).contiguous()
        return rows * self.compatibility

    def _norm(self, sums: Tensor) -> Tensor:
        if self.normalisation == Normalisation.NONE:
            return sums.new_ones(sums.shape)
        if self.normalisation == Normalisation.SYMMETRIC:
            return (sums + 1e-20).rsqrt()
        return (sums + 1e-20).reciprocal()


class TorchSteps:
    """The steps in torch operations, on any device."""

    def splat(self, lattice: TorchLattice, values: Tensor) -> Tensor:
        rows = values.new_zeros((lattice.points + 1, values.shape[1]))
        for k in range(lattice.dims + 1):
            rows.index_add_(0, lattice.vertices[:, k], lattice.weights[:, k, None] * values)
        return rows

    def blur(self, lattice: TorchLattice, rows: Tensor) -> Tensor:
        for plus, minus in lattice.neighbours:
            rows[:-1] += 0.5 * (rows[plus] + rows[minus])
        return rows

    def slice(self, lattice: TorchLattice, rows: Tensor) -> Tensor:
        result = lattice.weights[:, :1] * rows[lattice.vertices[:, 0]]
        for k in range(1, lattice.dims + 1):
            result += lattice.weights[:, k, None] * rows[lattice.vertices[:, k]]
        return result

    def update(self, unary: Tensor, terms: Sequence[tuple[TorchLattice, Tensor, Tensor | None]]) -> Tensor:
        x = unary.clone()
        for lattice, rows, gain in terms:
            message = self.slice(lattice, rows)
            x += message if gain is None else message * gain
        return x.softmax(1)


def _features(term: PairwiseTerm, image: Tensor | None, size: tuple[int, int], like: Tensor) -> Tensor:
    """(dims, N) float32, divided by their sigmas."""
    import torch

    if term.features is not None:
        return torch.from_numpy(np.ascontiguousarray(term.features, np.float32)).to(like.device)
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float32, device=like.device) for n in size), indexing="ij"
    )
    sigma_x, sigma_y = term.sigma_x_y()
    planes = [x / sigma_x, y / sigma_y]
    if term.sigma_channels is not None:
        if image is None:
            raise CrfError("sigma_channels need an image")
        sigmas = term.channel_sigmas(image.shape[2])
        assert sigmas is not None
        planes += [image[:, :, c].to(torch.float32) / float(s) for c, s in enumerate(sigmas)]
    return torch.stack([plane.reshape(-1) for plane in planes])
