"""Results made from finished labels, frame after frame: PNG and run lengths."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Protocol

import cv2
import msgspec
import numpy as np

from streamseg.outputs.png import indexed_png
from streamseg.recorded.segments import FrameRecord
from streamseg.types import U8, LabelSet
from streamseg.wire.rle import encode_labels


class Extra(Protocol):
    """A result in the making; close() completes it."""

    def add(self, record: FrameRecord, labels: U8) -> None: ...

    def close(self) -> None: ...


class PngFolder:
    """An indexed PNG for each frame, called by its number, in the colours of its classes."""

    def __init__(self, path: Path, labels: LabelSet) -> None:
        path.mkdir()
        self.path, self.palette = path, labels.palette()

    def add(self, record: FrameRecord, labels: U8) -> None:
        (self.path / f"{record.seq:08d}.png").write_bytes(indexed_png(labels, self.palette))

    def close(self) -> None:
        pass


class RleLines:
    """A JSON line for each frame: COCO's segments_info, one segment a class, as pycocotools reads them.

    With the fields of a panoptic annotation (the segment's id is its class) and its compressed run lengths.
    """

    def __init__(self, path: Path, labels: LabelSet, tick: Fraction) -> None:
        self.file, self.names, self.tick = path.open("wb"), labels.names, tick

    def add(self, record: FrameRecord, labels: U8) -> None:
        height, width = labels.shape
        segments = [
            {
                "id": i,
                "category_id": i,
                "iscrowd": 0,
                "bbox": cv2.boundingRect((labels == i).view(np.uint8)),  # x, y, width, height
                "name": self.names[i] if i < len(self.names) else None,
                "area": pixels,
                "segmentation": {"size": [height, width], "counts": counts},
            }
            for i, pixels, counts in encode_labels(labels)
        ]
        line = {
            "seq": record.seq,
            "pts": record.pts,
            "time_s": time_s(record, self.tick),
            "segments_info": segments,
        }
        self.file.write(msgspec.json.encode(line) + b"\n")

    def close(self) -> None:
        self.file.close()


def time_s(record: FrameRecord, tick: Fraction) -> float:
    return round(float(record.ticks * tick), 6)
