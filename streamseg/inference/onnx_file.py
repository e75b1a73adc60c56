"""What an ONNX file says of itself, read without a library: inputs, outputs, and weights in other files.

Field numbers are those of onnx.proto. Weights are not looked at, and only the parts that refer to others are
walked through.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import msgspec
import numpy as np

from streamseg.errors import EngineError, WeightsError
from streamseg.runtime.file_kinds import kind_of
from streamseg.runtime.protobuf import BYTES, VARINT, Reader, Window, varint

MOST_DEPTH = 100  # messages in one another; a graph in a node of a graph is three
MOST_BYTES = 2**31 - 1  # of a protobuf message, so of a graph with its weights

MODEL, GRAPH, NODE, ATTRIBUTE, TENSOR, SPARSE, FUNCTION = range(7)
# Messages that lie in messages: how a tensor is reached, by field number.
INSIDE: dict[int, dict[int, int]] = {
    MODEL: {7: GRAPH, 25: FUNCTION},
    GRAPH: {1: NODE, 5: TENSOR, 15: SPARSE},
    NODE: {5: ATTRIBUTE},
    ATTRIBUTE: {5: TENSOR, 6: GRAPH, 10: TENSOR, 11: GRAPH, 22: SPARSE, 23: SPARSE},
    SPARSE: {1: TENSOR, 2: TENSOR},
    FUNCTION: {7: NODE},
    TENSOR: {},
}
_LONGEST_NAME = 255  # of a file, with its folders
RAW_DATA, EXTERNAL_DATA, DATA_LOCATION = 9, 13, 14  # of a tensor
TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string",
    9: "bool", 10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip


class Port(msgspec.Struct, frozen=True):
    """An input or output of a graph."""

    name: str
    type: str  # such as "float32"; empty where the file does not say
    shape: tuple[int | None, ...] | None  # None for a side that is free; None as a whole where it is not said

    def __str__(self) -> str:
        sides = (
            "" if self.shape is None else f" ({', '.join('?' if s is None else str(s) for s in self.shape)})"
        )
        name = self.name if self.name.isprintable() else repr(self.name)
        return f"{name[:_LONGEST_NAME]}: {self.type or 'no tensor'}{sides}"


class OnnxSurface(msgspec.Struct, frozen=True):
    """What an ONNX file says of itself."""

    inputs: tuple[Port, ...]  # without those that have a value in the file
    outputs: tuple[Port, ...]
    beside: tuple[str, ...]  # other files with weights, as the graph names them


def read_surface(data: Window | bytes, what: str) -> OnnxSurface:
    """Read an ONNX file's inputs and outputs; `what` begins the EngineError of a file that is none."""
    window = np.frombuffer(data, np.uint8) if isinstance(data, bytes) else data
    try:
        reader = Reader(window)
        graphs = [f.window for f in reader.fields(window) if f.number == 7 and f.wire == BYTES]
        if len(graphs) != 1:
            raise WeightsError("it has no graph")
        inputs, outputs, valued = [], [], set()
        for field in reader.fields(graphs[0]):
            if field.wire != BYTES:
                continue
            if field.number == 11:
                inputs.append(_port(reader, field.window))
            elif field.number == 12:
                outputs.append(_port(reader, field.window))
            elif field.number == 5:
                valued.add(_text(reader, field.window, 8))
        beside = dict.fromkeys(place["location"] for place in _external(Reader(window), window, MODEL))
        return OnnxSurface(
            tuple(port for port in inputs if port.name not in valued), tuple(outputs), tuple(beside)
        )
    except (WeightsError, KeyError, UnicodeDecodeError) as error:
        kind = kind_of(bytes(window[:64]))
        reason = f"it is {kind}" if kind else f"damaged, or another kind of file ({error})"
        raise EngineError(f"{what} is not an ONNX file: {reason}") from error


def checked_name(location: str, what: str) -> str:
    """The name of a file beside a graph; raises EngineError for one outside of the graph's folder."""
    path = PurePosixPath(location.replace("\\", "/"))
    if not location.isprintable() or len(location) > _LONGEST_NAME:
        raise EngineError(f"{what} refers to weights in a file of an impossible name ({location[:40]!r})")
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise EngineError(
            f"{what} refers to weights outside of its folder ({location!r}); save it as one file, "
            "or with its weights beside it"
        )
    return str(path)


