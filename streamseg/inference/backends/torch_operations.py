"""The table of ONNX operations in torch, those of segmentation networks, and those that work on sizes, too.

Each takes its node's attributes, with `opset` and the number of `outputs`, and its inputs: tensors, or sizes
as Python integers and lists of them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.errors import EngineError
from streamseg.inference.backends import torch_layers as layers
from streamseg.inference.backends.torch_layers import Value


def _split(at: dict[str, Any], x: Value, sizes: Value = None) -> tuple[Value, ...]:
    axis = at.get("axis", 0)
    sizes = at.get("split") if sizes is None else sizes
    if sizes is None:
        whole = len(x) if isinstance(x, list) else x.shape[axis]
        each = -(-whole // at["outputs"])
        sizes = [min(each, whole - start) for start in range(0, whole, each)]
    if isinstance(x, list):
        return tuple(x[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes)))
    return tuple(x.split(sizes, axis))


def _many(function: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    return lambda _at, first, *others: functools.reduce(function, others, first)


def _filled(at: dict[str, Any], shape: Value) -> Value:
    value = at.get("value")
    array = np.zeros(1, np.float32) if value is None else onnx.numpy_helper.to_array(value)
    if array.dtype == np.int64 and len(shape) <= 1:
        return array.tolist() * (shape[0] if shape else 1)
    return torch.full(tuple(shape), array.item(), dtype=torch.from_numpy(array).dtype)


def _where(_at: dict[str, Any], condition: Value, a: Value, b: Value) -> Value:
    if isinstance(condition, Tensor):
        return torch.where(condition, a, b)
    if not isinstance(condition, list):
        return a if condition else b
    ones, others = _as_long(a, condition), _as_long(b, condition)
    return [x if c else y for c, x, y in zip(condition, ones, others, strict=True)]


def _range(_at: dict[str, Any], start: Value, limit: Value, delta: Value) -> Value:
    if all(isinstance(value, int) for value in (start, limit, delta)):
        return list(range(start, limit, delta))
    raise EngineError("backend torch: only Range of sizes; choose another backend")


def _slice(
    at: dict[str, Any],
    x: Value,
    starts: Value = None,
    ends: Value = None,
    axes: Value = None,
    steps: Value = None,
) -> Value:
    if starts is None:  # before opset 10
        starts, ends, axes = at["starts"], at["ends"], at.get("axes")
    if isinstance(x, list):
        return x[starts[0] : ends[0] : steps[0] if steps else 1]
    for i, axis in enumerate(axes if axes is not None else range(len(starts))):
        index: list[slice] = [slice(None)] * x.dim()
        end = ends[i] if not isinstance(ends[i], int) or ends[i] < 2**31 else None
        index[axis] = slice(starts[i], end, steps[i] if steps else 1)
        x = x[tuple(index)]
    return x


def _gather(at: dict[str, Any], x: Value, indices: Value) -> Value:
    axis = at.get("axis", 0)
    if isinstance(x, list):
        return [x[i] for i in indices] if isinstance(indices, list) else x[indices]
    if isinstance(indices, int):
        return x.select(axis, indices)
    if isinstance(indices, list):  # not as a tensor: a CUDA graph cannot record a copy from the host
        return torch.stack([x.select(axis, i) for i in indices], axis)
    return x.index_select(axis, indices)


def _reshape(_at: dict[str, Any], x: Value, shape: Value) -> Value:
    if not isinstance(x, Tensor):  # a size becomes a list of one, or the reverse
        flat = x if isinstance(x, list) else [x]
        return flat if shape else flat[0]
    wanted = [x.shape[i] if side == 0 else side for i, side in enumerate(shape)]
    return x.reshape(wanted)


def _squeeze(at: dict[str, Any], x: Value, axes: Value = None) -> Value:
    axes = at.get("axes") if axes is None else axes
    if isinstance(x, Tensor):
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))
    return x[0] if isinstance(x, list) and len(x) == 1 else x


def _unsqueeze(at: dict[str, Any], x: Value, axes: Value = None) -> Value:
    axes = at["axes"] if axes is None else axes
    if not isinstance(x, Tensor):
        return [x]
    for axis in sorted(axes):
        x = x.unsqueeze(axis)
    return x


def _concat(at: dict[str, Any], *parts: Value) -> Value:
    if all(isinstance(part, list) for part in parts):
        return [size for part in parts for size in part]
    return torch.cat(parts, at["axis"])


def _cast(at: dict[str, Any], x: Value) -> Value:
    if not isinstance(x, Tensor):
        return x
    return x.float() if at["to"] == onnx.TensorProto.FLOAT else x.to(_DTYPES[at["to"]])


_DTYPES = {
    onnx.TensorProto.UINT8: torch.uint8,
    onnx.TensorProto.INT8: torch.int8,
    onnx.TensorProto.INT32: torch.int32,
    onnx.TensorProto.INT64: torch.int64,
    onnx.TensorProto.BOOL: torch.bool,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.DOUBLE: torch.float64,
}


def _both(on_tensors: Callable[[Any, Any], Any], on_sizes: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    """An operation with two operands: tensors, or sizes element by element."""

    def run(_at: dict[str, Any], a: Value, b: Value) -> Value:
        if isinstance(a, Tensor) or isinstance(b, Tensor):
            a, b = (
                v if isinstance(v, Tensor) else torch.tensor(v, device=o.device) for v, o in ((a, b), (b, a))
            )
            return on_tensors(a, b)
        if not isinstance(a, list) and not isinstance(b, list):
            return on_sizes(a, b)
        first, second = _as_long(a, b), _as_long(b, a)
        return [on_sizes(x, y) for x, y in zip(first, second, strict=True)]

    return run


def _as_long(a: Value, b: Value) -> Sequence[Value]:
    length = len(b) if isinstance(b, list) else 1
    if not isinstance(a, list):
        return [a] * length
    return a * length if len(a) == 1 else a


def _shape(at: dict[str, Any], x: Tensor) -> list[int]:
    return list(x.shape)[at.get("start", 0) : at.get("end", x.dim())]


OPERATIONS: dict[str, Callable[..., Value]] = {
    "Abs": lambda _at, x: abs(x),
    "ArgMax": layers.best(torch.argmax),
    "ArgMin": layers.best(torch.argmin),
    "Clip": layers.clip,
    "ConstantOfShape": _filled,
    "ConvTranspose": layers.conv_transpose,
    "DepthToSpace": layers.depth_to_space,
    "Dropout": lambda _at, x, *_ratio: x,
    "Elu": lambda at, x: F.elu(x, at.get("alpha", 1.0)),
    "Equal": _both(lambda a, b: a == b, lambda a, b: a == b),
    "Erf": lambda _at, x: torch.erf(x),
    "Exp": lambda _at, x: torch.exp(x),
    "Flatten": layers.flatten,
    "Floor": lambda _at, x: torch.floor(x),
    "Gelu": layers.gelu,
    "Gemm": layers.gemm,
    "GlobalMaxPool": lambda _at, x: x.amax((2, 3), keepdim=True),
    "Greater": _both(lambda a, b: a > b, lambda a, b: a > b),
    "InstanceNormalization": layers.instance_norm,
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": lambda at, x: F.leaky_relu(x, at.get("alpha", 0.01)),
    "Less": _both(lambda a, b: a < b, lambda a, b: a < b),
    "Log": lambda _at, x: torch.log(x),
    "LogSoftmax": layers.softmax(F.log_softmax),
    "MatMul": layers.matmul,
    "Min": _many(torch.minimum),
    "Mish": lambda _at, x: F.mish(x),
    "Neg": lambda _at, x: -x,
    "PRelu": lambda _at, x, slope: torch.where(x < 0, x * slope.to(x.dtype), x),
    "Pow": _both(lambda a, b: a**b, lambda a, b: a**b),
    "Range": _range,
    "Reciprocal": lambda _at, x: 1 / x,
    "Softmax": layers.softmax(F.softmax),
    "Softplus": lambda _at, x: F.softplus(x),
    "Split": _split,
    "Sqrt": lambda _at, x: torch.sqrt(x),
    "Sum": _many(lambda a, b: a + b),
    "Tanh": lambda _at, x: torch.tanh(x),
    "Where": _where,
    "Add": _both(lambda a, b: a + b, lambda a, b: a + b),
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": layers.conv,
    "Div": _both(lambda a, b: a / b, lambda a, b: a // b),
    "Expand": lambda _at, x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(shape))),  # type: ignore[no-untyped-call]
    "Gather": _gather,
    "GlobalAveragePool": lambda _at, x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda at, x: torch.clamp(x * at.get("alpha", 0.2) + at.get("beta", 0.5), 0, 1),
    "HardSwish": lambda _at, x: F.hardswish(x),
    "Identity": lambda _at, x: x,
    "Max": _both(torch.maximum, max),  # also of sizes
    "MaxPool": layers.max_pool,
    "Mul": _both(lambda a, b: a * b, lambda a, b: a * b),
    "Pad": layers.pad,
    "ReduceMax": layers.reduce(lambda x, axes, keep: x.amax(axes, keep)),
    "ReduceMean": layers.reduce(lambda x, axes, keep: x.mean(axes, keep)),
    "ReduceMin": layers.reduce(lambda x, axes, keep: x.amin(axes, keep)),
    "ReduceSum": layers.reduce(lambda x, axes, keep: x.sum(axes, keep)),
    "Relu": lambda _at, x: F.relu(x),
    "Reshape": _reshape,
    "Resize": layers.resize,
    "Shape": _shape,
    "Sigmoid": lambda _at, x: torch.sigmoid(x),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _both(lambda a, b: a - b, lambda a, b: a - b),
    "Transpose": lambda at, x: x.permute(at["perm"]),
    "Unsqueeze": _unsqueeze,
}
