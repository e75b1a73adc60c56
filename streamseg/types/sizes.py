"""Sizes of masks, and labels at another size."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np

from streamseg.types.picture import U8, Size

MaskSize = Literal["frame", "input"] | Size
"""The frame's size, the network input's, or one of its own."""


def nearest(labels: U8, size: Size) -> U8:
    """Labels (h, w) at another size, each from the pixel that its centre lies in; the same if it fits.

    Row y comes from row floor((y + 0.5) · h / H), and columns likewise, in whole numbers: what every client
    of streamseg makes of the same mask (docs/protocol.md).
    """
    if min(size) < 1:
        raise ValueError(f"labels at another size: its sides must be above 0; are {size}")
    if labels.shape == size:
        return labels
    rows, columns = (
        (2 * np.arange(to, dtype=np.int64) + 1) * cells // (2 * to)
        for cells, to in zip(labels.shape, size, strict=True)
    )
    return cast(U8, labels.take(columns, 1).take(rows, 0))
