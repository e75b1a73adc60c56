"""The paper's figure: mIoU in bands round true boundaries, drawn with OpenCV, and the other scores above."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from streamseg.evaluation.metrics import shown
from streamseg.evaluation.refinement import RefinementReport, VariantScores
from streamseg.outputs.png import save_png
from streamseg.types import U8

WIDTH, HEIGHT, MARGIN, LINE = 900, 560, 70, 22
COLOURS_BGR = [(120, 120, 120), (180, 90, 30), (40, 110, 220), (60, 150, 60), (150, 40, 140)]
BLACK, GREY = (0, 0, 0), (205, 205, 205)


def plot_refinement(path: Path, report: RefinementReport) -> None:
    """Draw the whole picture's scores of every variant but the ground truth into the PNG file `path`."""
    variants = {name: s for name, s in report.parts["all"].items() if name != "truth"}
    canvas = np.full((HEIGHT, WIDTH, 3), 255, np.uint8)
    values = [v for s in variants.values() for v in s.trimap.values() if v is not None] or [0.0, 100.0]
    low, high = 5 * np.floor(min(values) / 5), 5 * np.ceil(max(values) / 5 + 0.01)
    top = MARGIN + LINE * (len(variants) + 1)
    widths = [int(w) for w in next(iter(variants.values())).trimap]

    def at(width: float, value: float) -> tuple[int, int]:
        x = MARGIN + (WIDTH - 2 * MARGIN) * width / max(widths)
        y = HEIGHT - MARGIN - (HEIGHT - MARGIN - top) * (value - low) / (high - low)
        return round(x), round(y)

    for value in np.linspace(low, high, 6):
        cv2.line(canvas, at(0, value), at(max(widths), value), GREY, 1)
        _text(canvas, f"{value:.0f}", (MARGIN - 34, at(0, value)[1] + 5))
    for width in widths:
        _text(canvas, str(width), (at(width, low)[0] - 6, HEIGHT - MARGIN + 22))
    _text(canvas, "width of the band round true boundaries (pixels)", (WIDTH // 2 - 190, HEIGHT - 18))
    _text(canvas, f"{report.engine}: mIoU in the band, %", (MARGIN, 30))
    for number, (name, scores) in enumerate(variants.items()):
        colour = COLOURS_BGR[number % len(COLOURS_BGR)]
        points = [at(int(w), v) for w, v in scores.trimap.items() if v is not None]
        if points:
            cv2.polylines(canvas, [np.array(points, np.int32)], False, colour, 2, cv2.LINE_AA)
        for point in points:
            cv2.circle(canvas, point, 4, colour, -1, cv2.LINE_AA)
        _text(canvas, _legend(name, scores), (MARGIN, 30 + LINE * (number + 1)), colour)
    save_png(path, canvas)


def _legend(name: str, scores: VariantScores) -> str:
    dash = "-"  # OpenCV's letters have no other
    text = f"{name:10} mIoU {shown(scores.miou)}   boundary F {shown(scores.boundary_f)}".replace("–", dash)
    if scores.consistency is None or scores.flicker is None:
        return text
    return f"{text}   consistency {scores.consistency:5.2f}   flicker {scores.flicker:4.2f}"


def _text(canvas: U8, text: str, at: tuple[int, int], colour: tuple[int, int, int] = BLACK) -> None:
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.48, colour, 1, cv2.LINE_AA)
