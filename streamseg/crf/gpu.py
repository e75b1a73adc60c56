"""The same mean field on torch tensors: plain torch operations, or Triton kernels where they can run.

The torch operations run on CPU tensors too and are tested on them; the kernels are tested in Triton's
interpreter, and compiled for GPUs that are not there (tools/device/aot_triton.py). Neither has been run on a
GPU yet: tests/gpu/test_crf_gpu.py is what to run first on a machine with one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np

from streamseg.crf.params import CrfParams, Normalisation, PairwiseTerm, terms_of
from streamseg.crf.torch_lattice import Bounds, TorchLattice
from streamseg.errors import CrfError
from streamseg.types import Size

if TYPE_CHECKING:
    from torch import Tensor

Kernels = Literal["auto", "torch", "triton"]

_FAR_BELOW = -1e4  # the score of what cannot be: its probability is 0


class Steps(Protocol):
    """The three steps of filtering on a lattice, and the update; rows are float32 and contiguous.

    Rows of scores are `width(classes)` wide; what lies behind the classes is _FAR_BELOW in scores, and 0 in
    probabilities and in lattice rows.
    """

    def width(self, classes: int) -> int: ...

    def splat(self, lattice: TorchLattice, values: Tensor) -> Tensor: ...

    def blur(self, lattice: TorchLattice, rows: Tensor) -> Tensor: ...

    def slice(self, lattice: TorchLattice, rows: Tensor) -> Tensor: ...

    def update(
        self, unary: Tensor, terms: Sequence[tuple[TorchLattice, Tensor, Tensor | None]], classes: int
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
    no fixed order, so two runs may differ, by less than 1e-5. `auto` takes Triton on a CUDA device where it
    is installed. Raises CrfError for shapes and parameters that cannot be, and NaN.
    """
    iterations = checked(logits, image, params, iterations)
    steps = steps_for(kernels, logits.is_cuda)
    terms = [Term(t, logits, image, steps) for t in terms_of(params)]
    q, is_finite = inferred(logits, terms, steps, iterations)
    if not bool(is_finite):
        raise CrfError("unary holds NaN or infinity")
    return q


def checked(
    logits: Tensor,
    image: Tensor | None,
    params: CrfParams | Sequence[PairwiseTerm],
    iterations: int | None,
) -> int:
    """The number of iterations; raises CrfError for shapes that do not fit."""
    if logits.ndim != 3 or (image is not None and image.shape[:2] != logits.shape[1:]):
        raise CrfError(f"logits: must be (C, H, W) of the image's size; is {tuple(logits.shape)}")
    if iterations is not None:
        return iterations
    return params.iterations if isinstance(params, CrfParams) else 10


def inferred(logits: Tensor, terms: Sequence[Term], steps: Steps, iterations: int) -> tuple[Tensor, Tensor]:
    """Probabilities (C, H, W), and on the device whether the logits are finite: nothing is read from it."""
    import torch
    from torch.nn import functional

    classes, height, width = logits.shape
    unary = logits.reshape(classes, -1).T.to(torch.float32)  # (N, C)
    best = unary.amax(1, keepdim=True)  # NaN where there is one
    is_finite = torch.isfinite(best).all()
    unary = (unary - best).clamp_min(_FAR_BELOW)
    behind = steps.width(classes) - classes
    unary = functional.pad(unary, (0, behind), value=_FAR_BELOW).contiguous()
    q = torch.softmax(unary, 1)
    for _ in range(iterations):
        q = steps.update(unary, [(term.lattice, term.rows(q), term.gain) for term in terms], classes)
    return q[:, :classes].T.reshape(classes, height, width).contiguous(), is_finite


def steps_for(kernels: Kernels, is_cuda: bool) -> Steps:
    if kernels == "triton" or (kernels == "auto" and is_cuda and triton_available()):
        from streamseg.crf.triton_kernels import TritonSteps

        return TritonSteps()
    return TorchSteps()


