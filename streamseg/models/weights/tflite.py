"""Reads .tflite files: the tensors and operators of their first graph, quantised or not.

Numbers of fields, types and operators are those of TensorFlow Lite's schema.fbs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import WeightsError
from streamseg.runtime.file_kinds import kind_of
from streamseg.runtime.flatbuffer import FlatBuffer, Table

MAGIC = b"TFL3"  # at byte 4
MOST_BYTES = 1 << 30
MOST_AXES = 6
MOST_VALUES = 1 << 28  # of one tensor, also of one that is computed
MOST_NAMES = 160  # characters of a name that are kept

Array = npt.NDArray[Any]

TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 6: "bool", 7: "int16", 9: "int8"}

OPERATORS = {
    0: "ADD", 1: "AVERAGE_POOL_2D", 2: "CONCATENATION", 3: "CONV_2D", 4: "DEPTHWISE_CONV_2D",
    5: "DEPTH_TO_SPACE", 6: "DEQUANTIZE", 9: "FULLY_CONNECTED", 14: "LOGISTIC", 17: "MAX_POOL_2D", 18: "MUL",
    19: "RELU", 21: "RELU6", 22: "RESHAPE", 23: "RESIZE_BILINEAR", 25: "SOFTMAX", 28: "TANH", 32: "CUSTOM",
    34: "PAD", 36: "GATHER", 37: "BATCH_TO_SPACE_ND", 38: "SPACE_TO_BATCH_ND", 39: "TRANSPOSE", 40: "MEAN",
    41: "SUB", 42: "DIV", 43: "SQUEEZE", 45: "STRIDED_SLICE", 49: "SPLIT", 50: "LOG_SOFTMAX", 53: "CAST",
    54: "PRELU", 55: "MAXIMUM", 56: "ARG_MAX", 57: "MINIMUM", 60: "PADV2", 65: "SLICE", 67: "TRANSPOSE_CONV",
    69: "TILE", 70: "EXPAND_DIMS", 74: "SUM", 77: "SHAPE", 83: "PACK", 97: "RESIZE_NEAREST_NEIGHBOR",
    98: "LEAKY_RELU", 100: "MIRROR_PAD", 102: "SPLIT_V", 114: "QUANTIZE", 117: "HARD_SWISH", 150: "GELU",
}  # fmt: skip

# The options of operators: name, number of its field, kind as in the struct module, default.
_FUSED_ALONE = (("fused", 0, "b", 0),)
_POOL = (
    ("padding", 0, "b", 0),
    ("stride_w", 1, "i", 0),
    ("stride_h", 2, "i", 0),
    ("filter_w", 3, "i", 0),
    ("filter_h", 4, "i", 0),
    ("fused", 5, "b", 0),
)
OPTIONS: dict[str, tuple[tuple[str, int, str, float], ...]] = {
    "CONV_2D": (
        ("padding", 0, "b", 0),
        ("stride_w", 1, "i", 0),
        ("stride_h", 2, "i", 0),
        ("fused", 3, "b", 0),
        ("dilation_w", 4, "i", 1),
        ("dilation_h", 5, "i", 1),
    ),
    "DEPTHWISE_CONV_2D": (
        ("padding", 0, "b", 0),
        ("stride_w", 1, "i", 0),
        ("stride_h", 2, "i", 0),
        ("fused", 4, "b", 0),
        ("dilation_w", 5, "i", 1),
        ("dilation_h", 6, "i", 1),
    ),
    "TRANSPOSE_CONV": (
        ("padding", 0, "b", 0),
        ("stride_w", 1, "i", 0),
        ("stride_h", 2, "i", 0),
        ("fused", 3, "b", 0),
    ),
    "FULLY_CONNECTED": (("fused", 0, "b", 0), ("weights_format", 1, "b", 0)),
    "AVERAGE_POOL_2D": _POOL,
    "MAX_POOL_2D": _POOL,
    "CONCATENATION": (("axis", 0, "i", 0), ("fused", 1, "b", 0)),
    "ADD": _FUSED_ALONE,
    "SUB": _FUSED_ALONE,
    "MUL": _FUSED_ALONE,
    "DIV": _FUSED_ALONE,
    "RESIZE_BILINEAR": (("align_corners", 2, "b", 0), ("half_pixel_centers", 3, "b", 0)),
    "RESIZE_NEAREST_NEIGHBOR": (("align_corners", 0, "b", 0), ("half_pixel_centers", 1, "b", 0)),
    "MEAN": (("keep_dims", 0, "b", 0),),
    "SOFTMAX": (("beta", 0, "f", 0.0),),
    "LEAKY_RELU": (("alpha", 0, "f", 0.0),),
    "DEPTH_TO_SPACE": (("block", 0, "i", 0),),
    "MIRROR_PAD": (("mode", 0, "b", 0),),
    "SPLIT": (("count", 0, "i", 0),),
    "STRIDED_SLICE": (
        ("begin_mask", 0, "i", 0),
        ("end_mask", 1, "i", 0),
        ("ellipsis_mask", 2, "i", 0),
        ("new_axis_mask", 3, "i", 0),
        ("shrink_axis_mask", 4, "i", 0),
    ),
}


@dataclass(frozen=True, slots=True)
class Quantisation:
    """real = scale · (stored − zero), along one axis or for the whole tensor."""

    scale: npt.NDArray[np.float32]  # one, or one for each place along `axis`
    zero: npt.NDArray[np.int64]  # as many
    axis: int

    def range(self, kind: str) -> tuple[float, float]:
        """The least and the greatest number that uint8 or int8 hold."""
        first = 0 if kind == "uint8" else -128
        low, high = (float(self.scale[0]) * (first + n - int(self.zero[0])) for n in (0, 255))
        return low, high


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor of the graph; constants have data."""

    name: str
    shape: tuple[int, ...]
    type: str
    data: Array | None
    quantisation: Quantisation | None

    @property
    def real(self) -> npt.NDArray[np.float32]:
        """A constant's values, dequantised."""
        assert self.data is not None
        q = self.quantisation
        if q is None:
            return self.data.astype(np.float32)
        shape = [1] * self.data.ndim
        if len(q.scale) > 1:
            shape[q.axis] = -1
        zero, scale = (v.reshape(shape if len(v) > 1 else ()).astype(np.float64) for v in (q.zero, q.scale))
        return ((self.data.astype(np.float64) - zero) * scale).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Operator:
    """A step of the graph; inputs and outputs are places in its list of tensors, −1 for one left out."""

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Graph:
    """The tensors and operators of a file, in the order in which they run."""

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(path: Path) -> Graph:
    """The graph of a .tflite file; raises WeightsError, which begins with the file's name."""
    try:
        size = path.stat().st_size
        if size > MOST_BYTES:
            raise WeightsError(
                f"{path}: has {size / 1e9:.1f} GB; {MOST_BYTES >> 30} GB at most are supported"
            )
        data = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        return read_graph(data)
    except WeightsError as error:
        kind = kind_of(data[:64])
        reason = f"it is {kind}" if kind and data[4:8] != MAGIC else str(error)
        raise WeightsError(f"{path}: is damaged or not a .tflite file: {reason}") from error


