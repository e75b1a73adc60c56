"""Results made from finished labels, frame after frame: PNG, run lengths, arrays, tables."""

from __future__ import annotations

import csv
import io
import zipfile
from fractions import Fraction
from pathlib import Path
from typing import IO, Protocol

import msgspec
import numpy as np

from streamseg.png import indexed_png
from streamseg.recorded.parts import FrameRecord
from streamseg.types import U8, LabelSet, Size
from streamseg.wire.rle import encode_labels

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same archive from the same labels


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
    """A JSON line for each frame: COCO's compressed run lengths of each class, as pycocotools reads them."""

    def __init__(self, path: Path, labels: LabelSet, tick: Fraction) -> None:
        self.file, self.names, self.tick = path.open("wb"), labels.names, tick

    def add(self, record: FrameRecord, labels: U8) -> None:
        height, width = labels.shape
        segments = [
            {
                "category_id": i,
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


class Archive:
    """labels (N, H, W) uint8, seq, pts (−2⁶³ where there is none) and time_s, as numpy.load reads them."""

    def __init__(self, path: Path, frames: int, size: Size, tick: Fraction) -> None:
        self.tick = tick
        self.seqs: list[int] = []
        self.pts: list[int] = []
        self.times: list[float] = []
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=4)
        self.member: IO[bytes] = self._open("labels")
        _npy_header(self.member, np.dtype(np.uint8), (frames, *size))

    def add(self, record: FrameRecord, labels: U8) -> None:
        self.member.write(labels.data)
        self.seqs.append(record.seq)
        self.pts.append(np.iinfo(np.int64).min if record.pts is None else record.pts)
        self.times.append(time_s(record, self.tick))

    def close(self) -> None:
        self.member.close()
        for name, values in (
            ("seq", np.array(self.seqs, np.int64)),
            ("pts", np.array(self.pts, np.int64)),
            ("time_s", np.array(self.times, np.float64)),
        ):
            with self._open(name) as member:
                _npy_header(member, values.dtype, values.shape)
                member.write(values.tobytes())
        self.zip.close()

    def _open(self, name: str) -> IO[bytes]:
        info = zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME)
        info.compress_type = zipfile.ZIP_DEFLATED
        return self.zip.open(info, "w", force_zip64=True)


class AreaTable:
    """A row for each frame: seq, pts, time_s, and the pixels of each class."""

    def __init__(self, path: Path, labels: LabelSet, tick: Fraction) -> None:
        self.file, self.tick = path.open("w", encoding="utf-8", newline=""), tick
        self.classes = range(len(labels.names))
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(["seq", "pts", "time_s", *labels.names])

    def add(self, record: FrameRecord, labels: U8) -> None:
        pixels = [record.pixels.get(i, 0) for i in self.classes]
        pts = "" if record.pts is None else record.pts
        self.rows.writerow([record.seq, pts, time_s(record, self.tick), *pixels])

    def close(self) -> None:
        self.file.close()


class EventTable:
    """A row for each stay of a class: from when to when it had its share of the frame, and its peak."""

    def __init__(self, path: Path, labels: LabelSet, tick: Fraction, share: float, gap_s: float) -> None:
        self.path, self.names, self.tick = path, labels.names, tick
        self.share, self.gap_s = share, gap_s
        self.open: dict[int, list[float]] = {}  # class → from_s, to_s, frames, peak share, peak_s
        self.rows: list[tuple[int, list[float]]] = []

    def add(self, record: FrameRecord, labels: U8) -> None:
        now = time_s(record, self.tick)
        for i in [i for i, event in self.open.items() if now - event[1] > self.gap_s]:
            self.rows.append((i, self.open.pop(i)))
        for i, pixels in record.pixels.items():
            share = pixels / labels.size
            if i >= len(self.names) or share < self.share:
                continue
            event = self.open.setdefault(i, [now, now, 0, 0.0, now])
            event[1:3] = now, event[2] + 1
            if share > event[3]:
                event[3:] = share, now

    def close(self) -> None:
        self.rows += self.open.items()
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["class", "name", "from_s", "to_s", "frames", "peak_share", "peak_s"])
        for i, (from_s, to_s, frames, peak, peak_s) in sorted(self.rows, key=lambda row: (row[1][0], row[0])):
            rows.writerow([i, self.names[i], from_s, to_s, int(frames), round(peak, 6), peak_s])
        self.path.write_text(text.getvalue(), "utf-8")


def time_s(record: FrameRecord, tick: Fraction) -> float:
    return round(float(record.ticks * tick), 6)


def _npy_header(file: IO[bytes], dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, described)
