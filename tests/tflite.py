"""Writes .tflite files: a FlatBuffers writer, and networks of a few layers."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from streamseg.models.weights.tflite import OPERATORS, OPTIONS, TYPES

CODES = {name: code for code, name in OPERATORS.items()}
TYPE_NUMBERS = {name: number for number, name in TYPES.items()}
# The union BuiltinOptions of schema.fbs: which table the options are.
OPTION_TABLES = {
    "CONV_2D": 1, "DEPTHWISE_CONV_2D": 2, "AVERAGE_POOL_2D": 5, "MAX_POOL_2D": 5, "FULLY_CONNECTED": 8,
    "SOFTMAX": 9, "CONCATENATION": 10, "ADD": 11, "RESIZE_BILINEAR": 15, "RESHAPE": 17, "MUL": 21, "PAD": 22,
    "MEAN": 27, "SUB": 28, "DIV": 29, "STRIDED_SLICE": 32, "SPLIT": 35, "TRANSPOSE_CONV": 49, "TILE": 51,
    "ARG_MAX": 40, "RESIZE_NEAREST_NEIGHBOR": 74, "LEAKY_RELU": 75, "DEPTH_TO_SPACE": 94, "MIRROR_PAD": 77,
    "SLICE": 48, "PADV2": 43, "SPLIT_V": 79,
}  # fmt: skip

Fields = dict[int, Any]  # numbers as ("i", 5), vectors as arrays, texts, tables as Fields, lists of them


def flatbuffer(root: Fields, magic: bytes = b"TFL3") -> bytes:
    """A FlatBuffers file."""
    out = bytearray(b"\0\0\0\0" + magic)
    _write(out, root, 0)
    return bytes(out)


def _write(out: bytearray, value: Any, at: int) -> None:
    """Write what the offset at byte `at` refers to."""
    if isinstance(value, dict):
        place = _table(out, value)
    elif isinstance(value, list):
        _align(out, 4)
        place = len(out)
        out += struct.pack("<I", len(value)) + bytes(4 * len(value))
        for i, one in enumerate(value):
            _write(out, one, place + 4 + 4 * i)
    else:
        data = value.encode() if isinstance(value, str) else np.ascontiguousarray(value).tobytes()
        count = len(data) if isinstance(value, str) else value.size
        _align(out, 16, 12)  # so that what follows the count is aligned
        place = len(out)
        out += struct.pack("<I", count) + data + (b"\0" if isinstance(value, str) else b"")
    struct.pack_into("<I", out, at, place - at)


def _table(out: bytearray, fields: Fields) -> int:
    count = max(fields, default=-1) + 1
    offsets, body, references = [0] * count, bytearray(4), []
    for number, value in sorted(fields.items()):
        kind, scalar = value if isinstance(value, tuple) else ("I", 0)
        _align(body, struct.calcsize(kind))
        offsets[number] = len(body)
        if not isinstance(value, tuple):
            references.append((len(body), value))
        body += struct.pack("<" + kind, scalar)
    _align(out, 8, (8 - (4 + 2 * count)) % 8)
    vtable = len(out)
    out += struct.pack("<HH", 4 + 2 * count, len(body)) + struct.pack(f"<{count}H", *offsets)
    _align(out, 8)
    place = len(out)
    struct.pack_into("<i", body, 0, place - vtable)
    out += body
    for offset, value in references:
        _write(out, value, place + offset)
    return place


def _align(out: bytearray, unit: int, rest: int = 0) -> None:
    out += bytes((rest - len(out)) % unit)


class Net:
    """A .tflite graph while it is written. The picture is its first tensor, 0."""

    def __init__(
        self, shape: Sequence[int] = (1, 33, 33, 3), kind: str = "float32", **quantised: Any
    ) -> None:
        self.tensors: list[Fields] = []
        self.buffers: list[Fields] = [{}]
        self.operators: list[Fields] = []
        self.codes: list[str] = []
        self.tensor(shape, kind, name="picture", **quantised)

    def tensor(
        self, shape: Sequence[int], kind: str = "float32", data: Any = None, *, name: str = "",
        scale: Any = None, zero: Any = 0, axis: int = 0,
    ) -> int:  # fmt: skip
        fields: Fields = {
            0: np.array(shape, "<i4"),
            1: ("b", TYPE_NUMBERS[kind]),
            2: ("I", 0),
            3: name or f"t{len(self.tensors)}",
        }
        if data is not None:
            array = np.asarray(data, kind).reshape(shape)
            self.buffers.append({0: np.frombuffer(array.tobytes(), np.uint8)})
            fields[2] = ("I", len(self.buffers) - 1)
        if scale is not None:
            scales = np.atleast_1d(np.asarray(scale, "<f4"))
            zeros = np.broadcast_to(np.asarray(zero, "<i8"), scales.shape).astype("<i8")
            fields[4] = {2: scales, 3: zeros, 6: ("i", axis)}
        self.tensors.append(fields)
        return len(self.tensors) - 1

    def constant(self, data: Any, kind: str = "float32", **quantised: Any) -> int:
        array = np.asarray(data, kind)
        return self.tensor(array.shape, kind, array, **quantised)

    def op(self, kind: str, inputs: Sequence[int], outputs: int | Sequence[int], **options: Any) -> int:
        if kind not in self.codes:
            self.codes.append(kind)
        many = [outputs] if isinstance(outputs, int) else list(outputs)
        fields: Fields = {
            0: ("I", self.codes.index(kind)),
            1: np.array(inputs, "<i4"),
            2: np.array(many, "<i4"),
        }
        known = {name: (number, code) for name, number, code, _ in OPTIONS.get(kind, ())}
        if kind in OPTION_TABLES:
            fields[3] = ("B", OPTION_TABLES[kind])
            fields[4] = {known[n][0]: (known[n][1], value) for n, value in options.items()}
        self.operators.append(fields)
        return many[0]

    def file(self, outputs: int | Sequence[int]) -> bytes:
        many = [outputs] if isinstance(outputs, int) else list(outputs)
        codes = [{0: ("b", min(CODES[kind], 127)), 2: ("i", 1), 3: ("i", CODES[kind])} for kind in self.codes]
        graph = {
            0: self.tensors,
            1: np.array([0], "<i4"),
            2: np.array(many, "<i4"),
            3: self.operators,
        }
        return flatbuffer({0: ("I", 3), 1: codes, 2: [graph], 4: self.buffers})

    # Layers, with random weights; each gives its output.

    def conv(
        self, x: int, shape: Sequence[int], kernel: int, seed: int, *, depthwise: bool = False,
        inputs: int, stride: int = 1, dilation: int = 1, fused: int = 0, padding: int = 0,
    ) -> int:  # fmt: skip
        rng = np.random.default_rng(seed)
        outputs = shape[3]
        sides = (1, kernel, kernel, outputs) if depthwise else (outputs, kernel, kernel, inputs)
        fan = kernel * kernel * (1 if depthwise else inputs)
        weight = self.constant(rng.normal(0, fan**-0.5, sides))
        bias = self.constant(rng.normal(0, 0.1, outputs))
        y = self.tensor(shape)
        steps = {"stride_h": stride, "stride_w": stride, "dilation_h": dilation, "dilation_w": dilation}
        kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
        return self.op(kind, [x, weight, bias], y, padding=padding, fused=fused, **steps)


def deeplab(side: int = 33, classes: int = 4, *, argmax: bool = True) -> Net:
    """A DeepLab in small: strides of 2 to 1/4, a dilated block, image pooling, aligned corners, argmax.

    Its last tensor is the output.
    """
    net = Net((1, side, side, 3))
    half, quarter = -(-side // 2), -(-side // 4)
    x = net.conv(0, (1, half, half, 6), 3, 1, inputs=3, stride=2, fused=3)
    x = net.conv(x, (1, quarter, quarter, 6), 3, 2, inputs=1, depthwise=True, stride=2, fused=3)
    x = net.conv(x, (1, quarter, quarter, 8), 1, 3, inputs=6)
    y = net.conv(x, (1, quarter, quarter, 8), 3, 4, inputs=1, depthwise=True, dilation=2, fused=1)
    x = net.op("ADD", [x, y], net.tensor((1, quarter, quarter, 8)))
    pooled = net.op(
        "AVERAGE_POOL_2D", [x], net.tensor((1, 1, 1, 8)), padding=1, stride_w=1, stride_h=1,
        filter_w=quarter, filter_h=quarter,
    )  # fmt: skip
    pooled = net.conv(pooled, (1, 1, 1, 4), 1, 5, inputs=8, fused=1)
    sides = net.constant([quarter, quarter], "int32")
    pooled = net.op("RESIZE_BILINEAR", [pooled, sides], net.tensor((1, quarter, quarter, 4)), align_corners=1)
    x = net.op("CONCATENATION", [pooled, x], net.tensor((1, quarter, quarter, 12)), axis=3)
    x = net.conv(x, (1, quarter, quarter, classes), 1, 6, inputs=12)
    whole = net.constant([side, side], "int32")
    x = net.op("RESIZE_BILINEAR", [x, whole], net.tensor((1, side, side, classes)), align_corners=1)
    if argmax:
        axis = net.constant([3], "int32")
        net.op("ARG_MAX", [x, axis], net.tensor((1, side, side), "int64"))
    return net
