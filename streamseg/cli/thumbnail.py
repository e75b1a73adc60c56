"""A mask as a small picture of characters: two pixels in each, the upper and the lower half."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt
import rich.console
from rich.color import Color
from rich.console import ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style

from streamseg.types import IGNORE, U8, LabelSet, Size

UNKNOWN_COLOUR = (48, 48, 48)
UNNAMED_COLOUR = (128, 128, 128)
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


class Thumbnail:
    """A rich renderable: a label mask in its classes' colours, `columns` wide and `rows` high.

    24 bits of colour where the terminal has them, its nearest colours where not (rich looks), and a letter
    for each class (see letter_of) where it has none.
    """

    def __init__(self, labels: U8, label_set: LabelSet | None, columns: int, rows: int) -> None:
        self._labels, self._label_set = labels, label_set
        self._columns, self._rows = columns, rows

    def __rich_console__(self, console: rich.console.Console, options: ConsoleOptions) -> RenderResult:
        if not has_colours(console):
            for row in shrink(self._labels, (self._rows, self._columns)):
                yield Segment("".join(letter_of(int(label)) for label in row))
                yield Segment.line()
            return
        colours = palette(self._label_set)[shrink(self._labels, (2 * self._rows, self._columns))]
        pairs = np.concatenate([colours[0::2], colours[1::2]], axis=2)  # (rows, columns, 6)
        for row in pairs.tolist():
            for pair, run in groupby(row):
                yield Segment("▀" * len(list(run)), _style(pair))
            yield Segment.line()


def has_colours(console: rich.console.Console) -> bool:
    """Whether colours are shown: not on a terminal without colours, nor where NO_COLOR is set."""
    return console.color_system is not None and not console.no_color


def fit(size: Size, columns: int, rows: int) -> tuple[int, int]:
    """The largest (columns, rows) within these that keeps a picture's proportions."""
    height, width = size
    wide = min(columns, 2 * rows * width / height)  # a character is twice as high as wide
    return max(1, round(wide)), max(1, round(wide * height / width / 2))


def shrink(labels: U8, size: Size) -> U8:
    """Nearest-neighbour samples of an (H, W) label mask, so that only its own labels occur."""
    rows, columns = (
        ((np.arange(short) + 0.5) * long / short).astype(np.intp)
        for long, short in zip(labels.shape, size, strict=True)
    )
    small: U8 = labels[rows[:, None], columns]
    return small


def palette(label_set: LabelSet | None) -> npt.NDArray[np.uint8]:
    """The colours of all 256 labels, (256, 3)."""
    colours = np.full((256, 3), UNNAMED_COLOUR, np.uint8)
    if label_set is not None:
        colours[: len(label_set.classes)] = [c.colour for c in label_set.classes]
    colours[IGNORE] = UNKNOWN_COLOUR
    return colours


def letter_of(label: int) -> str:
    """The letter for a label where there are no colours."""
    return LETTERS[label] if label < len(LETTERS) else "·" if label == IGNORE else "?"


def _style(pair: Sequence[int]) -> Style:
    return Style(color=Color.from_rgb(*pair[:3]), bgcolor=Color.from_rgb(*pair[3:]))
