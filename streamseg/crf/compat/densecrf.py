"""What pydensecrf.densecrf has: unaries, compatibilities and the two classes of the CRF."""

from __future__ import annotations

import enum
import threading
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.crf.compat.arguments import WrongType, array, matrix, real, whole, widths
from streamseg.crf.compat.eigen import MatrixXf
from streamseg.crf.native import Workspace, run_job
from streamseg.crf.params import Image, Normalisation, PairwiseTerm, make_job
from streamseg.errors import CrfError
from streamseg.types import F32, Size

_MOST_LABELS, _MOST_VARIABLES, _MOST_TERMS = 65536, 1 << 28, 256
_PICTURE_CHANNELS = 13  # with the position 15 features: more are handed over as features


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


class Unary:
    """What DenseCRF.setUnary takes: `logits`, −energy, (labels, variables) float32, its own memory."""

    logits: F32


class ConstUnary(Unary):
    """A given unary energy, (labels, variables) float32."""

    def __init__(self, u: npt.NDArray[Any]) -> None:
        self.logits = _negated(matrix(u, "unary energy"))


class LogisticUnary(Unary):
    """The energy of logistic regression: weights (labels, features) times features (features, variables)."""

    def __init__(self, L: npt.NDArray[Any], f: npt.NDArray[Any]) -> None:
        weights, features = matrix(L, "logistic weights"), matrix(f, "logistic features")
        if weights.shape[1] != features.shape[0]:
            raise CrfError(f"logistic features: {weights.shape} and {features.shape} do not fit")
        self.logits = _negated(weights @ features)


