"""The part of the protobuf wire format that files of weights need, with a bound on everything.

Nothing is copied, and no claimed length is trusted: every field is a window into the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from streamseg.errors import WeightsError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MOST_FIELDS = 2_000_000  # in one file, runs of unpacked floats counted once

Window = npt.NDArray[np.uint8]


class Field(NamedTuple):
    """One field: its number, and its value as an integer or as a window of bytes."""

    number: int
    wire: int
    value: int
    window: Window


class Reader:
    """Reads the fields of messages in one file, and counts them."""

    def __init__(self, data: Window) -> None:
        self._left = MOST_FIELDS
        self.data = data

    def fields(self, window: Window, runs: tuple[int, ...] = ()) -> Iterator[Field]:
        """The fields of the message that fills `window`, in order; raises WeightsError where it is broken.

        A run of fixed32 or fixed64 fields with one of the numbers `runs` comes as one field of their bytes.
        """
        at, end = 0, len(window)
        empty = window[:0]
        while at < end:
            self._left -= 1
            if self._left < 0:
                raise WeightsError(f"more than {MOST_FIELDS} fields")
            start = at
            key, at = _varint(window, at)
            number, wire = key >> 3, key & 7
            if number == 0 or number > 0x1FFFFFFF:
                raise WeightsError(f"field number {number} at byte {start}")
            if wire == VARINT:
                value, at = _varint(window, at)
                yield Field(number, wire, value, empty)
            elif wire == BYTES:
                length, at = _varint(window, at)
                if length > end - at:
                    raise WeightsError(f"field {number} claims {length} bytes where {end - at} are left")
                yield Field(number, wire, 0, window[at : at + length])
                at += length
            elif wire in (FIXED32, FIXED64):
                size = 4 if wire == FIXED32 else 8
                if size > end - at:
                    raise WeightsError(f"field {number} is cut off")
                if number in runs and at - start == 1:
                    count = _run(window[start:], int(window[start]), size + 1)
                    run = window[start : start + count * (size + 1)].reshape(count, size + 1)
                    yield Field(number, wire, 0, run[:, 1:].reshape(-1))
                    at = start + count * (size + 1)
                else:
                    yield Field(number, wire, 0, window[at : at + size])
                    at += size
            else:
                raise WeightsError(f"field {number} has wire type {wire}")


def varints(window: Window, most: int) -> list[int]:
    """The packed varints that fill `window`, at most `most` of them."""
    values: list[int] = []
    at = 0
    while at < len(window):
        if len(values) == most:
            raise WeightsError(f"more than {most} packed numbers")
        value, at = _varint(window, at)
        values.append(value)
    return values


def _varint(window: Window, at: int) -> tuple[int, int]:
    value = 0
    for i in range(10):
        if at + i >= len(window):
            raise WeightsError("cut off inside a number")
        byte = int(window[at + i])
        value |= (byte & 0x7F) << (7 * i)
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at + i + 1
    raise WeightsError("a number of more than ten bytes")


def _run(window: Window, tag: int, step: int) -> int:
    """How many elements of `step` bytes stand at the start of `window`, each beginning with `tag`."""
    whole, count, stretch = len(window) // step, 0, 16
    while count < whole:
        stop = min(count + stretch, whole)
        other = window[count * step : stop * step : step] != tag
        if other.any():
            return count + int(other.argmax())
        count, stretch = stop, stretch * 4
    return count


def varint(value: int) -> bytes:
    """A number as protobuf has it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
