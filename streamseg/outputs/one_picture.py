"""What is said of one picture and its labels: a JSON document, a PNG of labels, an overlay."""

from __future__ import annotations

from typing import Any

import cv2
import msgspec
import numpy as np

from streamseg.analytics.polygons import polygon_of
from streamseg.analytics.regions import find_regions
from streamseg.outputs.overlay import draw_legend
from streamseg.types import IGNORE, U8, LabelSet
from streamseg.wire.rle import encode_labels

OPACITY = 0.5
JPEG_QUALITY = 92
MOST_NAMED = 5  # classes in a line


def document_of(labels: U8, confidence: U8 | None, label_set: LabelSet, engine: str) -> dict[str, Any]:
    """Shares, run lengths (COCO's) and outlines of the classes in (H, W) labels, the largest share first.

    The outlines are those of `polygons/<stream>/` in docs/protocol.md.
    """
    height, width = labels.shape
    regions = find_regions(labels, confidence)
    names = label_set.names
    classes = []
    for i, pixels, counts in encode_labels(labels):
        mean = None if confidence is None else round(float(confidence[labels == i].mean()) / 255, 4)
        one = {
            "id": i,
            "name": names[i] if i < len(names) else None,
            "pixels": pixels,
            "share": round(pixels / labels.size, 6),
            "segmentation": {"size": [height, width], "counts": counts},
        }
        classes.append(one if mean is None else one | {"confidence": mean})
    return {
        "version": 1,
        "kind": "picture",
        "shape": [height, width],
        "engine": engine,
        "label_set": label_set.id,
        "unknown": int(np.count_nonzero(labels == IGNORE)),
        "classes": sorted(classes, key=lambda one: (-one["pixels"], one["id"])),
        "polygons": [msgspec.to_builtins(polygon_of(region, label_set)) for region in regions.found],
        "left_out": regions.left_out,
        "left_out_pixels": regions.left_out_pixels,
    }


def shares_in_words(labels: U8, label_set: LabelSet) -> str:
    """The classes and their shares in per cent, the largest first."""
    counts = np.bincount(labels.reshape(-1), minlength=256)
    seen = _by_share(labels, label_set)
    shown = [f"{label_set.classes[i].name} {100 * counts[i] / labels.size:.0f} %" for i in seen[:MOST_NAMED]]
    if counts[IGNORE]:
        shown.append(f"without a label {100 * counts[IGNORE] / labels.size:.0f} %")
    return ", ".join(shown)


def overlay_jpeg(rgb: U8, labels: U8, label_set: LabelSet) -> bytes:
    """The picture under the colours of its classes, with a legend of those in it, as a JPEG."""
    painted = blend(rgb, labels, label_set)
    whole = np.concatenate([painted, legend_of(labels, label_set, rgb.shape[1])])
    bgr = cv2.cvtColor(whole, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()


def legend_of(labels: U8, label_set: LabelSet, width: int) -> U8:
    """Colours and names of the classes in labels, the largest first → RGB (height, width, 3)."""
    seen = tuple(label_set.classes[i] for i in _by_share(labels, label_set))
    return draw_legend(LabelSet(label_set.id, seen), width)


def blend(rgb: U8, labels: U8, label_set: LabelSet, opacity: float = OPACITY) -> U8:
    """A picture (H, W, 3) under the colours of its labels (H, W); as it is where they say IGNORE."""
    colours = label_set.palette()[labels]
    mixed = cv2.addWeighted(rgb, 1 - opacity, colours, opacity, 0)
    painted: U8 = np.where(labels[..., None] == IGNORE, rgb, mixed).astype(np.uint8)
    return painted


def _by_share(labels: U8, label_set: LabelSet) -> list[int]:
    """The classes in labels, the largest first."""
    counts = np.bincount(labels.reshape(-1), minlength=256)[: len(label_set.classes)]
    return [int(i) for i in np.argsort(-counts, kind="stable") if counts[i]]
