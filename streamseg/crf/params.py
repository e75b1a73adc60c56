"""What a fully connected CRF is made of: kernels, weights, compatibilities, and how exactly to infer."""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from streamseg.errors import CrfError
from streamseg.types import F32

Quality = Literal["exact", "balanced", "fast"]
Compatibility = tuple[float, ...] | tuple[tuple[float, ...], ...] | npt.NDArray[np.floating]


class Normalisation(enum.IntEnum):
    """What a kernel k with row sums n is divided by; SYMMETRIC is what DeepLab and the reference use."""

    NONE = 0
    BEFORE = 1  # k(i, j) / n(j)
    AFTER = 2  # k(i, j) / n(i)
    SYMMETRIC = 3  # k(i, j) / sqrt(n(i) n(j))


class QualitySetting(NamedTuple):
    """How a quality is inferred."""

    lattice_stride: int  # mean field runs on every stride-th pixel of both axes; the last step on all
    most_iterations: int | None  # at most so many, whatever the parameters say


QUALITIES: dict[Quality, QualitySetting] = {
    "exact": QualitySetting(1, None),
    "balanced": QualitySetting(2, 5),
    "fast": QualitySetting(4, 5),
}


@dataclass(frozen=True, slots=True, eq=False)
class PairwiseTerm:
    """One pairwise term: weight · μ(l, l') · k, k a Gaussian of unit width over a feature vector per pixel.

    The features are either `features`, (dims, N) float32, already divided by their sigmas, N pixels in row
    order; or the position divided by `sigma_xy` (pixels; one number or x, y) followed, where `sigma_channels`
    (levels; one number for all channels, or one for each) is given, by the picture's channels.

    compatibility: None for Potts; (C,) a factor per class, so that equal labels i, i are rewarded by
    weight · c[i]; or (C, C) the penalty μ(l, l') itself (Krähenbühl & Koltun 2011, section 2).
    """

    weight: float
    sigma_xy: float | tuple[float, float] | None = None
    sigma_channels: float | tuple[float, ...] | None = None
    features: F32 | None = None
    compatibility: Compatibility | None = None
    normalisation: Normalisation = Normalisation.SYMMETRIC

    def __post_init__(self) -> None:
        if (self.features is None) == (self.sigma_xy is None):
            raise CrfError("a pairwise term has either features or sigma_xy")
        if self.features is not None and self.sigma_channels is not None:
            raise CrfError("sigma_channels: features are divided by their sigmas already")
        if not np.isfinite(self.weight):
            raise CrfError(f"weight: must be finite, is {self.weight}")

    def compatibility_array(self, classes: int) -> F32:
        """Weight times compatibility: () for Potts, (C,) or (C, C) float32."""
        if self.compatibility is None:
            return np.full((), self.weight, np.float32)
        array = np.asarray(self.compatibility, np.float32) * np.float32(self.weight)
        if array.shape not in ((classes,), (classes, classes)):
            raise CrfError(
                f"compatibility: shape {array.shape} does not fit {classes} classes; "
                f"({classes},) or ({classes}, {classes}) is wanted"
            )
        return np.ascontiguousarray(array, np.float32)

    def channel_sigmas(self, channels: int) -> F32 | None:
        """One sigma per channel, or None where the picture is not looked at."""
        if self.sigma_channels is None:
            return None
        sigmas = np.atleast_1d(np.asarray(self.sigma_channels, np.float32))
        if sigmas.shape not in ((1,), (channels,)):
            raise CrfError(f"sigma_channels: {sigmas.size} given, the picture has {channels} channels")
        return np.ascontiguousarray(np.broadcast_to(sigmas, (channels,)))

    def sigma_x_y(self) -> tuple[float, float]:
        """The position's sigmas in pixels, x first."""
        sigmas = np.broadcast_to(np.asarray(self.sigma_xy, np.float64), (2,))
        return float(sigmas[0]), float(sigmas[1])


@dataclass(frozen=True, slots=True)
class CrfParams:
    """DeepLab's two kernels: appearance (position, colour) and smoothness (position), both Potts by default.

    The defaults are those of DeepLab-LargeFOV. Sigmas are in pixels and colour levels; for a picture that is
    not RGB, `appearance_sigma_rgb` holds one sigma for all channels or one for each. `compatibility` is that
    of PairwiseTerm and multiplies both weights. A weight of 0 leaves its kernel out.
    """

    smoothness_weight: float = 3.0
    smoothness_sigma: float = 3.0
    appearance_weight: float = 4.0
    appearance_sigma_xy: float = 121.0
    appearance_sigma_rgb: float | tuple[float, ...] = 5.0
    iterations: int = 10
    compatibility: tuple[float, ...] | tuple[tuple[float, ...], ...] | None = None
    normalisation: Normalisation = Normalisation.SYMMETRIC

    def __post_init__(self) -> None:
        if self.iterations < 0:
            raise CrfError(f"iterations: must be 0 or more, is {self.iterations}")

    def terms(self) -> tuple[PairwiseTerm, ...]:
        """The pairwise terms these parameters stand for."""
        smoothness = PairwiseTerm(
            self.smoothness_weight,
            self.smoothness_sigma,
            compatibility=self.compatibility,
            normalisation=self.normalisation,
        )
        appearance = PairwiseTerm(
            self.appearance_weight,
            self.appearance_sigma_xy,
            self.appearance_sigma_rgb,
            compatibility=self.compatibility,
            normalisation=self.normalisation,
        )
        return tuple(term for term in (smoothness, appearance) if term.weight != 0)


def terms_of(params: CrfParams | Sequence[PairwiseTerm]) -> tuple[PairwiseTerm, ...]:
    """The pairwise terms of either form of parameters."""
    return params.terms() if isinstance(params, CrfParams) else tuple(params)