def read_graph(data: bytes) -> Graph:
    """The same from bytes in memory. Constants are windows of `data`."""
    if data[4:8] != MAGIC:
        raise WeightsError("it does not begin as one")
    model = FlatBuffer(data).root()
    graphs = model.tables(2)
    if len(graphs) != 1:
        raise WeightsError(f"has {len(graphs)} graphs; only files with one are supported")
    graph = graphs[0]
    buffers = [_buffer(table) for table in model.tables(4)]
    tensors = tuple(_tensor(table, buffers) for table in graph.tables(0))
    names = [_operator_name(table) for table in model.tables(1)]
    operators = tuple(_operator(table, names, len(tensors)) for table in graph.tables(3))
    ends = [_places(graph.numbers(i, "<i4"), len(tensors), "the graph") for i in (1, 2)]
    if not operators or any(i < 0 for end in ends for i in end):
        raise WeightsError("the graph has no operators, or an input that is left out")
    return Graph(tensors, operators, *ends)


def _buffer(table: Table) -> Array:
    if table.scalar(1, "Q") > 1:
        raise WeightsError("has weights outside of its tables, as only files above 2 GB have")
    return table.numbers(0, "u1")


def _tensor(table: Table, buffers: list[Array]) -> Tensor:
    name = table.text(3)[:MOST_NAMES]
    shape = tuple(int(side) for side in table.numbers(0, "<i4"))
    kind = TYPES.get(number := table.scalar(1, "b"), f"type {number}")
    if len(shape) > MOST_AXES or any(side < 0 for side in shape) or math.prod(shape) > MOST_VALUES:
        raise WeightsError(f"tensor {name!r} has the shape {list(shape[:8])}")
    place = table.scalar(2, "I")
    if place >= len(buffers):
        raise WeightsError(f"tensor {name!r} is in buffer {place} of {len(buffers)}")
    quantised = table.table(4)
    quantisation = None if quantised is None else _quantisation(quantised, shape, name)
    if not len(buffers[place]):
        return Tensor(name, shape, kind, None, quantisation)
    if number not in TYPES or table.has(6):
        raise WeightsError(f"tensor {name!r} has constants that are sparse, or of {kind}: not supported")
    dtype = np.dtype(kind).newbyteorder("<")
    if len(buffers[place]) != math.prod(shape) * dtype.itemsize:
        raise WeightsError(
            f"tensor {name!r} has {len(buffers[place])} bytes for the shape {list(shape)} of {kind}"
        )
    return Tensor(name, shape, kind, buffers[place].view(dtype).reshape(shape), quantisation)