class Term:
    """One pairwise term's lattice, norm and compatibility, on the device of the logits."""

    def __init__(
        self,
        term: PairwiseTerm,
        logits: Tensor,
        image: Tensor | None,
        steps: Steps,
        capacity: int | None = None,
        compatibility: float | Tensor | None = None,
    ) -> None:
        """With capacity and compatibility nothing is read from the device or copied to it."""
        import torch

        size = (logits.shape[1], logits.shape[2])
        self.looks_at_image = term.sigma_channels is not None
        self.normalisation = term.normalisation
        self.steps = steps
        features, bounds = _features(term, image, size, logits)
        self.lattice = TorchLattice(features, bounds, capacity)
        self.compatibility = _compatibility(term, logits, steps) if compatibility is None else compatibility
        ones = torch.ones((len(self.lattice.vertices), 1), device=logits.device)
        sums = steps.slice(self.lattice, steps.blur(self.lattice, steps.splat(self.lattice, ones)))
        self.norm = self._norm(sums * self.lattice.alpha)  # (N, 1)
        sliced = term.normalisation in (Normalisation.AFTER, Normalisation.SYMMETRIC)
        self.gain = self.norm.contiguous() if sliced else None  # of what is sliced

    def rows(self, q: Tensor) -> Tensor:
        """The term's blurred rows, compatibility included: what an update slices."""
        if self.normalisation in (Normalisation.BEFORE, Normalisation.SYMMETRIC):
            q = (q * self.norm).contiguous()
        rows = self.steps.blur(self.lattice, self.steps.splat(self.lattice, q)) * self.lattice.alpha
        by = self.compatibility
        if not isinstance(by, float) and by.ndim == 2:
            return -(rows @ by.T).contiguous()
        return rows * by

    def _norm(self, sums: Tensor) -> Tensor:
        if self.normalisation == Normalisation.NONE:
            return sums.new_ones(sums.shape)
        if self.normalisation == Normalisation.SYMMETRIC:
            return (sums + 1e-20).rsqrt()
        return (sums + 1e-20).reciprocal()


class TorchSteps:
    """The steps in torch operations, on any device."""

    def width(self, classes: int) -> int:
        return classes

    def splat(self, lattice: TorchLattice, values: Tensor) -> Tensor:
        rows = values.new_zeros((lattice.capacity + 1, values.shape[1]))
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

    def update(
        self, unary: Tensor, terms: Sequence[tuple[TorchLattice, Tensor, Tensor | None]], classes: int
    ) -> Tensor:
        x = unary.clone()
        for lattice, rows, gain in terms:
            message = self.slice(lattice, rows)
            x += message if gain is None else message * gain
        return x.softmax(1)


def _compatibility(term: PairwiseTerm, logits: Tensor, steps: Steps) -> float | Tensor:
    """Weight times compatibility: a number for Potts, else (width,) or (width, width) on the device."""
    import torch
    from torch.nn import functional

    classes = logits.shape[0]
    by = term.compatibility_array(classes)
    if by.ndim == 0:
        return float(by)
    behind = steps.width(classes) - classes
    return functional.pad(torch.from_numpy(by).to(logits.device), (0, behind) * by.ndim)


def _features(
    term: PairwiseTerm, image: Tensor | None, size: Size, like: Tensor
) -> tuple[Tensor, Bounds | None]:
    """(dims, N) float32, divided by their sigmas; and their least and largest values, where known."""
    import torch

    if term.features is not None:
        return torch.from_numpy(np.ascontiguousarray(term.features, np.float32)).to(like.device), None
    y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float32, device=like.device) for n in size), indexing="ij"
    )
    sigma_x, sigma_y = term.sigma_x_y()
    planes = [x / sigma_x, y / sigma_y]
    bounds = [(0.0, (size[1] - 1) / sigma_x), (0.0, (size[0] - 1) / sigma_y)]
    if term.sigma_channels is not None:
        if image is None:
            raise CrfError("sigma_channels need an image")
        sigmas = term.channel_sigmas(image.shape[2])
        assert sigmas is not None
        planes += [image[:, :, c].to(torch.float32) / float(s) for c, s in enumerate(sigmas)]
        bounds += [(0.0, 255.0 / float(s)) for s in sigmas]
    known = image is None or term.sigma_channels is None or image.dtype == torch.uint8
    return torch.stack([plane.reshape(-1) for plane in planes]), bounds if known else None