def in_one_file(data: bytes, folder: Path, what: str) -> bytes:
    """The graph with the weights of other files in `folder` put into it; raises EngineError."""
    window = np.frombuffer(data, np.uint8)
    files: dict[str, Window] = {}
    try:
        joined = _joined(Reader(window), window, MODEL, folder, files, what)
    except WeightsError as error:
        raise EngineError(f"{what} is damaged: {error}") from error
    if len(joined) > MOST_BYTES:
        raise EngineError(
            f"{what} has {len(joined) / 1e9:.1f} GB with its weights; 2 GB at most are supported"
        )
    return joined


def _port(reader: Reader, window: Window) -> Port:
    name, kind, shape = "", "", None
    for field in reader.fields(window):
        if field.number == 1 and field.wire == BYTES:
            name = field.window.tobytes().decode()
        elif field.number == 2 and field.wire == BYTES:
            tensors = [f.window for f in reader.fields(field.window) if f.number == 1 and f.wire == BYTES]
            for inner in (f for tensor in tensors for f in reader.fields(tensor)):
                if inner.number == 1:
                    kind = TYPES.get(inner.value, f"type {inner.value}")
                elif inner.number == 2 and inner.wire == BYTES:
                    shape = tuple(_sides(reader, inner.window))
    return Port(name, kind, shape)


def _sides(reader: Reader, window: Window) -> Iterator[int | None]:
    for dim in reader.fields(window):
        if dim.number == 1 and dim.wire == BYTES:
            values = [f.value for f in reader.fields(dim.window) if f.number == 1 and f.wire == VARINT]
            yield values[-1] if values and 0 < values[-1] < 2**31 else None


def _text(reader: Reader, window: Window, number: int) -> str:
    texts = [f.window.tobytes() for f in reader.fields(window) if f.number == number and f.wire == BYTES]
    return texts[-1].decode() if texts else ""


def _external(reader: Reader, window: Window, kind: int, depth: int = 0) -> Iterator[dict[str, str]]:
    """Where the tensors below a message are that are not in the file."""
    if depth > MOST_DEPTH:
        raise WeightsError(f"more than {MOST_DEPTH} messages in one another")
    if kind == TENSOR:
        place = _place(reader, window)
        if place:
            yield place
        return
    for field in reader.fields(window):
        inner = INSIDE[kind].get(field.number)
        if inner is not None and field.wire == BYTES:
            yield from _external(reader, field.window, inner, depth + 1)


def _place(reader: Reader, tensor: Window) -> dict[str, str]:
    """The location, offset and length of a tensor in another file; empty for one in this file."""
    outside, place = False, {}
    for field in reader.fields(tensor):
        if field.number == DATA_LOCATION and field.wire == VARINT:
            outside = field.value == 1
        elif field.number == EXTERNAL_DATA and field.wire == BYTES:
            place[_text(reader, field.window, 1)] = _text(reader, field.window, 2)
    return place if outside else {}


def _joined(
    reader: Reader, window: Window, kind: int, folder: Path, files: dict[str, Window], what: str
) -> bytes:
    parts = []
    place = _place(reader, window) if kind == TENSOR else {}
    for field in reader.fields(window):
        inner = INSIDE[kind].get(field.number)
        if place and field.number in (RAW_DATA, EXTERNAL_DATA, DATA_LOCATION):
            continue
        if field.wire == VARINT:
            parts.append(varint(field.number << 3) + varint(field.value))
        elif field.wire == BYTES:
            body = field.window.tobytes()
            if inner is not None:
                body = _joined(reader, field.window, inner, folder, files, what)
            parts.append(varint(field.number << 3 | BYTES) + varint(len(body)) + body)
        else:
            parts.append(varint(field.number << 3 | field.wire) + field.window.tobytes())
    if place:
        body = _outside(place, folder, files, what)
        parts.append(varint(RAW_DATA << 3 | BYTES) + varint(len(body)) + body)
    return b"".join(parts)


def _outside(place: dict[str, str], folder: Path, files: dict[str, Window], what: str) -> bytes:
    name = checked_name(place.get("location", ""), what)
    try:
        if name not in files:
            files[name] = np.memmap(folder / name, np.uint8, "r")
        offset = int(place.get("offset", 0))
        length = int(place.get("length", len(files[name]) - offset))
    except OSError as error:
        raise EngineError(f"{what} has weights in {name}, which cannot be read ({error.strerror})") from error
    except ValueError as error:  # of numbers, and of an empty file
        raise EngineError(f"{what} has weights in {name} that cannot be found there: {error}") from error
    if offset < 0 or length < 0 or offset + length > len(files[name]):
        raise EngineError(
            f"{what} has weights in {name} up to byte {offset + length}, but that file has {len(files[name])}"
        )
    return files[name][offset : offset + length].tobytes()