def _quantisation(table: Table, shape: tuple[int, ...], name: str) -> Quantisation | None:
    scale, zero, axis = table.numbers(2, "<f4"), table.numbers(3, "<i8"), table.scalar(6, "i")
    if not len(scale):
        return None
    if not len(zero):
        zero = np.zeros(len(scale), np.int64)
    sides = shape[axis] if 0 <= axis < len(shape) else 1
    if len(scale) not in (1, sides) or len(zero) not in (1, len(scale)):
        raise WeightsError(f"tensor {name!r} has {len(scale)} scales for the shape {list(shape)}")
    if not (np.isfinite(scale).all() and (scale > 0).all() and (np.abs(zero) < 2**31).all()):
        raise WeightsError(f"tensor {name!r} has scales that are not above 0, or an impossible zero")
    return Quantisation(scale, np.broadcast_to(zero, scale.shape), axis if len(scale) > 1 else 0)


def _operator_name(table: Table) -> str:
    code = max(int(table.scalar(0, "b")), int(table.scalar(3, "i")))  # the first held all when there were few
    name = OPERATORS.get(code, f"operator {code}")
    return table.text(1)[:MOST_NAMES] or name if name == "CUSTOM" else name


def _operator(table: Table, names: list[str], tensors: int) -> Operator:
    place = table.scalar(0, "I")
    if place >= len(names):
        raise WeightsError(f"an operator has code {place} of {len(names)}")
    kind = names[place]
    inputs, outputs = (_places(table.numbers(i, "<i4"), tensors, kind) for i in (1, 2))
    if not outputs or any(i < 0 for i in outputs):
        raise WeightsError(f"{kind} has no output")
    given = table.table(4)
    options = {
        name: default if given is None else given.scalar(number, code, default)
        for name, number, code, default in OPTIONS.get(kind, ())
    }
    return Operator(kind, inputs, outputs, options)


def _places(numbers: Array, count: int, what: str) -> tuple[int, ...]:
    places = tuple(int(i) for i in numbers[:1024])
    if any(not -1 <= i < count for i in places) or len(numbers) > len(places):
        raise WeightsError(f"{what} refers to tensors that are not there")
    return places
