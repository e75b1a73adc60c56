"""The picture under its classes, with a legend below it."""

from __future__ import annotations

import cv2
import numpy as np

from streamseg.types import IGNORE, U8, LabelSet, Size

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_TEXT_SCALE = 0.4
_ROW = 18  # pixels of one line of the legend
_SWATCH = 10
_PAD = 6


class Overlay:
    """Draws overlays of one size. One thread uses it."""

    def __init__(self, labels: LabelSet, size: Size, opacity: float) -> None:
        self.size = even(size)
        self.opacity = opacity
        self.palette = labels.palette()
        self.legend = draw_legend(labels, self.size[1])
        self.shape = self.size[0] + self.legend.shape[0], self.size[1]  # (height, width), even

    def __call__(self, rgb: U8, labels: U8) -> U8:
        """Blend a picture (any size) with its labels → RGB of self.shape.

        Where the labels say IGNORE the picture stays as it is. An odd side gains a repeated last line.
        """
        height, width = labels.shape
        if rgb.shape[:2] != labels.shape:
            rgb = np.asarray(cv2.resize(rgb, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        colours = np.take(self.palette, labels, axis=0)
        blend = cv2.addWeighted(rgb, 1 - self.opacity, colours, self.opacity, 0)
        unknown = labels == IGNORE
        if unknown.any():
            blend[unknown] = rgb[unknown]
        out = np.empty((*self.shape, 3), np.uint8)
        out[:height, :width] = blend
        out[height : self.size[0], :width] = blend[-1:]
        out[: self.size[0], width:] = out[: self.size[0], width - 1 : width]
        out[self.size[0] :] = self.legend
        return out


def even(size: Size) -> Size:
    """The size with odd sides made one longer: 4:2:0 has a colour sample for each two by two pixels."""
    return size[0] + size[0] % 2, size[1] + size[1] % 2


def draw_legend(labels: LabelSet, width: int) -> U8:
    """Colour and name of each class in rows that fit `width` → RGB (height, width, 3), height even."""
    rows: list[list[tuple[int, int]]] = [[]]  # (class, x)
    x = _PAD
    for i, name in enumerate(labels.names):
        (text_width, _), _ = cv2.getTextSize(name, _FONT, _TEXT_SCALE, 1)
        wide = _SWATCH + 4 + text_width + 2 * _PAD
        if rows[-1] and x + wide > width:
            rows.append([])
            x = _PAD
        rows[-1].append((i, x))
        x += wide
    legend = np.full((len(rows) * _ROW + _PAD, width, 3), 24, np.uint8)
    for r, row in enumerate(rows):
        top = _PAD // 2 + r * _ROW
        for i, x in row:
            one = labels.classes[i]
            swatch = top + (_ROW - _SWATCH) // 2
            cv2.rectangle(legend, (x, swatch), (x + _SWATCH, swatch + _SWATCH), one.colour, cv2.FILLED)
            at = (x + _SWATCH + 4, top + _ROW - 5)
            cv2.putText(legend, one.name, at, _FONT, _TEXT_SCALE, (235, 235, 235), 1, cv2.LINE_AA)
    return legend
