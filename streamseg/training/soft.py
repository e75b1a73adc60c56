"""Soft labels: what teachers think of a picture, small enough to keep, moved with the picture, and the loss.

For each group of teachers that knows the same classes there is one plane a class, how far its log-probability
lies below the best one in 1/16, and one plane for the share of what the teachers saw that is one of these
classes at all, in 1/255. They lie on the grid of the student's logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from torch import Tensor

from streamseg.models.slim import OUTPUT_STRIDE
from streamseg.types import F32, U8, Size

STEPS = 16  # of a code for a factor e; 255 is a probability of 1e-7 of the best one's
_AT_ONCE = 64  # planes: OpenCV moves at most 127 together


class Known(NamedTuple):
    """The classes that a group of teachers knows, as the recipe numbers them, and the group's weight."""

    classes: tuple[int, ...]
    weight: float

    @property
    def planes(self) -> int:
        return len(self.classes) + 1


def encode(probabilities: F32) -> U8:
    """(n, h, w) of a group's classes, which sum to what it knows of a pixel → planes (h, w, n + 1)."""
    logs = np.log(np.maximum(probabilities, np.float32(1e-12)))
    codes = np.rint((logs.max(0) - logs) * STEPS)
    known = np.rint(probabilities.sum(0, keepdims=True) * 255)
    planes = np.clip(np.concatenate([codes, known]), 0, 255).astype(np.uint8)
    return np.ascontiguousarray(planes.transpose(1, 2, 0))


def soft_size(size: Size) -> Size:
    """The grid of soft labels of a picture or crop of `size`."""
    return size[0] // OUTPUT_STRIDE, size[1] // OUTPUT_STRIDE


def warp_soft(soft: U8, view: npt.NDArray[np.float64], crop_size: Size) -> U8:
    """Soft labels through the `view` that its picture goes through; nothing is known outside the picture."""
    matrix = on_grid(view)
    height, width = soft_size(crop_size)
    moved = np.empty((height, width, soft.shape[2]), np.uint8)
    for at in range(0, soft.shape[2], _AT_ONCE):
        some = slice(at, at + _AT_ONCE)
        planes = cv2.warpAffine(
            soft[..., some], matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
        moved[..., some] = planes.reshape(height, width, -1)
    return moved


def on_grid(view: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The view from cells to cells of the grid, where it is from pixels to pixels."""
    middle = np.full(2, (OUTPUT_STRIDE - 1) / 2)  # of a cell, in pixels
    offset = (view[:, :2] @ middle + view[:, 2] - middle) / OUTPUT_STRIDE
    return np.concatenate([view[:, :2], offset[:, None]], axis=1)


def paste_soft(soft: U8, donor: U8, mask: npt.NDArray[np.bool_]) -> None:
    """Put the donor's soft labels where `mask` (H, W) of the crop has its pixels, in place."""
    middle = slice(OUTPUT_STRIDE // 2, None, OUTPUT_STRIDE)
    kept = mask[middle, middle]
    soft[kept] = donor[kept]


def distillation(logits: Tensor, soft: Tensor, groups: Sequence[Known], temperature: float) -> Tensor:
    """Kullback-Leibler divergence of the student from its teachers at a temperature, times its square.

    `logits` (N, C, h, w), `soft` (N, h, w, planes) uint8. Of each group among the classes that it knows, mean
    over the pixels, weighted by how much of a pixel it knows (Hinton, Vinyals, Dean, 2015).
    """
    scores = logits.float().permute(0, 2, 3, 1) / temperature
    total = scores.new_zeros(())
    at = 0
    for known in groups:
        classes = len(known.classes)
        codes, share = soft[..., at : at + classes], soft[..., at + classes].float() / 255
        at += known.planes
        target = (codes.float() * (-1 / (STEPS * temperature))).log_softmax(-1)
        student = scores if classes == scores.shape[-1] else scores[..., list(known.classes)]
        divergence = (target.exp() * (target - student.log_softmax(-1))).sum(-1)
        total = total + known.weight * (divergence * share).sum() / share.sum().clamp(min=1e-6)
    return total * temperature**2
