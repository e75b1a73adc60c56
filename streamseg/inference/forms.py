"""Pictures to what a graph takes, and what it gives to logits, probabilities or class ids: by engine.toml.

Graphs of our own (EngineSpec.usual) need none of this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.inference.spec import EngineSpec
from streamseg.types import F32, U8, Size

BORDER = 114  # level of the bars round a picture in a letterbox

Array = npt.NDArray[Any]


def feed_of(batch: U8, spec: EngineSpec) -> Array:
    """RGB pictures (N, H, W, 3) uint8 → what the graph takes, contiguous."""
    kind, layout = spec.feed
    norm = spec.normalisation
    feed: Array = batch
    if not norm.in_graph:
        feed = (batch - np.array(norm.mean, np.float32)) / np.array(norm.std, np.float32)
    if spec.channels == "bgr":
        feed = feed[..., ::-1]
    if layout == "nchw":
        feed = feed.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(feed, kind)


def answer_of(raw: F32, spec: EngineSpec) -> F32:
    """What the graph gives, as float32 → (N, C, h, w) of spec.gives; class ids are (N, 1, h, w).

    Of class ids and of one binary channel a missing axis of the batch or of channels is put in. Class ids
    that engine.toml does not list stay.
    """
    if spec.usual_output:
        return raw
    if spec.output in ("labels", "binary") and raw.ndim in (2, 3):
        raw = raw.reshape(-1, 1, *raw.shape[-2:])
    if raw.ndim != 4:
        return raw  # interface.py says what is wrong
    if spec.output_layout == "nhwc" and not (spec.output == "labels" and raw.shape[1] == 1):
        raw = raw.transpose(0, 3, 1, 2)
    if spec.output == "binary":
        return with_background(raw, spec.sigmoid_in_graph)
    return np.ascontiguousarray(raw)


def with_background(channels: F32, probabilities: bool) -> F32:
    """A sigmoid's channels (N, C, h, w), passed or not, with the class before them that none of them is."""
    if probabilities:
        rest = 1 - channels.max(1, keepdims=True)
        return np.concatenate([rest, channels], 1)
    return np.concatenate([np.zeros_like(channels[:, :1]), channels], 1)


def letterbox_size(frame: Size, into: Size, unit: int) -> Size:
    """The size of a frame between the bars: its aspect ratio, sides multiples of `unit`, as large as fits.

    `unit` is the output stride, so that the bars end where a cell of the logits does.
    """
    scale = min(into[0] / frame[0], into[1] / frame[1])
    height, width = (
        min(side, max(1, round(of * scale / unit)) * unit) for of, side in zip(frame, into, strict=True)
    )
    return height, width


def letterbox_place(inside: Size, into: Size, unit: int) -> tuple[int, int]:
    """The upper left pixel (y, x) of a picture of letterbox_size(): in the middle, a multiple of `unit`."""
    y, x = ((whole - part) // 2 // unit * unit for whole, part in zip(into, inside, strict=True))
    return y, x


def fits_letterbox(inside: Size, into: Size, unit: int) -> bool:
    """Whether pictures of this size can be placed in the input as they are."""
    return all(part <= whole and part % unit == 0 for whole, part in zip(into, inside, strict=True))


def with_bars(pictures: U8, into: Size, unit: int) -> U8:
    """Pictures (N, h, w, 3) between bars → (N, H, W, 3)."""
    height, width = pictures.shape[1:3]
    y, x = letterbox_place((height, width), into, unit)
    out = np.full((len(pictures), *into, 3), BORDER, np.uint8)
    out[:, y : y + height, x : x + width] = pictures
    return out


def without_bars(answer: F32, inside: Size, into: Size, unit: int) -> F32:
    """The cells (N, C, h, w) of the picture between the bars."""
    y, x = (at // unit for at in letterbox_place(inside, into, unit))
    height, width = (side // unit for side in inside)
    return np.ascontiguousarray(answer[:, :, y : y + height, x : x + width])


def listed(ids: F32, classes: int) -> F32:
    """Class ids without those that engine.toml does not list: they are IGNORE."""
    return np.where((ids >= 0) & (ids < classes), ids, np.float32(255))
