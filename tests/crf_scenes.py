"""Pictures of coloured patches with noisy scores: what the CRF's tests work on."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

TWO_RUNS_DIFFER = 1e-5
"""By how much probabilities of two runs may differ on a GPU, whose sums have no fixed order."""


def scene(
    height: int, width: int, classes: int, seed: int = 0
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Logits (C, H, W), a picture (H, W, 3) and the labels (H, W) that it was painted from."""
    rng = np.random.default_rng([seed, height, width, classes])
    seeds = rng.uniform((0, 0), (height, width), (3 * classes, 2))
    y, x = np.mgrid[:height, :width]
    distance = (y[None] - seeds[:, 0, None, None]) ** 2 + (x[None] - seeds[:, 1, None, None]) ** 2
    labels = distance.argmin(0) % classes
    colours = rng.integers(20, 236, (classes, 3))
    shade = 10 * np.sin(x / 9.0)[:, :, None]
    image = np.clip(colours[labels] + shade + rng.normal(0, 3, (height, width, 3)), 0, 255).astype(np.uint8)
    rough = rng.normal(0, 1.5, (classes, -(-height // 4), -(-width // 4)))
    logits = (
        2.0 * (labels == np.arange(classes)[:, None, None])
        + rough.repeat(4, 1).repeat(4, 2)[:, :height, :width]
    )
    return np.ascontiguousarray(logits, np.float32), image, labels


def agreement(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> float:
    """Share of pixels with the same most probable class."""
    return float((a.argmax(0) == b.argmax(0)).mean())
