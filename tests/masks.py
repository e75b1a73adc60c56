"""Masks that several tests need: drawn here, with regions as a network makes them."""

from __future__ import annotations

import time
from dataclasses import fields as dataclass_fields
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np

from streamseg.types import IGNORE, U8, ClassInfo, LabelSet, Mask, Preview, Stamp

STREET = LabelSet(
    "street3",
    (
        ClassInfo("road", (128, 64, 128)),
        ClassInfo("car", (64, 0, 128)),
        ClassInfo("pole", (192, 192, 128), thin=True),
    ),
)


def draw_labels(size: tuple[int, int], seed: int = 0) -> U8:
    """An (H, W) label mask of rectangles, thin poles and an unknown border."""
    rng = np.random.default_rng(seed)
    height, width = size
    labels = np.zeros(size, np.uint8)
    for value in rng.integers(0, len(STREET.classes), 20):
        y, x = rng.integers(0, height), rng.integers(0, width)
        labels[y : y + height // 4 + 1, x : x + (2 if value == 2 else width // 5 + 1)] = value
    labels[: height // 20] = IGNORE
    return labels


def make_mask(seq: int = 0, *, size: tuple[int, int] = (36, 48), **fields: Any) -> Mask:
    """A mask of stream "gate"; `fields` replace any of it."""
    mask = Mask(
        make_stamp(seq, fields),
        draw_labels(size, seq % 7),
        label_set=STREET.id,
        engine="camvid-slim",
        stage_us={"infer": 9000},
    )
    return replace(mask, **fields)


def make_stamp(seq: int, fields: dict[str, Any]) -> Stamp:
    """The stamp of frame seq of stream "gate"; takes its own fields out of `fields`."""
    stamp = Stamp("gate", 0, seq, seq * 512, Fraction(1, 15360), time.time_ns(), "arrival", n=seq, run=7)
    return replace(stamp, **{f.name: fields.pop(f.name) for f in dataclass_fields(Stamp) if f.name in fields})


def make_picture(seq: int = 0, **fields: Any) -> Preview:
    """The picture of make_mask(seq)'s frame; `fields` replace any of it."""
    picture = Preview(make_stamp(seq, fields), b"\xff\xd8 a picture", size=(36, 48), frame_size=(72, 96))
    return replace(picture, **fields)


def same(a: Mask, b: Mask) -> bool:
    """Whether two masks agree in every field and pixel."""
    plain = all(
        getattr(a, name) == getattr(b, name)
        for name in ("stamp", "label_set", "engine", "revision", "refined_seq", "stage_us", "same_as")
    )
    if (a.confidence is None) != (b.confidence is None):
        return False
    confident = a.confidence is None or np.array_equal(a.confidence, b.confidence)  # type: ignore[arg-type]
    return plain and confident and np.array_equal(a.labels, b.labels)
