"""What pydensecrf.densecrf has: unaries, compatibilities and the two classes of the CRF."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.crf.native import Workspace, run_job
from streamseg.crf.params import Normalisation, PairwiseTerm, make_job
from streamseg.errors import CrfError
from streamseg.types import F32, Size


class KernelType(enum.IntEnum):
    """How much of a kernel can be learned; inference is the same for all three."""

    CONST_KERNEL = 0
    DIAG_KERNEL = 1
    FULL_KERNEL = 2


class NormalizationType(enum.IntEnum):
    """What a kernel is divided by."""

    NO_NORMALIZATION = 0
    NORMALIZE_BEFORE = 1
    NORMALIZE_AFTER = 2
    NORMALIZE_SYMMETRIC = 3


CONST_KERNEL = KernelType.CONST_KERNEL
DIAG_KERNEL = KernelType.DIAG_KERNEL
FULL_KERNEL = KernelType.FULL_KERNEL
NO_NORMALIZATION = NormalizationType.NO_NORMALIZATION
NORMALIZE_BEFORE = NormalizationType.NORMALIZE_BEFORE
NORMALIZE_AFTER = NormalizationType.NORMALIZE_AFTER
NORMALIZE_SYMMETRIC = NormalizationType.NORMALIZE_SYMMETRIC


class ConstUnary:
    """A given unary energy, (labels, variables) float32."""

    def __init__(self, u: npt.NDArray[Any]) -> None:
        self.energy = _matrix(u, "unary energy")


class LogisticUnary:
    """The energy of logistic regression: weights (labels, features) times features (features, variables)."""

    def __init__(self, L: npt.NDArray[Any], f: npt.NDArray[Any]) -> None:
        self.energy = _matrix(L, "logistic weights") @ _matrix(f, "logistic features")


class DenseCRF:
    """A fully connected CRF over `nvar` variables with `nlabels` labels each; one thread's at a time.

    `threads` is this package's own: how many cores inference takes.
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._size: Size = (1, int(nvar))
        self._labels = int(nlabels)
        self._unary: F32 | None = None
        self._image: npt.NDArray[Any] | None = None
        self._terms: list[PairwiseTerm] = []
        self._space = Workspace()
        self.threads = 1

    def setUnary(self, u: ConstUnary | LogisticUnary) -> None:
        self.setUnaryEnergy(u.energy)

    def setUnaryEnergy(self, u: npt.NDArray[Any], f: npt.NDArray[Any] | None = None) -> None:
        """Set the unary energy −log p, (nlabels, nvar) float32; with `f`, that of a logistic regression."""
        energy = _matrix(u, "unary energy") if f is None else LogisticUnary(u, f).energy
        wanted = (self._labels, self._size[0] * self._size[1])
        if energy.shape != wanted:
            raise CrfError(f"Bad shape for unary energy (Need {wanted}, got {energy.shape})")
        self._unary = energy

    def addPairwiseEnergy(
        self,
        features: npt.NDArray[Any],
        compat: Any = 3,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a term over features (dims, nvar) float32, already divided by their widths."""
        matrix = _matrix(features, "pairwise energy")
        variables = self._size[0] * self._size[1]
        if matrix.shape[1] != variables:
            raise CrfError(f"Bad shape for pairwise energy (Need (?, {variables}), got {matrix.shape})")
        self._add(compat, kernel, normalization, features=matrix)

    def inference(self, niter: int) -> F32:
        """Mean field from the unary's soft-max: probabilities (nlabels, nvar)."""
        return self._run(niter, None)

    def startInference(self) -> tuple[F32, F32, F32]:
        """Q as the unary alone gives it, and two arrays that stepInference takes as pydensecrf does."""
        q = self._run(0, None)
        return q, np.empty_like(q), np.empty_like(q)

    def stepInference(self, Q: npt.NDArray[Any], tmp1: Any = None, tmp2: Any = None) -> None:
        """Do one iteration on Q, in place; tmp1 and tmp2 are not used."""
        Q[...] = self._run(1, self._probabilities(Q))

    def klDivergence(self, Q: npt.NDArray[Any]) -> float:
        """KL divergence of Q from the posterior, up to the posterior's constant log-partition function."""
        q = self._probabilities(Q)
        wide = q.astype(np.float64)
        result = float((wide * np.log(np.maximum(wide, 1e-20))).sum() + (wide * self._energy()).sum())
        for term in self._terms:
            job = make_job(
                q.reshape(self._labels, *self._size),
                self._image_of(term),
                [term],
                size=self._size,
                iterations=1,
                filter_only=True,
                threads=self.threads,
            )
            message = run_job(job).probabilities
            assert message is not None
            result -= float((wide * message.reshape(q.shape)).sum())
        return result

    def _add(self, compat: Any, kernel: int, normalization: int, **where: Any) -> None:
        KernelType(kernel)
        weight, matrix = _compatibility(compat, self._labels)
        self._terms.append(
            PairwiseTerm(weight, compatibility=matrix, normalisation=Normalisation(normalization), **where)
        )

    def _energy(self) -> F32:
        if self._unary is None:
            raise CrfError("no unary energy: call setUnaryEnergy first")
        return self._unary

    def _probabilities(self, Q: npt.NDArray[Any]) -> F32:
        q = np.ascontiguousarray(Q, np.float32)
        if q.shape != self._energy().shape:
            raise CrfError(f"Bad shape for Q (Need {self._energy().shape}, got {q.shape})")
        return q

    def _image_of(self, term: PairwiseTerm) -> npt.NDArray[Any] | None:
        return None if term.sigma_channels is None else self._image

    def _run(self, iterations: int, start: F32 | None) -> F32:
        logits = -self._energy()
        if not self._terms or iterations == 0:
            e = np.exp(logits - logits.max(0))
            return np.asarray(e / e.sum(0), np.float32)
        shape = (self._labels, *self._size)
        job = make_job(
            logits.reshape(shape),
            self._image,
            self._terms,
            size=self._size,
            iterations=iterations,
            start=None if start is None else start.reshape(shape),
            keep_lattice=True,
            threads=self.threads,
        )
        result = run_job(job, self._space).probabilities
        assert result is not None
        return result.reshape(self._labels, -1)


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over the pixels of a picture; width comes first, as in pydensecrf."""

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        super().__init__(w * h, nlabels)
        self._size = (int(h), int(w))

    def addPairwiseGaussian(
        self,
        sxy: float | tuple[float, float],
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the smoothness kernel; sxy in pixels, one number or x, y."""
        self._add(compat, kernel, normalization, sigma_xy=_pair(sxy))

    def addPairwiseBilateral(
        self,
        sxy: float | tuple[float, float],
        srgb: float | tuple[float, ...],
        rgbim: npt.NDArray[Any],
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the appearance kernel over rgbim (H, W, channels) uint8, not only of three channels."""
        picture = np.asarray(rgbim)
        if picture.ndim != 3 or picture.shape[:2] != self._size:
            raise CrfError(f"Bad shape for pairwise bilateral (Need {(*self._size, 3)}, got {picture.shape})")
        sigmas = tuple(float(s) for s in np.broadcast_to(srgb, (picture.shape[2],)))
        if self._image is None or np.array_equal(self._image, picture):
            self._image = np.ascontiguousarray(picture).copy()
            self._add(compat, kernel, normalization, sigma_xy=_pair(sxy), sigma_channels=sigmas)
            return
        # A second picture: its features stand on their own.
        y, x = np.mgrid[: self._size[0], : self._size[1]].astype(np.float32)
        sx, sy = _pair(sxy)
        planes = [x / sx, y / sy, *(np.moveaxis(picture, 2, 0) / np.array(sigmas)[:, None, None])]
        features = np.stack([np.asarray(p, np.float32).reshape(-1) for p in planes])
        self._add(compat, kernel, normalization, features=features)


def _compatibility(compat: Any, labels: int) -> tuple[float, F32 | None]:
    """pydensecrf's compat as weight and compatibility: it subtracts vector · Q and symmetric matrix · Q."""
    if np.ndim(compat) == 0:
        return float(compat), None
    array = np.asarray(compat, np.float32)
    if array.shape == (labels,):
        return -1.0, array
    if array.shape == (labels, labels):
        return 1.0, 0.5 * (array + array.T)
    raise CrfError(f"Bad shape for compat (Need ({labels},) or ({labels}, {labels}), got {array.shape})")


def _pair(sxy: Any) -> tuple[float, float]:
    x, y = np.broadcast_to(np.asarray(sxy, np.float64), (2,))
    return float(x), float(y)


def _matrix(array: npt.NDArray[Any], what: str) -> F32:
    if getattr(array, "dtype", None) != np.float32:
        raise CrfError(f"{what}: must be float32; is {getattr(array, 'dtype', type(array).__name__)}")
    if array.ndim != 2:
        raise CrfError(f"{what}: must have two dimensions; is {array.shape}")
    return np.ascontiguousarray(array).copy()
