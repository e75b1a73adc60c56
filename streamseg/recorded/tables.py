"""Tables of the classes, CSV or Parquet: their pixels in each frame, and when they were there."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from streamseg.recorded.exports import time_s
from streamseg.recorded.segments import FrameRecord
from streamseg.types import U8, LabelSet

Columns = dict[str, type]
_ROW_GROUP = 10_000


class Rows(Protocol):
    """A table in the making; a value is an int, float, str or None, as its column says."""

    def write(self, row: Sequence[Any]) -> None: ...

    def close(self) -> None: ...


class CsvRows:
    """None is an empty field."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.file = path.open("w", encoding="utf-8", newline="")
        self.rows = csv.writer(self.file, lineterminator="\n")
        self.rows.writerow(columns)

    def write(self, row: Sequence[Any]) -> None:
        self.rows.writerow("" if value is None else value for value in row)

    def close(self) -> None:
        self.file.close()


class ParquetRows:
    """int64, float64 and string columns, in groups of rows, so that memory stays flat."""

    def __init__(self, path: Path, columns: Columns) -> None:
        import pyarrow as pa  # an extra
        import pyarrow.parquet as pq

        kinds = {int: pa.int64(), float: pa.float64(), str: pa.string()}
        self._table: Any = pa.Table
        self.schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
        self.writer = pq.ParquetWriter(str(path), self.schema, compression="zstd")
        self.waiting: list[Sequence[Any]] = []

    def write(self, row: Sequence[Any]) -> None:
        self.waiting.append(row)
        if len(self.waiting) == _ROW_GROUP:
            self._flush()

    def close(self) -> None:
        if self.waiting:
            self._flush()
        self.writer.close()

    def _flush(self) -> None:
        columns = [list(column) for column in zip(*self.waiting, strict=True)]
        self.writer.write_table(self._table.from_arrays(columns, schema=self.schema))
        self.waiting = []


def open_rows(path: Path, columns: Columns) -> Rows:
    return (ParquetRows if path.suffix == ".parquet" else CsvRows)(path, columns)


class AreaTable:
    """A row for each frame: seq, pts, time_s, and the pixels of each class."""

    def __init__(self, path: Path, labels: LabelSet, tick: Fraction) -> None:
        self.tick = tick
        self.classes = range(len(labels.names))
        classes = dict.fromkeys(labels.names, int)
        self.rows = open_rows(path, {"seq": int, "pts": int, "time_s": float, **classes})

    def add(self, record: FrameRecord, labels: U8) -> None:
        pixels = [record.pixels.get(i, 0) for i in self.classes]
        self.rows.write([record.seq, record.pts, time_s(record, self.tick), *pixels])

    def close(self) -> None:
        self.rows.close()


class EventTable:
    """A row for each stay of a class: from when to when it had its share of the frame, and its peak."""

    def __init__(self, path: Path, labels: LabelSet, tick: Fraction, share: float, gap_s: float) -> None:
        self.path, self.names, self.tick = path, labels.names, tick
        self.share, self.gap_s = share, gap_s
        self.open: dict[int, list[float]] = {}  # class → from_s, to_s, frames, peak share, peak_s
        self.ended: list[tuple[int, list[float]]] = []

    def add(self, record: FrameRecord, labels: U8) -> None:
        now = time_s(record, self.tick)
        for i in [i for i, event in self.open.items() if now - event[1] > self.gap_s]:
            self.ended.append((i, self.open.pop(i)))
        for i, pixels in record.pixels.items():
            share = pixels / labels.size
            if i >= len(self.names) or share < self.share:
                continue
            event = self.open.setdefault(i, [now, now, 0, 0.0, now])
            event[1:3] = now, event[2] + 1
            if share > event[3]:
                event[3:] = share, now

    def close(self) -> None:
        self.ended += self.open.items()
        times = {"from_s": float, "to_s": float, "frames": int, "peak_share": float, "peak_s": float}
        rows = open_rows(self.path, {"class": int, "name": str, **times})
        for i, (from_s, to_s, frames, peak, peak_s) in sorted(
            self.ended, key=lambda row: (row[1][0], row[0])
        ):
            rows.write([i, self.names[i], from_s, to_s, int(frames), round(peak, 6), peak_s])
        rows.close()
