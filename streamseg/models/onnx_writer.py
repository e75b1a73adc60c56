"""Writes ONNX graphs without the onnx library, so that released files become engines in a light install.

Field numbers are those of onnx.proto.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.runtime.protobuf import varint

Array = npt.NDArray[Any]
Side = int | str | None  # of a shape: a name for one that is free

IR_VERSION = 8
TYPES = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "int64": 7}
_FLOAT, _INT, _STRING, _FLOATS, _INTS = 1, 2, 3, 6, 7  # AttributeProto.type


class OnnxGraph:
    """A graph to which nodes and constants are added in order."""

    def __init__(self, name: str, opset: int) -> None:
        self._name, self._opset = name, opset
        self._nodes: list[bytes] = []
        self._constants: dict[str, bytes] = {}
        self._ports: list[bytes] = []

    def constant(self, name: str, value: Array | Sequence[int] | float) -> str:
        """Add a constant, once: the same name again is the same constant. Lists are int64, floats float32."""
        if name not in self._constants:
            kind = (
                None
                if isinstance(value, np.ndarray)
                else np.float32
                if isinstance(value, float)
                else np.int64
            )
            array = np.asarray(value, kind)
            dims = b"".join(_number(1, side) for side in array.shape)
            kind_number = _number(2, TYPES[array.dtype.name])
            raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
            self._constants[name] = dims + kind_number + _text(8, name) + _bytes(9, raw)
        return name

    def node(self, kind: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> str:
        """Add a node; gives its first output's name. Attributes are int, float, str or lists of numbers."""
        parts = [_text(1, name) for name in inputs] + [_text(2, name) for name in outputs]
        parts += [_text(3, f"{kind}_{outputs[0]}"), _text(4, kind)]
        parts += [_bytes(5, _attribute(name, value)) for name, value in attributes.items()]
        self._nodes.append(b"".join(parts))
        return outputs[0]

    def port(self, name: str, kind: str, shape: Sequence[Side], *, output: bool = False) -> None:
        """Declare an input or output."""
        dims = b"".join(
            _bytes(1, _text(2, side) if isinstance(side, str) else _number(1, side or 0)) for side in shape
        )
        tensor = _number(1, TYPES[kind]) + _bytes(2, dims)
        self._ports.append(_bytes(12 if output else 11, _text(1, name) + _bytes(2, _bytes(1, tensor))))

    def model(self) -> bytes:
        """The whole file."""
        graph = [_bytes(1, node) for node in self._nodes]
        graph += [_text(2, self._name), *(_bytes(5, tensor) for tensor in self._constants.values())]
        graph += self._ports
        opset = _bytes(8, _text(1, "") + _number(2, self._opset))
        return _number(1, IR_VERSION) + _text(2, "streamseg") + _bytes(7, b"".join(graph)) + opset


def _attribute(name: str, value: Any) -> bytes:
    begin = _text(1, name)
    if isinstance(value, float):
        return begin + _key(2, 5) + struct.pack("<f", value) + _number(20, _FLOAT)
    if isinstance(value, int):
        return begin + _number(3, value) + _number(20, _INT)
    if isinstance(value, str):
        return begin + _text(4, value) + _number(20, _STRING)
    if any(isinstance(one, float) for one in value):
        floats = b"".join(_key(7, 5) + struct.pack("<f", one) for one in value)
        return begin + floats + _number(20, _FLOATS)
    return begin + b"".join(_number(8, one) for one in value) + _number(20, _INTS)


def _key(field: int, wire: int) -> bytes:
    return varint(field << 3 | wire)


def _number(field: int, value: int) -> bytes:
    return _key(field, 0) + varint(int(value) & 0xFFFFFFFFFFFFFFFF)


def _text(field: int, value: str) -> bytes:
    return _bytes(field, value.encode())


def _bytes(field: int, value: bytes) -> bytes:
    return _key(field, 2) + varint(len(value)) + value
