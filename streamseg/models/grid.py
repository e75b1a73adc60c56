"""Where the logits of a network lie in the picture, and how that is brought into line with the pipeline."""

from __future__ import annotations

from typing import NamedTuple


class Grid(NamedTuple):
    """Where a network's logits lie, and the border that brings them to the middle of their cells.

    The pipeline takes logit i of a network with output stride s as the middle of pixels s·i … s·i + s − 1.
    torchvision's networks were trained that way. The Caffe networks were trained with corners in line: their
    logit i lies at pixel `first` + s·i. A border of the mean colour moves the grid to where it should be,
    within half a pixel, and `skip` logits on each side are dropped.
    """

    stride: int  # output stride
    first: float  # pixel of the first logit
    before: int = 0  # pixels of border at the top and left
    after: int = 0  # at the bottom and right
    skip: int = 0  # logits dropped at the top and left


def corners(stride: int = 8) -> Grid:
    """Logits at pixels 0, s, 2s …; the border makes the sides s·k + 1, so that every grid inside lines up."""
    if stride == 1:
        return Grid(1, 0, after=1)
    return Grid(stride, 0, before=stride // 2, after=stride // 2 + 1, skip=1)


def centres(stride: int) -> Grid:
    """Logits in the middle of their cells, as bilinear upsampling with align_corners=False takes them."""
    return Grid(stride, (stride - 1) / 2)
