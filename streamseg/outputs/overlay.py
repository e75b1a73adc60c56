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
        swatches = np.repeat(np.repeat(labels.palette()[None], 2, axis=0), 2, axis=1)  # 2×2 of each colour
        y, u, v = planes(np.asarray(cv2.cvtColor(swatches, cv2.COLOR_RGB2YUV_I420), np.uint8))
        self.colours = y[0, ::2].copy(), u[0].copy(), v[0].copy()  # (256,) each
        legend = draw_legend(labels, self.size[1])
        self.legend = np.asarray(cv2.cvtColor(legend, cv2.COLOR_RGB2YUV_I420), np.uint8)
        self.shape = self.size[0] + legend.shape[0], self.size[1]  # (height, width), even

    def __call__(self, rgb: U8, labels: U8) -> U8:
        """Blend a picture (any size) with its labels → I420 (3/2 · height, width) of self.shape.

        Where the labels say IGNORE the picture stays as it is. An odd side gains a repeated last line. The
        blend is linear, so it is done in YUV: half the numbers, and no conversion of colours.
        """
        height, width = self.size
        if rgb.shape[:2] != labels.shape:
            size_wh = labels.shape[1], labels.shape[0]
            rgb = np.asarray(cv2.resize(rgb, size_wh, interpolation=cv2.INTER_AREA), np.uint8)
        if labels.shape != self.size:
            more = 0, height - labels.shape[0], 0, width - labels.shape[1]
            rgb = np.asarray(cv2.copyMakeBorder(rgb, *more, cv2.BORDER_REPLICATE), np.uint8)
            labels = np.asarray(cv2.copyMakeBorder(labels, *more, cv2.BORDER_REPLICATE), np.uint8)
        picture = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420), np.uint8)
        out = np.empty((self.shape[0] * 3 // 2, width), np.uint8)
        small = np.ascontiguousarray(labels[::2, ::2])  # a colour sample takes its upper left pixel's class
        for into, of, legend, colours, classes in zip(
            planes(out),
            planes(picture),
            planes(self.legend),
            self.colours,
            (labels, small, small),
            strict=True,
        ):
            rows = of.shape[0]
            cv2.addWeighted(of, 1 - self.opacity, cv2.LUT(classes, colours), self.opacity, 0, dst=into[:rows])
            if classes.max() == IGNORE:
                np.copyto(into[:rows], of, where=classes == IGNORE)
            into[rows:] = legend
        return out


def planes(i420: U8) -> tuple[U8, U8, U8]:
    """Y (H, W), U and V (H/2, W/2) of an I420 picture (3/2 · H, W), as views."""
    height, width = i420.shape[0] * 2 // 3, i420.shape[1]
    y, u, v = np.split(i420.reshape(-1), [height * width, height * width * 5 // 4])
    half = height // 2, width // 2
    return y.reshape(height, width), u.reshape(half), v.reshape(half)


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
