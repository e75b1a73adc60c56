"""The classes that labels refer to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from streamseg.types.picture import U8


@dataclass(frozen=True, slots=True)
class ClassInfo:
    """One class of a label set; its id is its position."""

    name: str
    colour: tuple[int, int, int]  # RGB
    thin: bool = False  # narrower than the CRF's kernels: fusion keeps it from the raw network


@dataclass(frozen=True, slots=True)
class LabelSet:
    """The classes that labels refer to."""

    id: str
    classes: tuple[ClassInfo, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.classes)

    def palette(self) -> U8:
        """RGB for each of the 256 label values, (256, 3); black where there is no class."""
        table = np.zeros((256, 3), np.uint8)
        for i, c in enumerate(self.classes):
            table[i] = c.colour
        return table


NO_CLASSES = LabelSet("", ())
