"""Neighbouring frames of clips, and the loss of a network that changes its mind between them.

Nothing of it is there when the network is served. Liu, Shen, Yu, Wang, "Efficient semantic video segmentation
with per-frame inference", 2020, equation 1.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.errors import TrainingError
from streamseg.evaluation.dataset import IGNORE, video_frames
from streamseg.inference.scaling import fit_size
from streamseg.models.slim import SIZE_MULTIPLE
from streamseg.refinement.flow import Flow, grey_of, standing_still, trust
from streamseg.training import augment
from streamseg.training.recipe import TrainRecipe
from streamseg.training.soft import on_grid, soft_size
from streamseg.types import F32, U8
from streamseg.types.picture import scale_picture

logger = logging.getLogger(__name__)

STILL_ERROR = 2.0  # mean difference of grey levels below which two frames are one picture, sent twice


class Pairs(NamedTuple):
    """Crops of frames and of those before them, all through the same view."""

    now: U8  # (N, h, w, 3)
    before: U8
    where: F32  # (N, h/4, w/4, 2): x, y of each cell of now on the grid of before, in cells
    trust: F32  # (N, h/4, w/4) in 0..1; 0 outside the picture


class _Pair(NamedTuple):
    now: U8
    before: U8
    motion: npt.NDArray[np.float16]  # (H/4, W/4, 2), in cells
    trust: U8  # (H/4, W/4), in 1/255


class Clips:
    """Pairs of neighbouring frames in memory. What is drawn depends on (seed, epoch, step) alone."""

    def __init__(self, sources: Sequence[str], recipe: TrainRecipe) -> None:
        """Read the clips, and follow their motion; raises SourceError, TrainingError."""
        self._recipe = recipe
        self._pairs: list[_Pair] = []
        self._hash = hashlib.sha256()
        flow = Flow()
        for source in sources:
            before: U8 | None = None
            pairs = len(self._pairs)
            for index, rgb in enumerate(video_frames(source)):
                size = fit_size((rgb.shape[0], rgb.shape[1]), recipe.input_size, SIZE_MULTIPLE)
                at = index % recipe.temporal_every
                now = scale_picture(rgb, size) if at < 2 else None
                if at == 1 and now is not None and before is not None and now.shape == before.shape:
                    self._pairs += _followed(flow, now, before)
                before = now
            if len(self._pairs) == pairs:
                raise TrainingError(f"--clip {source}: has no two neighbouring frames that differ")
            logger.info("--clip %s: %d pairs of frames", source, len(self._pairs) - pairs)
        for pair in self._pairs:
            self._hash.update(pair.now.tobytes())

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()

    def draw(self, epoch: int, step: int) -> Pairs:
        """The pairs of one step, augmented: both frames of a pair see one view, and each its own light."""
        recipe = self._recipe.augment
        rng = np.random.default_rng([self._recipe.seed, epoch, step, 2])
        drawn = []
        for _ in range(self._recipe.temporal_pairs):
            pair = self._pairs[int(rng.integers(len(self._pairs)))]
            size = (pair.now.shape[0], pair.now.shape[1])
            view = augment.random_view(rng, recipe, size, None)
            nothing = np.full(size, IGNORE, np.uint8)
            now, before = (
                augment.change_light(rng, recipe, augment.warp(rgb, nothing, view, recipe.crop_size)[0])
                for rgb in (pair.now, pair.before)
            )
            drawn.append((now, before, *_through(pair, view, recipe.crop_size)))
        return Pairs(*(np.stack(part) for part in zip(*drawn, strict=True)))


def temporal_loss(now: Tensor, before: Tensor, where: F32, trust: F32 | None = None) -> Tensor:
    """Squared difference of the probabilities now and before, moved along the flow, where that is trusted.

    Logits (N, C, h, w) of two frames each; where (N, h, w, 2): x, y of each cell of now on the grid of
    before; trust (N, h, w), None: all of it. Mean over what is trusted.
    """
    place = torch.from_numpy(where).to(now.device)
    height, width = now.shape[2:]
    scale = torch.tensor([2 / width, 2 / height], device=place.device)
    grid = (place + 0.5) * scale - 1  # grid_sample's positions: -1 and 1 are the borders
    moved = F.grid_sample(
        before.float().softmax(1), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    inside = ((grid >= -1) & (grid <= 1)).all(-1)
    weight = inside.float() if trust is None else inside * torch.from_numpy(trust).to(now.device)
    squared = (now.float().softmax(1) - moved).square().sum(1)
    return (squared * weight).sum() / weight.sum().clamp(min=1e-6)


def _followed(flow: Flow, now: U8, before: U8) -> list[_Pair]:
    """The pair with its motion, from half the size to a quarter; nothing where the frame is sent twice."""
    height, width = now.shape[:2]
    half = (height // 2, width // 2)
    grey_now, grey_before = grey_of(now, half), grey_of(before, half)
    if min(half) < 16 or float(cv2.absdiff(grey_now, grey_before).max()) <= STILL_ERROR:
        return []
    where = flow(grey_now, grey_before)
    trusted = trust(grey_now, grey_before, where)
    grid = soft_size((height, width))
    motion = cv2.resize((where - standing_still(half)) / 2, grid[::-1], interpolation=cv2.INTER_AREA)
    known = cv2.resize(trusted, grid[::-1], interpolation=cv2.INTER_AREA)
    return [_Pair(now, before, motion.astype(np.float16), np.rint(known * 255).astype(np.uint8))]


def _through(pair: _Pair, view: npt.NDArray[np.float64], crop_size: tuple[int, int]) -> tuple[F32, F32]:
    """Where each cell of the crop was, in cells of the crop, and how far that is trusted."""
    grid = soft_size(crop_size)
    matrix = on_grid(view)
    motion, trusted = (
        cv2.warpAffine(plane, matrix, grid[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        for plane in (pair.motion.astype(np.float32), pair.trust.astype(np.float32) / 255)
    )
    where = motion @ view[:, :2].T.astype(np.float32) + standing_still(grid)
    return where.astype(np.float32), np.asarray(trusted, np.float32)
