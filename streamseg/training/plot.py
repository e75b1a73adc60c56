"""The plot of a run, drawn with OpenCV: the loss on the left axis, validation mIoU on the right one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from streamseg.outputs.png import save_png

Points = Sequence[tuple[float, float]]
Colour = tuple[int, int, int]

WIDTH, HEIGHT, MARGIN = 900, 480, 60
LOSS_BGR, MIOU_BGR, GREY = (180, 90, 30), (40, 110, 220), (200, 200, 200)


def plot_curves(path: Path, losses: Points, mious: Points) -> None:
    """Draw loss over epochs, and mIoU where it was measured, into the PNG file `path`."""
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    last = max(x for x, _ in losses)
    top = max(y for _, y in losses)
    for step in range(6):
        y = HEIGHT - MARGIN - step * (HEIGHT - 2 * MARGIN) // 5
        cv2.line(canvas, (MARGIN, y), (WIDTH - MARGIN, y), GREY, 1)
        _text(canvas, f"{top * step / 5:.2f}", (6, y + 4), LOSS_BGR)
        _text(canvas, f"{20 * step}", (WIDTH - MARGIN + 8, y + 4), MIOU_BGR)
        x = MARGIN + step * (WIDTH - 2 * MARGIN) // 5
        _text(canvas, f"{last * step / 5:.0f}", (x - 8, HEIGHT - MARGIN + 22), (0, 0, 0))
    _curve(canvas, losses, last, top, LOSS_BGR)
    _curve(canvas, mious, last, 100.0, MIOU_BGR)
    _text(canvas, f"loss (last {losses[-1][1]:.3f})", (MARGIN, 30), LOSS_BGR)
    if mious:
        best = max(y for _, y in mious)
        _text(canvas, f"val mIoU, % (best {best:.2f})", (WIDTH // 2, 30), MIOU_BGR)
    _text(canvas, "epoch", (WIDTH // 2 - 20, HEIGHT - 10), (0, 0, 0))
    save_png(path, canvas)


def _curve(canvas: npt.NDArray[np.uint8], points: Points, last: float, top: float, colour: Colour) -> None:
    if not points:
        return
    xy = np.array(points, np.float64) / (max(last, 1), max(top, 1e-9))
    xy = np.nan_to_num(np.clip(xy, 0, 1), nan=1.0)
    pixels = np.empty(xy.shape, np.int32)
    pixels[:, 0] = MARGIN + xy[:, 0] * (WIDTH - 2 * MARGIN)
    pixels[:, 1] = HEIGHT - MARGIN - xy[:, 1] * (HEIGHT - 2 * MARGIN)
    cv2.polylines(canvas, [pixels], isClosed=False, color=colour, thickness=2, lineType=cv2.LINE_AA)


def _text(canvas: npt.NDArray[np.uint8], text: str, at: tuple[int, int], colour: Colour) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.45, colour, 1, cv2.LINE_AA)
