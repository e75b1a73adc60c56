"""Masks and pictures that are saved as files, each under a name of its own."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from streamseg.errors import OutputError
from streamseg.outputs.png import indexed_png
from streamseg.runtime.files import new_file
from streamseg.types import LabelSet, Mask


def name_of(mask: Mask) -> str:
    """The name of a mask's picture, which no other mask has: epochs and frames begin again with each run.

    An unchanged frame has the name of the mask that holds.
    """
    refined = "-refined" if mask.revision else ""
    seq = mask.seq if mask.same_as is None else mask.same_as
    return f"{mask.stream}-{mask.run:014x}-{mask.epoch:03}-{seq:08}{refined}.png"


def save_new(folder: Path, mask: Mask, data: bytes) -> Path:
    """Write a mask's picture into a folder, beside any file that has its name already; raises OutputError."""
    return save_beside(folder / name_of(mask), data)


def save_beside(path: Path, data: bytes) -> Path:
    """Write a new file, beside any that has its name already; raises OutputError."""
    try:
        return new_file(path, data)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from error


def coloured_png(mask: Mask, labels: LabelSet | None) -> bytes:
    """Labels as an indexed PNG whose palette holds the classes' colours."""
    palette = labels.palette() if labels is not None else np.repeat(np.arange(256, dtype=np.uint8), 3)
    return indexed_png(mask.labels, palette.reshape(256, 3))
