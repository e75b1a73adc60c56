"""The part of the FlatBuffers format that files of weights need, with a bound on everything.

Nothing is copied, and no offset, length or count of the file is trusted: each is checked before it is used.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import WeightsError

MOST_TABLES = 200_000  # in one file; a table that several refer to counts each time
MOST_ITEMS = 65_536  # tables in one vector
LONGEST_TEXT = 4096  # bytes

_U16, _I32, _U32 = struct.Struct("<H"), struct.Struct("<i"), struct.Struct("<I")


class FlatBuffer:
    """One file; counts the tables that are read from it."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.left = MOST_TABLES

    def root(self) -> Table:
        """The file's first table; raises WeightsError, as all that is below it."""
        return Table(self, self.target(0))

    def target(self, at: int) -> int:
        """Where the offset at byte `at` points to."""
        return at + int(self.number(_U32, at))

    def number(self, of: struct.Struct, at: int) -> Any:
        if not 0 <= at <= len(self.data) - of.size:
            raise WeightsError(f"refers to byte {at}, but has {len(self.data)}")
        return of.unpack_from(self.data, at)[0]


class Table:
    """A table: its fields by their numbers, each with a default where the file leaves it out."""

    __slots__ = ("_at", "_buffer", "_fields", "_size", "_table")

    def __init__(self, buffer: FlatBuffer, at: int) -> None:
        buffer.left -= 1
        if buffer.left < 0:
            raise WeightsError(f"more than {MOST_TABLES} tables")
        self._buffer, self._at = buffer, at
        self._table = at - buffer.number(_I32, at)
        length = buffer.number(_U16, self._table)
        self._size = buffer.number(_U16, self._table + 2)
        if length < 4 or length % 2 or self._table + length > len(buffer.data):
            raise WeightsError(f"the list of fields at byte {self._table} is broken")
        if self._size < 4 or at + self._size > len(buffer.data):
            raise WeightsError(f"the table at byte {at} is cut off")
        self._fields = (length - 4) // 2

    def scalar(self, field: int, kind: str, default: float = 0) -> Any:
        """A number; `kind` as in the struct module, such as "i" for int32."""
        of = struct.Struct("<" + kind)
        at = self._place(field, of.size)
        return default if at is None else self._buffer.number(of, at)

    def table(self, field: int) -> Table | None:
        at = self._place(field, 4)
        return None if at is None else Table(self._buffer, self._buffer.target(at))

    def tables(self, field: int) -> list[Table]:
        """The tables of a vector."""
        start, count = self._vector(field, 4)
        if count > MOST_ITEMS:
            raise WeightsError(f"a list of {count} tables; {MOST_ITEMS} at most are supported")
        return [Table(self._buffer, self._buffer.target(start + 4 * i)) for i in range(count)]

    def numbers(self, field: int, kind: str) -> npt.NDArray[Any]:
        """The numbers of a vector, without a copy; `kind` as in NumPy, such as "<i4"."""
        dtype = np.dtype(kind)
        start, count = self._vector(field, dtype.itemsize)
        return np.frombuffer(self._buffer.data, dtype, count, start) if count else np.empty(0, dtype)

    def has(self, field: int) -> bool:
        return self._place(field, 1) is not None

    def text(self, field: int) -> str:
        """A text, cut to LONGEST_TEXT bytes; bytes that are no UTF-8 are replaced."""
        return bytes(self.numbers(field, "u1")[:LONGEST_TEXT]).decode("utf-8", "replace")

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        """Where the items of a vector begin, and how many there are; all lie in the file."""
        at = self._place(field, 4)
        if at is None:
            return 0, 0
        at = self._buffer.target(at)
        count = self._buffer.number(_U32, at)
        if count * size > len(self._buffer.data) - at - 4:
            raise WeightsError(f"claims {count} items of {size} bytes at byte {at}, more than are left")
        return at + 4, count

    def _place(self, field: int, size: int) -> int | None:
        """Where a field's bytes are; None for one that the table does not have."""
        if field >= self._fields:
            return None
        offset = self._buffer.number(_U16, self._table + 4 + 2 * field)
        if offset == 0:
            return None
        if offset < 4 or offset + size > self._size:
            raise WeightsError(f"field {field} of the table at byte {self._at} lies outside of it")
        return int(self._at + offset)
