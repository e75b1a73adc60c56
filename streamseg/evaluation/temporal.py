"""Scores over time: do successive masks agree where the picture only moved?"""

from __future__ import annotations

from typing import cast

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.errors import TrainingError
from streamseg.evaluation.dataset import IGNORE
from streamseg.evaluation.metrics import Matrix, confusion_matrix
from streamseg.types import U8

Where = npt.NDArray[np.float32]  # (H, W, 2): x, y in the frame before


def motion(now: U8, before: U8) -> Where:
    """Where each pixel of `now` (H, W, 3) was in `before`, by DIS flow (preset medium) at full resolution.

    Another, finer estimate than the one fusion works with, so that fusion is not measured by its own errors.
    Raises TrainingError where there are too few pixels for it.
    """
    flow = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey_now, grey_before = (cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY) for rgb in (now, before))
    try:
        where = cast(Where, flow.calc(grey_now, grey_before, None))  # type: ignore[call-overload]
    except cv2.error as error:
        raise TrainingError(
            f"frames of {now.shape[1]}x{now.shape[0]} are too small or too narrow to follow motion in; "
            "take larger ones"
        ) from error
    where[..., 0] += np.arange(now.shape[1], dtype=np.float32)
    where[..., 1] += np.arange(now.shape[0], dtype=np.float32)[:, None]
    return where


def agreement(now: U8, before: U8, where: Where, classes: int) -> Matrix:
    """Counts (classes, classes): rows are the label before, moved to where it should be now, columns now's.

    What came in from outside the picture and what is unlabelled is left out.
    """
    moved = cast(
        U8,
        cv2.remap(  # type: ignore[call-overload]
            before, where, None, cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT, borderValue=IGNORE
        ),
    )
    return confusion_matrix(np.where(now == IGNORE, IGNORE, moved).astype(np.uint8), now, classes)


def flicker(matrix: Matrix) -> float | None:
    """The share of pixels whose label changed along the motion, in per cent; None without a pixel."""
    total = int(matrix.sum())
    return 100 * (1 - int(np.trace(matrix)) / total) if total else None
