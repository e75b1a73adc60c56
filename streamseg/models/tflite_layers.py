"""The operators of .tflite graphs in ONNX: the table of them, arithmetic and scaling.

Each takes the graph that is made (tflite_graph.py) and its operator, and checks what it gives against the
shape that the file declares.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np

from streamseg.errors import WeightsError
from streamseg.models import tflite_moves as moves
from streamseg.models.tflite_convolutions import (
    RELU,
    RELU6,
    activation,
    atrous,
    connected,
    convolution,
    finish,
    pool,
    transposed,
)
from streamseg.models.tflite_graph import Conversion, Shape
from streamseg.models.weights.tflite import Operator


def mean(c: Conversion, op: Operator) -> None:
    x, place = c.value(op.inputs[0]), op.outputs[0]
    axes = sorted(int(a) % len(x.shape) for a in c.constant(op.inputs[1], "axes").reshape(-1))
    if len(x.shape) != 4 or axes != [1, 2]:
        raise WeightsError(f"of axes {axes} of {list(x.shape)}: not supported")
    y = c.node("GlobalAveragePool", [x.name], place, "_mean")
    shape: Shape = (1, 1, 1, x.shape[3])
    if not op.options["keep_dims"]:
        y, shape = c.node("Flatten", [y], place, "_flat", axis=1), (1, x.shape[3])
    c.put(place, y, shape, Fraction(0))


def arithmetic(kind: str) -> Callable[[Conversion, Operator], None]:
    """An operation on two tensors, or on one and a constant."""

    def run(c: Conversion, op: Operator) -> None:
        ranks = [len(c.values[i].shape) for i in op.inputs if i in c.values]
        if len(op.inputs) != 2 or not ranks:
            raise WeightsError("is not of two tensors")
        names, shapes, strides = [], [], [Fraction(0)]
        for i in op.inputs:
            if i in c.values:
                value = c.values[i]
                if len(value.shape) != max(ranks):
                    raise WeightsError("is of tensors of different axes: not supported")
                names.append(value.name)
                shapes.append(value.shape)
                strides.append(value.stride)
            else:
                names.append(_operand(c, i, max(ranks)))
                shapes.append(c.tensor(i).shape)
        shape = tuple(int(side) for side in np.broadcast_shapes(*shapes))
        y = c.node(kind, names, op.outputs[0], "_of")
        finish(c, op, y, shape, max(strides))

    return run


def _operand(c: Conversion, place: int, rank: int) -> str:
    """A constant of a sum or product, with the channels where ours are."""
    tensor = c.tensor(place)
    if place < 0 or tensor.data is None or len(tensor.shape) > rank:
        raise WeightsError("is with a constant of more axes")
    data = tensor.real.reshape((1,) * (rank - len(tensor.shape)) + tensor.shape)
    if rank == 4:
        if data.shape[1:3] != (1, 1):
            c.fixed("a constant for each pixel")
        data = data.transpose(0, 3, 1, 2)
    return c.onnx.constant(f"w{place}_{rank}", np.ascontiguousarray(data))


def resize(c: Conversion, op: Operator) -> None:
    """Bilinear or nearest scaling to the sides that the file names, or that another tensor has."""
    x, place = c.value(op.inputs[0]), op.outputs[0]
    wanted = c.constant(op.inputs[1], "sides")
    sides = int(wanted.reshape(-1)[0]), int(wanted.reshape(-1)[1])
    if not all(1 <= side <= 8192 for side in sides):
        raise WeightsError(f"scales to {sides[0]}x{sides[1]}")
    if x.sides == (1, 1) and sides != (1, 1):
        return moves.expand(c, op, sides)
    shape = (1, *sides, x.shape[3])
    other = c.like(sides)
    whole = [Fraction(a, b) for a, b in zip(sides, x.sides, strict=True)]
    scale = whole[0] if whole[0] == whole[1] else Fraction(0)
    stride = other.stride if other else x.stride / scale if scale else x.stride
    if sides == x.sides:
        c.put(place, x.name, shape, x.stride)
        return None
    names = [x.name, "", ""]
    if c.free and other is not None:
        names.append(c.sides_of(place, other, x.name))
    elif c.free and scale.denominator == 1 and scale > 1 and not op.options["align_corners"]:
        names[2:] = [c.onnx.constant(f"t{place}_by", np.array([1, 1, scale, scale], np.float32))]
    else:
        c.fixed("scaling to sides that no other tensor has")
        names.append(c.onnx.constant(f"t{place}_to", [1, x.shape[3], *sides]))
    corners, half = op.options["align_corners"], op.options["half_pixel_centers"]
    how: dict[str, Any] = {
        "coordinate_transformation_mode": "align_corners"
        if corners
        else "half_pixel"
        if half
        else "asymmetric"
    }
    if op.kind == "RESIZE_BILINEAR":
        how["mode"] = "linear"
    else:
        how |= {"mode": "nearest", "nearest_mode": "round_prefer_ceil" if corners else "floor"}
        if half:  # TensorFlow Lite takes the cell in which the centre lies
            how["coordinate_transformation_mode"] = "tf_half_pixel_for_nn"
            if whole[0].denominator != 1:
                raise WeightsError("nearest scaling by no whole number: not supported")
            how["coordinate_transformation_mode"] = "asymmetric"
    c.put(place, c.node("Resize", names, place, "_scaled", **how), shape, stride)
    return None


def single(kind: str, **attributes: Any) -> Callable[[Conversion, Operator], None]:
    """An operation on each number."""

    def run(c: Conversion, op: Operator) -> None:
        x, place = c.value(op.inputs[0]), op.outputs[0]
        c.put(place, c.node(kind, [x.name], place, "_of", **attributes), x.shape, x.stride)

    return run


def fused(kind: int) -> Callable[[Conversion, Operator], None]:
    """An activation as an operator of its own."""

    def run(c: Conversion, op: Operator) -> None:
        x = c.value(op.inputs[0])
        c.put(op.outputs[0], activation(c, kind, x.name, op.outputs[0]), x.shape, x.stride)

    return run


def leaky(c: Conversion, op: Operator) -> None:
    x, place = c.value(op.inputs[0]), op.outputs[0]
    y = c.node("LeakyRelu", [x.name], place, "_of", alpha=float(op.options["alpha"]))
    c.put(place, y, x.shape, x.stride)


def prelu(c: Conversion, op: Operator) -> None:
    x, place = c.value(op.inputs[0]), op.outputs[0]
    slope = _operand(c, op.inputs[1], len(x.shape))
    c.put(place, c.node("PRelu", [x.name, slope], place, "_of"), x.shape, x.stride)


def softmax(c: Conversion, op: Operator) -> None:
    x, place = c.value(op.inputs[0]), op.outputs[0]
    if op.options["beta"] not in (0.0, 1.0):
        raise WeightsError(f"its beta is {op.options['beta']}: not supported")
    y = c.node("Softmax", [x.name], place, "_of", axis=1 if len(x.shape) == 4 else -1)
    c.put(place, y, x.shape, x.stride)


LAYERS: dict[str, Callable[[Conversion, Operator], None]] = {
    "CONV_2D": convolution,
    "DEPTHWISE_CONV_2D": convolution,
    "SPACE_TO_BATCH_ND": atrous,
    "TRANSPOSE_CONV": transposed,
    "FULLY_CONNECTED": connected,
    "AVERAGE_POOL_2D": pool,
    "MAX_POOL_2D": pool,
    "MEAN": mean,
    "ADD": arithmetic("Add"),
    "SUB": arithmetic("Sub"),
    "MUL": arithmetic("Mul"),
    "DIV": arithmetic("Div"),
    "MAXIMUM": arithmetic("Max"),
    "MINIMUM": arithmetic("Min"),
    "RESIZE_BILINEAR": resize,
    "RESIZE_NEAREST_NEIGHBOR": resize,
    "LOGISTIC": single("Sigmoid"),
    "TANH": single("Tanh"),
    "HARD_SWISH": single("HardSwish"),
    "RELU": fused(RELU),
    "RELU6": fused(RELU6),
    "LEAKY_RELU": leaky,
    "PRELU": prelu,
    "SOFTMAX": softmax,
    **moves.MOVES,
}
