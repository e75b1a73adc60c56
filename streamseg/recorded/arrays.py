"""Labels as arrays for numpy.load and zarr.open: (N, H, W), with the numbers and times of their frames."""

from __future__ import annotations

import zipfile
from fractions import Fraction
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from streamseg.recorded.exports import time_s
from streamseg.recorded.segments import FrameRecord
from streamseg.types import U8, Size

_ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # the same archive from the same labels
_CHUNK_BYTES = 4 << 20


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


class Archive:
    """labels (N, H, W) uint8, seq, pts and time_s in an .npz."""

    def __init__(self, path: Path, frames: int, size: Size, tick: Fraction) -> None:
        self.stamps = Stamps(tick)
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=4)
        self.member: IO[bytes] = self._open("labels")
        _npy_header(self.member, np.dtype(np.uint8), (frames, *size))

    def add(self, record: FrameRecord, labels: U8) -> None:
        self.member.write(labels.data)
        self.stamps.add(record)

    def close(self) -> None:
        self.member.close()
        for name, values in self.stamps.arrays().items():
            with self._open(name) as member:
                _npy_header(member, values.dtype, values.shape)
                member.write(values.tobytes())
        self.zip.close()

    def _open(self, name: str) -> IO[bytes]:
        info = zipfile.ZipInfo(f"{name}.npy", _ZIP_TIME)
        info.compress_type = zipfile.ZIP_DEFLATED
        return self.zip.open(info, "w", force_zip64=True)


class ZarrGroup:
    """The same in a Zarr group, whose frames can be read one chunk at a time."""

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

    def add(self, record: FrameRecord, labels: U8) -> None:
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


def _npy_header(file: IO[bytes], dtype: np.dtype[np.generic], shape: tuple[int, ...]) -> None:
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_2_0(file, described)
