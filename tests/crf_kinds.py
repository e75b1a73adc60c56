"""Small random scenes of ten kinds, each a checked job: what the CRF must compute exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.crf.params import Job, Normalisation, PairwiseTerm, make_job

Rng = np.random.Generator
Array = npt.NDArray[Any]


def job_of(kind: str, seed: int, **options: Any) -> Job:
    """One scene; the same kind and seed give the same. Options are those of make_job."""
    rng = np.random.default_rng([list(KINDS).index(kind), seed])
    logits, image, terms, iterations = KINDS[kind](rng)
    given = {"iterations": iterations, "size": logits.shape[1:], **options}
    return make_job(np.asarray(logits, np.float32), image, terms, **given)


def _size(rng: Rng, most: int = 34) -> tuple[int, int]:
    height, width = rng.integers(6, most, 2)
    return int(height), int(width)


def _picture(rng: Rng, height: int, width: int, noise: float = 6.0) -> Array:
    """Coarse colours with noise."""
    cell = int(rng.integers(3, 12))
    coarse = rng.integers(30, 226, (-(-height // cell), -(-width // cell), 3))
    even = coarse.repeat(cell, 0).repeat(cell, 1)[:height, :width]
    return np.clip(even + rng.normal(0, noise, even.shape), 0, 255).astype(np.uint8)


def _terms(rng: Rng, strength: float = 1.0, **same: Any) -> list[PairwiseTerm]:
    smooth = PairwiseTerm(strength * float(rng.uniform(0.5, 4)), float(rng.uniform(1, 4)), **same)
    sigma_xy, sigma_rgb = float(rng.uniform(5, 80)), float(rng.uniform(3, 25))
    return [smooth, PairwiseTerm(strength * float(rng.uniform(1, 10)), sigma_xy, sigma_rgb, **same)]


def _iterations(rng: Rng) -> int:
    return int(rng.integers(1, 13))


def _scribbles(rng: Rng) -> Any:
    """Most pixels unknown, a few strokes."""
    height, width = _size(rng)
    classes = int(rng.integers(2, 5))
    logits = np.full((classes, height, width), -np.log(classes))
    sure = float(rng.uniform(0.5, 0.95))
    for label in range(classes):
        y, x = rng.integers(0, height), rng.integers(0, width)
        stroke = np.s_[y : y + 3, x : x + 8]
        logits[(slice(None), *stroke)] = np.log((1 - sure) / max(classes - 1, 1))
        logits[(label, *stroke)] = np.log(sure)
    return logits, _picture(rng, height, width), _terms(rng), _iterations(rng)


def _undecided(rng: Rng) -> Any:
    """Every pixel nearly undecided."""
    height, width = _size(rng)
    logits = rng.normal(0, float(10 ** rng.uniform(-3, -0.5)), (int(rng.integers(2, 7)), height, width))
    return logits, _picture(rng, height, width), _terms(rng, 0.5), _iterations(rng)


def _peaked(rng: Rng) -> Any:
    """A network's logits: large, smooth, mostly sure."""
    height, width = _size(rng)
    classes = int(rng.integers(3, 22))
    rough = rng.normal(0, 6, (classes, -(-height // 4), -(-width // 4)))
    logits = rough.repeat(4, 1).repeat(4, 2)[:, :height, :width] + rng.normal(
        0, 0.5, (classes, height, width)
    )
    return logits, _picture(rng, height, width), _terms(rng), _iterations(rng)


def _soft_masks(rng: Rng) -> Any:
    """A foreground's probability that varies slowly, squeezed towards a half."""
    height, width = _size(rng)
    wave = np.kron(rng.normal(size=(-(-height // 6), -(-width // 6))), np.ones((6, 6)))[:height, :width]
    squeeze = float(rng.uniform(0.05, 0.9))
    p = 0.5 + squeeze * (1 / (1 + np.exp(-4 * wave)) - 0.5)
    return np.log(np.stack([1 - p, p])), _picture(rng, height, width), _terms(rng), _iterations(rng)


def _volumes(rng: Rng) -> Any:
    """Voxels, by features of their own."""
    depth, height, width = (int(n) for n in rng.integers(3, 10, 3))
    classes = int(rng.integers(2, 5))
    grid = np.indices((depth, height, width)).reshape(3, -1)
    grey = np.kron(rng.uniform(0, 255, (depth, -(-height // 3), -(-width // 3))), np.ones((1, 3, 3)))
    grey = grey[:, :height, :width].reshape(1, -1)
    near = PairwiseTerm(float(rng.uniform(1, 4)), features=np.float32(grid / rng.uniform(1, 4)))
    alike = np.concatenate([grid / rng.uniform(2, 10), grey / rng.uniform(5, 40)])
    terms = [near, PairwiseTerm(float(rng.uniform(1, 6)), features=np.float32(alike))]
    return rng.normal(0, 1, (classes, 1, depth * height * width)), None, terms, _iterations(rng)


def _many_classes(rng: Rng) -> Any:
    height, width = _size(rng, 16)
    logits = rng.normal(0, 2, (int(rng.integers(30, 151)), height, width))
    return logits, _picture(rng, height, width), _terms(rng), int(rng.integers(1, 6))


def _thin(rng: Rng) -> Any:
    """One pixel wide or high."""
    length, classes = int(rng.integers(1, 400)), int(rng.integers(1, 5))
    size = (1, length) if rng.random() < 0.5 else (length, 1)
    return rng.normal(0, 1, (classes, *size)), _picture(rng, *size), _terms(rng), _iterations(rng)


def _strong_and_weak(rng: Rng) -> Any:
    """Terms that decide everything, or nothing; also negative ones, without and with every normalisation."""
    height, width = _size(rng)
    strength = float(10 ** rng.uniform(-3, 1.5)) * (1 if rng.random() < 0.8 else -0.05)
    normalisation = Normalisation(int(rng.integers(0, 4)))
    strength *= 0.02 if normalisation == Normalisation.NONE else 1.0
    logits = rng.normal(0, 2, (int(rng.integers(2, 12)), height, width))
    return logits, _picture(rng, height, width), _terms(rng, strength, normalisation=normalisation), 5


def _matrices(rng: Rng) -> Any:
    """Penalties per pair of classes, or factors per class."""
    height, width = _size(rng)
    classes = int(rng.integers(2, 9))
    matrix = rng.uniform(0, 1, (classes, classes))
    np.fill_diagonal(matrix, 0)
    given = 0.5 * (matrix + matrix.T) if rng.random() < 0.7 else rng.uniform(0, 1.5, classes)
    logits = rng.normal(0, 1.5, (classes, height, width))
    return logits, _picture(rng, height, width), _terms(rng, compatibility=given), _iterations(rng)


def _certain(rng: Rng) -> Any:
    """One-hot: -inf for all classes but one, on all pixels or on most of them."""
    height, width = _size(rng)
    classes = int(rng.integers(2, 12))
    labels = rng.integers(0, classes, (-(-height // 4), -(-width // 4))).repeat(4, 0).repeat(4, 1)
    own = labels[:height, :width] == np.arange(classes)[:, None, None]
    logits = np.where(own, 0.0, -np.inf)
    logits[:, rng.random((height, width)) < rng.choice([0.0, 0.3, 0.9])] = 0.0
    return logits, _picture(rng, height, width), _terms(rng), _iterations(rng)


Kind = Callable[[Rng], tuple[Array, Array | None, Sequence[PairwiseTerm], int]]
KINDS: dict[str, Kind] = {
    "scribbles": _scribbles,
    "undecided": _undecided,
    "peaked": _peaked,
    "soft masks": _soft_masks,
    "volumes": _volumes,
    "many classes": _many_classes,
    "one pixel wide": _thin,
    "strong and weak terms": _strong_and_weak,
    "matrices": _matrices,
    "certain": _certain,
}
