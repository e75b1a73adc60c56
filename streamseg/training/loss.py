"""The training loss: class-weighted cross-entropy, and Lovasz-softmax, a smooth form of the IoU."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.evaluation.dataset import IGNORE


def class_weights(shares: npt.NDArray[np.float64], balance: float) -> Tensor:
    """1/ln(balance + share) for each class (Paszke et al., ENet, 2016)."""
    return torch.tensor(1 / np.log(balance + shares), dtype=torch.float32)


def cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor, phase: int) -> Tensor:
    """Weighted cross-entropy at twice the resolution of `logits` (N, C, h, w) against full-size `labels`.

    `labels` (N, H, W) are subsampled to (N, 2h, 2w), starting at pixel `phase` (0 to 3) of each cell: over
    the steps of an epoch all four are used, in two thirds of the time of a loss at full resolution.
    """
    logits = F.interpolate(logits.float(), scale_factor=2.0, mode="bilinear", align_corners=False)
    thinned = thin_labels(labels, labels.shape[1] // logits.shape[2], phase)
    summed = F.cross_entropy(logits, thinned, weights, ignore_index=IGNORE, reduction="sum")
    counted = thinned != IGNORE
    weight = (weights[thinned * counted] * counted).sum()
    return summed / weight.clamp(min=1e-6)  # 0, not 0/0, where no pixel is labelled


def thin_labels(labels: Tensor, factor: int, phase: int) -> Tensor:
    """Every `factor`-th pixel of (N, H, W), one of the four nearest to the middle of each cell, as int64."""
    low = (factor - 1) // 2
    row, column = low + (phase & 1) * (factor > 1), low + (phase >> 1 & 1) * (factor > 1)
    return labels[:, row::factor, column::factor].long()


def lovasz_softmax(logits: Tensor, labels: Tensor) -> Tensor:
    """The Lovasz extension of 1 - IoU, mean over the classes in the batch (Berman et al., 2018, algorithm 1).

    `logits` (N, C, h, w), `labels` int64 (N, h, w); the whole batch counts as one picture.
    """
    classes = logits.shape[1]
    flat = labels.reshape(-1)
    counted = flat != IGNORE
    probabilities = logits.float().softmax(1).permute(1, 0, 2, 3).reshape(classes, -1)[:, counted]
    truth = F.one_hot(flat[counted], classes).T.to(probabilities.dtype)  # (C, pixels)
    present = truth.sum(1) > 0
    probabilities, truth = probabilities[present], truth[present]
    if not probabilities.numel():
        return logits.sum() * 0
    errors, order = (truth - probabilities).abs().sort(dim=1, descending=True)
    with torch.no_grad():
        truth = truth.gather(1, order)
        total = truth.sum(1, keepdim=True)
        jaccard = 1 - (total - truth.cumsum(1)) / (total + (1 - truth).cumsum(1))
        gradient = torch.cat([jaccard[:, :1], jaccard[:, 1:] - jaccard[:, :-1]], dim=1)
    return (errors * gradient).sum(1).mean()