class DenseCRF:
    """A fully connected CRF over `nvar` variables with `nlabels` labels each.

    Threads that share one take turns: each call is whole. `threads` is this package's own: how many cores
    inference takes.
    """

    def __init__(self, nvar: int, nlabels: int) -> None:
        self._size: Size = (1, whole(nvar, "nvar", 1, _MOST_VARIABLES))
        self._labels = whole(nlabels, "nlabels", 1, _MOST_LABELS)
        self._logits: F32 | None = None
        self._image: Image | None = None
        self._terms: list[PairwiseTerm] = []
        self._space = Workspace()
        self._lock = threading.RLock()  # guards everything above: one call at a time
        self.threads = 1

    def setUnary(self, u: Unary) -> None:
        if not isinstance(u, Unary):
            raise WrongType(f"setUnary: must be a ConstUnary or LogisticUnary; is {type(u).__name__}")
        wanted = (self._labels, self._size[0] * self._size[1])
        if u.logits.shape != wanted:
            raise CrfError(f"Bad shape for unary energy (Need {wanted}, got {u.logits.shape})")
        with self._lock:
            self._logits = u.logits

    def setUnaryEnergy(self, u: npt.NDArray[Any], f: npt.NDArray[Any] | None = None) -> None:
        """Set the unary energy −log p, (nlabels, nvar) float32; with `f`, that of a logistic regression."""
        self.setUnary(ConstUnary(u) if f is None else LogisticUnary(u, f))

    def addPairwiseEnergy(
        self,
        features: npt.NDArray[Any],
        compat: Any = 3,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add a term over features (dims, nvar) float32, already divided by their widths."""
        given = matrix(features, "pairwise energy")
        variables = self._size[0] * self._size[1]
        if given.shape[1] != variables:
            raise CrfError(f"Bad shape for pairwise energy (Need (?, {variables}), got {given.shape})")
        bounds = np.stack([given.min(1), given.max(1)], 1)
        self._add(compat, kernel, normalization, bounds, features=given.copy(order="C"))

    def inference(self, niter: int) -> F32:
        """Mean field from the unary's soft-max: probabilities (nlabels, nvar)."""
        return self._run(whole(niter, "niter", 0, 100_000), None)

    def startInference(self) -> tuple[F32, F32, F32]:
        """Q as the unary alone gives it, and two arrays that stepInference takes as pydensecrf does.

        Without a unary Q is uniform, as inference begins (pydensecrf's startInference gives zeros).
        """
        return self._run(0, None), MatrixXf(), MatrixXf()

    def stepInference(self, Q: npt.NDArray[Any], tmp1: Any = None, tmp2: Any = None) -> None:
        """Do one iteration on Q, in place; tmp1 and tmp2 are not used."""
        if not isinstance(Q, np.ndarray):
            raise WrongType(f"Q: must be an array, which is changed in place; is {type(Q).__name__}")
        if not Q.flags.writeable:
            raise CrfError("Q: is changed in place, and must not be read-only")
        Q[...] = self._run(1, self._probabilities(Q))

    def klDivergence(self, Q: npt.NDArray[Any]) -> float:
        """KL divergence of Q from the posterior, up to the posterior's constant log-partition function."""
        q = self._probabilities(Q)
        with self._lock:
            result = _sum_of_products(q, np.log(np.maximum(q, 1e-20)))
            if self._logits is not None:
                result -= _sum_of_products(q, self._logits)
            for term in self._terms:
                job = make_job(
                    q.reshape(self._labels, *self._size),
                    None if term.sigma_channels is None else self._image,
                    [term],
                    size=self._size,
                    iterations=1,
                    filter_only=True,
                    threads=self.threads,
                )
                message = run_job(job).probabilities
                assert message is not None
                result -= _sum_of_products(q, message.reshape(q.shape))
        return result

    def _add(self, compat: Any, kernel: int, normalization: int, bounds: F32, **where: Any) -> None:
        """Add a term, refused here if it cannot be computed. bounds: least and most of each feature."""
        whole(kernel, "kernel", 0, len(KernelType) - 1)
        norm = Normalisation(whole(normalization, "normalization", 0, len(NormalizationType) - 1))
        weight, penalties = _compatibility(compat, self._labels)
        with self._lock:
            if len(self._terms) == _MOST_TERMS:
                raise CrfError(f"more than {_MOST_TERMS} pairwise terms")
            # The library knows what it can do: it is asked with the two extreme variables alone.
            extreme = PairwiseTerm(weight, features=bounds, compatibility=penalties, normalisation=norm)
            logits = np.zeros((self._labels, 1, 2), np.float32)
            try:
                run_job(make_job(logits, None, [extreme], iterations=1, filter_only=True))
            except CrfError as error:
                raise CrfError(str(error).removeprefix("term 0: ")) from None
            self._terms.append(PairwiseTerm(weight, compatibility=penalties, normalisation=norm, **where))

    def _probabilities(self, Q: npt.NDArray[Any]) -> F32:
        q, wanted = matrix(Q, "Q"), (self._labels, self._size[0] * self._size[1])
        if q.shape != wanted:
            raise CrfError(f"Bad shape for Q (Need {wanted}, got {q.shape})")
        if not np.isfinite([q.min(), q.max()]).all():
            raise CrfError("Q: holds NaN or infinity")
        return np.ascontiguousarray(q)

    def _run(self, iterations: int, start: F32 | None) -> F32:
        shape = (self._labels, *self._size)
        threads = whole(self.threads, "threads", 1, 1024)
        with self._lock:
            logits = self._logits
            if logits is None:  # every energy is 0, as in pydensecrf
                logits = np.zeros((self._labels, self._size[0] * self._size[1]), np.float32)
            if not self._terms:
                return _soft_max(logits)
            job = make_job(
                logits.reshape(shape),
                self._image,
                self._terms,
                size=self._size,
                iterations=iterations,
                start=None if start is None else start.reshape(shape),
                keep_lattice=True,
                threads=threads,
            )
            result = run_job(job, self._space).probabilities
        assert result is not None
        return result.reshape(self._labels, -1)


class DenseCRF2D(DenseCRF):
    """A fully connected CRF over the pixels of a picture; width comes first, as in pydensecrf."""

    def __init__(self, w: int, h: int, nlabels: int) -> None:
        width, height = whole(w, "w", 1, _MOST_VARIABLES), whole(h, "h", 1, _MOST_VARIABLES)
        super().__init__(width * height, nlabels)
        self._size = (height, width)

    def addPairwiseGaussian(
        self,
        sxy: float | tuple[float, float],
        compat: Any,
        kernel: int = DIAG_KERNEL,
        normalization: int = NORMALIZE_SYMMETRIC,
    ) -> None:
        """Add the smoothness kernel; sxy in pixels, one number or x, y."""
        x, y = widths(sxy, "sxy", 2)
        self._add(compat, kernel, normalization, self._bounds(x, y), sigma_xy=(x, y))

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
        picture = array(rgbim, "rgbim")
        if picture.ndim != 3 or picture.shape[:2] != self._size or not picture.shape[2]:
            raise CrfError(f"Bad shape for pairwise bilateral (Need {(*self._size, 3)}, got {picture.shape})")
        if picture.dtype != np.uint8:
            raise CrfError(
                f"rgbim: must be uint8; is {picture.dtype}. For other pictures add "
                "utils.create_pairwise_bilateral's features with addPairwiseEnergy"
            )
        x, y = widths(sxy, "sxy", 2)
        channels = widths(srgb, "srgb", picture.shape[2])
        bounds = self._bounds(x, y, *channels)
        with self._lock:
            known = self._image is not None and np.array_equal(self._image, picture)
            if not known and (self._image is not None or len(channels) > _PICTURE_CHANNELS):
                # The library has one picture: the features of another stand on their own.
                features = _picture_features(x, y, channels, picture)
                self._add(compat, kernel, normalization, bounds, features=features)
                return
            self._add(compat, kernel, normalization, bounds, sigma_xy=(x, y), sigma_channels=channels)
            if not known:
                self._image = picture.copy(order="C")

    def _bounds(self, sx: float, sy: float, *sigmas: float) -> F32:
        """Least and most of each feature."""
        most = [self._size[1] / sx, self._size[0] / sy, *(255 / sigma for sigma in sigmas)]
        with np.errstate(over="ignore"):
            return np.stack([np.zeros(len(most)), most], 1).astype(np.float32)


def _compatibility(compat: Any, labels: int) -> tuple[float, F32 | None]:
    """pydensecrf's compat as weight and compatibility: it subtracts vector · Q and symmetric matrix · Q."""
    if isinstance(compat, Number):
        return real(compat, "compat"), None
    given = array(compat, "compat")
    if given.shape not in ((labels,), (labels, labels)):
        raise CrfError(f"Bad shape for compat (Need ({labels},) or ({labels}, {labels}), got {given.shape})")
    if given.dtype != np.float32:
        raise CrfError(f"compat: must be float32; is {given.dtype}")
    if given.ndim == 1:
        return -1.0, given.copy()
    return 1.0, 0.5 * (given + given.T)


def _picture_features(sx: float, sy: float, sigmas: tuple[float, ...], picture: Image) -> F32:
    """Position and channels of a picture, each divided by its sigma: (2 + channels, N)."""
    height, width, channels = picture.shape
    features = np.empty((2 + channels, height, width), np.float32)
    features[0] = np.arange(width, dtype=np.float32) / np.float32(sx)
    features[1] = (np.arange(height, dtype=np.float32) / np.float32(sy))[:, None]
    for channel, sigma in enumerate(sigmas):
        np.divide(picture[:, :, channel], np.float32(sigma), out=features[2 + channel])
    return features.reshape(2 + channels, -1)


def _negated(energy: F32) -> F32:
    """−energy, in memory of its own; +infinity is probability 0."""
    if not energy.min() > -np.inf:
        raise CrfError("unary energy: holds NaN or −infinity")
    return np.asarray(np.negative(energy, order="C"), np.float32)


def _soft_max(logits: F32) -> F32:
    q = np.maximum(logits, np.float32(-1e30))  # where every label is forbidden, all are as probable
    q -= q.max(0)
    np.exp(q, out=q)
    q /= q.sum(0)
    return q


def _sum_of_products(a: F32, b: F32) -> float:
    return float(np.einsum("ij,ij->", a, b, dtype=np.float64))
