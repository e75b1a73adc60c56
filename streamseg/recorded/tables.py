"""What is counted of the classes: a summary, and tables (CSV or Parquet) of their pixels and events."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

from streamseg.recorded.exports import time_s
from streamseg.recorded.segments import FrameRecord
from streamseg.types import U8, LabelSet

Columns = dict[str, type]
_ROW_GROUP = 10_000
_MAX_BINS = 600


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

    def add(self, record: FrameRecord, labels: U8, confidence: U8 | None) -> None:
        pixels = [record.pixels.get(i, 0) for i in self.classes]
        self.rows.write([record.seq, record.pts, time_s(record, self.tick), *pixels])

    def close(self) -> None:
        self.rows.close()


class EventTable:
    """A row for each event of a class: from when to when it had its share of the frame, and its peak."""

    def __init__(self, path: Path, labels: LabelSet, tick: Fraction, share: float, gap_s: float) -> None:
        self.path, self.names, self.tick = path, labels.names, tick
        self.share, self.gap_s = share, gap_s
        self.open: dict[int, list[float]] = {}  # class → from_s, to_s, frames, peak share, peak_s
        self.ended: list[tuple[int, list[float]]] = []

    def add(self, record: FrameRecord, labels: U8, confidence: U8 | None) -> None:
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


class Summary:
    """Adds up masks one by one; its memory grows with the length in seconds, not with the frames."""

    def __init__(self, names: Sequence[str], tick: Fraction) -> None:
        self.names, self.tick = names, tick
        self.frames = 0
        self._whole: Counter[int] = Counter()
        self._seconds: dict[int, tuple[int, Counter[int]]] = {}  # second → (frames, pixels by class)
        self._seen: dict[int, tuple[float, float]] = {}  # class → first and last time
        self._peaks: dict[int, tuple[float, float]] = {}  # class → (share, time)

    def add(self, record: FrameRecord) -> None:
        self.frames += 1
        time = record.ticks * self.tick
        time_s = round(float(time), 6)
        labelled = {i: n for i, n in record.pixels.items() if i < len(self.names)}
        all_labelled = sum(labelled.values())
        self._whole.update(labelled)
        count, pixels = self._seconds.get(int(time), (0, Counter()))
        pixels.update(labelled)
        self._seconds[int(time)] = (count + 1, pixels)
        for i, n in labelled.items():
            self._seen[i] = (self._seen.get(i, (time_s, 0))[0], time_s)
            if n / all_labelled > self._peaks.get(i, (0.0, 0.0))[0]:
                self._peaks[i] = (n / all_labelled, time_s)

    def result(self) -> dict[str, Any]:
        """Plain values for JSON; a share is of the pixels that have a class, null where none has.

        over_time has bins of one second, or as many seconds as keep it within _MAX_BINS.
        """
        seconds = sorted(self._seconds)
        width = max(1, math.ceil((seconds[-1] - seconds[0] + 1) / _MAX_BINS)) if seconds else 1
        total = sum(self._whole.values())
        return {
            "frames": self.frames,
            "bin_s": width,
            "classes": [self._class(i, name, total) for i, name in enumerate(self.names)],
            "over_time": self._over_time(width),
        }

    def _class(self, i: int, name: str, total: int) -> dict[str, Any]:
        first_s, last_s = self._seen.get(i, (None, None))
        peak_share, peak_s = self._peaks.get(i, (0.0, None))
        return {
            "id": i,
            "name": name,
            "share": _share(self._whole[i], total),
            "first_s": first_s,
            "last_s": last_s,
            "peak_share": round(peak_share, 6) if total else None,
            "peak_s": peak_s,
        }

    def _over_time(self, width: int) -> list[dict[str, Any]]:
        bins: dict[int, tuple[int, Counter[int]]] = {}
        for second, (frames, pixels) in sorted(self._seconds.items()):
            at = second // width * width
            before, merged = bins.get(at, (0, Counter()))
            bins[at] = (before + frames, merged + pixels)
        return [
            {
                "from_s": at,
                "frames": frames,
                "shares": {self.names[i]: _share(n, pixels.total()) for i, n in sorted(pixels.items())},
            }
            for at, (frames, pixels) in bins.items()
        ]


def _share(pixels: int, total: int) -> float | None:
    return round(pixels / total, 6) if total else None
