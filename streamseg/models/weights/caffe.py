"""Reads .caffemodel files: a serialized NetParameter, with the old list of layers or the new one.

Field numbers are those of caffe.proto. Only what weights need is read: names and blobs.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt

from streamseg.errors import WeightsError
from streamseg.runtime.protobuf import BYTES, FIXED32, FIXED64, VARINT, Reader, Window, varints

Blob = npt.NDArray[np.float32]
Layers = dict[str, list[Blob]]

NET_LAYERS, NET_LAYER = 2, 100
NAME_BLOBS = {NET_LAYERS: (4, 6), NET_LAYER: (1, 7)}  # field numbers of a layer's name and its blobs
LEGACY = (1, 2, 3, 4)  # num, channels, height, width
DATA, SHAPE, DOUBLE_DATA = 5, 7, 8

MOST_BYTES = 1 << 30
MOST_LAYERS = 20_000
MOST_BLOBS = 16  # of a layer
MOST_AXES = 32  # as Caffe itself allows
LONGEST_NAME = 512  # bytes


def read_caffemodel(path: Path) -> Layers:
    """The blobs of every layer that has any, by the layer's name, in the file's order.

    Raises WeightsError, which begins with the file's name, for a damaged file. Takes little
    more memory than the file's size, also for sizes that the file only claims.
    """
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise WeightsError(f"{path}: has {size / 1e9:.1f} GB, larger than any DeepLab .caffemodel")
        data = np.fromfile(path, np.uint8)
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return read_layers(data)
    except WeightsError as error:
        raise WeightsError(f"{path}: is damaged or not a .caffemodel: {error}") from error


def read_layers(data: Window) -> Layers:
    """The same from bytes in memory. Blobs may be windows of `data`."""
    reader = Reader(data)
    layers: Layers = {}
    count = 0
    for field in reader.fields(data):
        if field.number not in NAME_BLOBS:
            continue
        if field.wire != BYTES:
            raise WeightsError(f"field {field.number}, a layer, is not a message")
        count += 1
        if count > MOST_LAYERS:
            raise WeightsError(f"more than {MOST_LAYERS} layers")
        name, blobs = _layer(reader, field.window, *NAME_BLOBS[field.number])
        if not blobs:
            continue
        if name in layers:
            raise WeightsError(f"two layers are named {name!r}")
        layers[name] = blobs
    if not layers:
        raise WeightsError("no layer has weights")
    return layers


def _layer(reader: Reader, window: Window, name_field: int, blob_field: int) -> tuple[str, list[Blob]]:
    name, windows = "", []
    for field in reader.fields(window):
        if field.number == name_field and field.wire == BYTES:
            if len(field.window) > LONGEST_NAME:
                raise WeightsError(f"a layer's name of {len(field.window)} bytes")
            try:
                name = field.window.tobytes().decode("utf-8")
            except UnicodeDecodeError as error:
                raise WeightsError("a layer's name is not UTF-8") from error
        elif field.number == blob_field and field.wire == BYTES:
            windows.append(field.window)
            if len(windows) > MOST_BLOBS:
                raise WeightsError(f"layer {name!r} has more than {MOST_BLOBS} blobs")
    blobs = []
    for i, blob in enumerate(windows):
        try:
            blobs.append(_blob(reader, blob))
        except WeightsError as error:
            raise WeightsError(f"layer {name!r}, blob {i}: {error}") from error
    return name, blobs


def _blob(reader: Reader, window: Window) -> Blob:
    legacy: dict[int, int] = {}
    shape: list[int] | None = None
    parts: list[Blob] = []
    for field in reader.fields(window, runs=(DATA, DOUBLE_DATA)):
        if field.number in LEGACY and field.wire == VARINT:
            legacy[field.number] = field.value
        elif field.number == SHAPE and field.wire == BYTES:
            shape = (shape or []) + _dims(reader, field.window)
            if len(shape) > MOST_AXES:
                raise WeightsError(f"more than {MOST_AXES} axes")
        elif field.number == DATA and field.wire in (BYTES, FIXED32):
            parts.append(_numbers(field.window, "<f4"))
        elif field.number == DOUBLE_DATA and field.wire in (BYTES, FIXED64):
            parts.append(_numbers(field.window, "<f8"))
    if shape is None:
        shape = [legacy.get(axis, 0) for axis in LEGACY]
    values = parts[0] if len(parts) == 1 else np.concatenate([np.empty(0, np.float32), *parts])
    if any(side > 0x7FFFFFFF for side in shape) or math.prod(shape) != values.size:
        raise WeightsError(f"has {values.size} numbers for the shape {tuple(shape)}")
    try:
        return values.reshape(shape)
    except ValueError as error:  # no numbers, and sides whose product is too large for an array
        raise WeightsError(f"has {values.size} numbers for the shape {tuple(shape)}") from error


def _dims(reader: Reader, window: Window) -> list[int]:
    dims: list[int] = []
    for field in reader.fields(window):
        if field.number == 1 and field.wire == VARINT:
            dims.append(field.value)
        elif field.number == 1 and field.wire == BYTES:
            dims += varints(field.window, MOST_AXES)
        if len(dims) > MOST_AXES:
            raise WeightsError(f"more than {MOST_AXES} axes")
    return dims


def _numbers(window: Window, kind: str) -> Blob:
    size = np.dtype(kind).itemsize
    if len(window) % size:
        raise WeightsError(f"{len(window)} bytes of numbers of {size} bytes each")
    with np.errstate(over="ignore", invalid="ignore"):  # a double beyond float32 becomes infinite
        return np.ascontiguousarray(window).view(kind).astype(np.float32, copy=False)
