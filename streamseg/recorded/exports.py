"""Results made from finished labels, frame after frame: PNG, run lengths and arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.outputs.png import indexed_png
from streamseg.recorded.names import as_file_name
from streamseg.recorded.segments import FrameRecord
from streamseg.types import U8, LabelSet, Size
from streamseg.wire.rle import encode_labels

_CHUNK_BYTES = 4 << 20


Target = Callable[[str], Path]
"""A result's name → its file."""


class Export(Protocol):
    """A result in the making. Confidence, 0..255, is there where it is a result.

    close() completes it, and gives what the summary tells of it, by key.
    """

    def add(self, record: FrameRecord, labels: U8, confidence: U8 | None) -> None: ...

    def close(self) -> dict[str, Any] | None: ...


class PngFolder:
    """An indexed PNG for each frame, in the colours of its classes.

    Called by the frame's number, or, where the frames are images, as its own image.
    """

    def __init__(self, path: Path, labels: LabelSet, images: Sequence[Path] = ()) -> None:
        path.mkdir()
        self.path, self.palette = path, labels.palette()
        self.names: list[str] = []
        for choice in ([image.stem for image in images], [image.name for image in images]):
            names = [as_file_name(name) for name in choice]
            if not self.names and len(set(names)) == len(names):
                self.names = names

    def add(self, record: FrameRecord, labels: U8, confidence: U8 | None) -> None:
        name = f"{record.seq:08d}"
        if record.pts is not None and record.pts < len(self.names):
            name = self.names[record.pts]  # an image's time stamp is its place in the sequence
        (self.path / f"{name}.png").write_bytes(indexed_png(labels, self.palette))

    def close(self) -> None:
        pass


class RleLines:
    """A JSON line for each frame: COCO's segments_info, one segment a class, as pycocotools reads them.

    With the fields of a panoptic annotation (the segment's id is its class) and its compressed run lengths.
    """

    def __init__(self, path: Path, labels: LabelSet, tick: Fraction) -> None:
        self.file, self.names, self.tick = path.open("wb"), labels.names, tick

    def add(self, record: FrameRecord, labels: U8, confidence: U8 | None) -> None:
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


class ZarrGroup:
    """labels (N, H, W) uint8, seq, pts and time_s in a Zarr group, which is read one chunk at a time."""

    def __init__(self, path: Path, frames: int, size: Size, tick: Fraction, names: tuple[str, ...]) -> None:
        import zarr  # an extra

        self.stamps = Stamps(tick)
        self.group = zarr.open_group(str(path), mode="w", zarr_format=3, attributes={"classes": list(names)})
        self.chunk = max(1, min(frames, _CHUNK_BYTES // (size[0] * size[1])))
        self.labels: Any = self.group.create_array(
            "labels",
            shape=(frames, *size),
            chunks=(self.chunk, *size),
            dtype="uint8",
            dimension_names=("frame", "y", "x"),
        )
        self.waiting: list[U8] = []
        self.written = 0

    def add(self, record: FrameRecord, labels: U8, confidence: U8 | None) -> None:
        self.stamps.add(record)
        self.waiting.append(labels)
        if len(self.waiting) == self.chunk:
            self._write()

    def close(self) -> None:
        if self.waiting:
            self._write()
        for name, values in self.stamps.arrays().items():
            self.group.create_array(name, data=values, dimension_names=("frame",))

    def _write(self) -> None:
        end = self.written + len(self.waiting)
        self.labels[self.written : end] = np.stack(self.waiting)
        self.written = end
        self.waiting = []


class Stamps:
    """seq, pts (−2⁶³ where there is none) and time_s of the frames so far."""

    def __init__(self, tick: Fraction) -> None:
        self.tick = tick
        self.seqs: list[int] = []
        self.pts: list[int] = []
        self.times: list[float] = []

    def add(self, record: FrameRecord) -> None:
        self.seqs.append(record.seq)
        self.pts.append(np.iinfo(np.int64).min if record.pts is None else record.pts)
        self.times.append(time_s(record, self.tick))

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        return {
            "seq": np.array(self.seqs, np.int64),
            "pts": np.array(self.pts, np.int64),
            "time_s": np.array(self.times, np.float64),
        }


def time_s(record: FrameRecord, tick: Fraction) -> float:
    return round(float(record.ticks * tick), 6)
