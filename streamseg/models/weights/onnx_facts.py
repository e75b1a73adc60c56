"""What an ONNX file tells beyond its inputs and outputs: metadata, first arithmetic, last operations."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.errors import EngineError, WeightsError
from streamseg.inference.onnx_file import OnnxSurface, read_surface
from streamseg.runtime.protobuf import BYTES, VARINT, Reader, Window

_MOST_TEXT = 1 << 20  # bytes of one metadata entry
_MOST_NUMBERS = 3  # of a constant that may be a mean or a std
# What changes the shape or the type of values, and not what they mean.
_THROUGH = {
    "Cast", "Clip", "DequantizeLinear", "Dropout", "Flatten", "Identity", "QuantizeLinear", "Reshape",
    "Resize", "Slice", "Squeeze", "Transpose", "Unsqueeze", "Upsample",
}  # fmt: skip
_ARITHMETIC = ("Sub", "Add", "Div", "Mul")


class Arithmetic(msgspec.Struct, frozen=True):
    """An operation with a constant, of one number or of one for each channel."""

    operation: str
    constant: tuple[float, ...]


class Facts(msgspec.Struct, frozen=True):
    """What a file says of itself."""

    surface: OnnxSurface
    metadata: dict[str, str]
    producer: str
    opset: int
    made_by: dict[str, str]  # of each output, the last operation that is more than a change of shape or type
    first: tuple[Arithmetic, ...]  # what the graph itself computes of the picture before its first layer


class _Node(msgspec.Struct):
    operation: str
    inputs: list[str]
    outputs: list[str]


def read_facts(data: bytes, what: str) -> Facts:
    """Read a graph; `what` begins the EngineError of a file that is none."""
    surface = read_surface(data, what)
    window = np.frombuffer(data, np.uint8)
    reader = Reader(window)
    metadata: dict[str, str] = {}
    producer, opset, graph = "", 0, window[:0]
    try:
        for field in reader.fields(window):
            if field.number == 2 and field.wire == BYTES:
                producer = _text(field.window)
            elif field.number == 7 and field.wire == BYTES:
                graph = field.window
            elif field.number == 8 and field.wire == BYTES:
                opset = max(opset, _opset(reader, field.window))
            elif field.number == 14 and field.wire == BYTES:
                texts = {f.number: _text(f.window) for f in reader.fields(field.window) if f.wire == BYTES}
                metadata[texts.get(1, "")] = texts.get(2, "")
        nodes, constants = _nodes(reader, graph)
    except WeightsError as error:
        raise EngineError(f"{what} is damaged: {error}") from error
    made = {name: node for node in nodes for name in node.outputs}
    made_by = {port.name: _maker(port.name, made) for port in surface.outputs}
    first = tuple(_first(surface.inputs[0].name, nodes, constants)) if surface.inputs else ()
    return Facts(surface, metadata, producer, opset, made_by, first)


def _text(window: Window) -> str:
    return window[:_MOST_TEXT].tobytes().decode("utf-8", "replace")


def _opset(reader: Reader, window: Window) -> int:
    domain, version = "", 0
    for field in reader.fields(window):
        if field.number == 1 and field.wire == BYTES:
            domain = _text(field.window)
        elif field.number == 2 and field.wire == VARINT:
            version = field.value
    return version if domain in ("", "ai.onnx") else 0


def _nodes(reader: Reader, graph: Window) -> tuple[list[_Node], dict[str, tuple[float, ...]]]:
    """The nodes of a graph, and its small constants by name."""
    nodes: list[_Node] = []
    constants: dict[str, tuple[float, ...]] = {}
    for field in reader.fields(graph):
        if field.wire != BYTES:
            continue
        if field.number == 5:
            name, numbers = _constant(reader, field.window)
            if numbers:
                constants[name] = numbers
        elif field.number == 1:
            node = _Node("", [], [])
            for part in reader.fields(field.window):
                if part.wire != BYTES:
                    continue
                if part.number in (1, 2):
                    (node.inputs if part.number == 1 else node.outputs).append(_text(part.window))
                elif part.number == 4:
                    node.operation = _text(part.window)
                elif part.number == 5 and node.operation in ("", "Constant"):
                    tensors = (
                        f.window for f in reader.fields(part.window) if f.number == 5 and f.wire == BYTES
                    )
                    for _, numbers in (_constant(reader, tensor) for tensor in tensors):
                        if numbers and node.outputs:
                            constants[node.outputs[0]] = numbers
            nodes.append(node)
    return nodes, constants


def _constant(reader: Reader, tensor: Window) -> tuple[str, tuple[float, ...]]:
    """A tensor's name, and its numbers where they are few and floats."""
    name, kind, numbers = "", 0, b""
    for field in reader.fields(tensor, runs=(4,)):
        if field.number == 2 and field.wire == VARINT:
            kind = field.value
        elif field.number == 8 and field.wire == BYTES:
            name = _text(field.window)
        elif field.number in (4, 9) and len(field.window) <= 8 * _MOST_NUMBERS:
            numbers = field.window.tobytes()
    types: dict[int, npt.DTypeLike] = {1: np.float32, 10: np.float16, 11: np.float64}
    if kind not in types or not numbers or len(numbers) % np.dtype(types[kind]).itemsize:
        return name, ()
    values = np.frombuffer(numbers, types[kind])
    return name, tuple(float(v) for v in values) if len(values) in (1, _MOST_NUMBERS) else ()


def _maker(name: str, made: dict[str, _Node]) -> str:
    for _ in range(len(made)):
        node = made.get(name)
        if node is None:
            return ""
        if node.operation not in _THROUGH or not node.inputs:
            return node.operation
        name = node.inputs[0]
    return ""


def _first(name: str, nodes: list[_Node], constants: dict[str, tuple[float, ...]]) -> Iterator[Arithmetic]:
    """Follow the picture through arithmetic with constants, as long as it goes one way."""
    for _ in range(len(nodes)):
        users = [n for n in nodes if name in n.inputs and n.operation != "Shape"]
        if len(users) != 1 or not users[0].outputs:
            return
        (node,) = users
        if node.operation in _ARITHMETIC:
            others = [constants[one] for one in node.inputs if one in constants]
            if len(others) != 1:
                return
            yield Arithmetic(node.operation, others[0])
        elif node.operation not in _THROUGH:
            return
        name = node.outputs[0]
