"""An engine's ONNX graph as a torch module.

Supports the operations that our exporters write (_OPERATIONS); a graph with others is refused by name. Sizes
stay Python integers, so that torch.export keeps them dynamic. Needs torch and onnx.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import NodeProto, numpy_helper
from torch import Tensor, nn

from streamseg.errors import EngineError
from streamseg.inference.backends.onnx_edit import fold_batch_norm

Value = Any  # a Tensor; or of sizes an int or a list of ints


class GraphModule(nn.Module):
    """uint8 RGB (N, H, W, 3), or what the graph takes, to float32 logits (N, C, h, w).

    Convolutions and what follows them compute in `dtype`; what precedes the first one, the normalisation,
    stays fp32. Batch normalisations are folded into the convolution before them.
    """

    def __init__(self, graph: bytes, dtype: torch.dtype = torch.float32) -> None:
        """Raises EngineError for a graph with other operations."""
        super().__init__()
        model = onnx.load_from_string(graph)
        fold_batch_norm(model.graph)
        arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        nodes = list(model.graph.node)
        unknown = sorted({node.op_type for node in nodes} - _OPERATIONS.keys())
        if unknown:
            raise EngineError(
                f"backend torch: does not support {', '.join(unknown)} of this graph; choose another backend"
            )
        self._input = model.graph.input[0].name
        self._output = model.graph.output[0].name
        self._sizes: dict[str, Value] = {}
        self._buffers_of: dict[str, str] = {}
        factors = {
            node.input[2] for node in nodes if node.op_type in ("Resize", "Pad") and len(node.input) > 2
        }
        half = {name for node in nodes if node.op_type == "Conv" for name in node.input[1:]}
        for number, (name, array) in enumerate(arrays.items()):
            if (array.dtype == np.int64 and array.ndim <= 1) or name in factors:
                self._sizes[name] = array.tolist()
                continue
            tensor = torch.from_numpy(np.array(array))
            self._buffers_of[name] = f"w{number}"
            self.register_buffer(f"w{number}", tensor.to(dtype) if name in half else tensor)
        self._steps = [
            (_OPERATIONS[node.op_type], list(node.input), list(node.output), _attributes(node))
            for node in nodes
        ]
        last = {name: at for at, step in enumerate(self._steps) for name in step[1]}
        self._done_after = [
            [name for name in step[1] if last[name] == at] for at, step in enumerate(self._steps)
        ]

    def forward(self, image: Tensor) -> Tensor:
        values: dict[str, Value] = {"": None, **self._sizes, self._input: image}
        for name, buffer in self._buffers_of.items():
            values[name] = getattr(self, buffer)
        for (run, inputs, outputs, attributes), done in zip(self._steps, self._done_after, strict=True):
            values[outputs[0]] = run(attributes, *(values[name] for name in inputs))
            for name in done:
                if name != self._output:
                    values[name] = None
        logits: Tensor = values[self._output]
        return logits.float()


def _attributes(node: NodeProto) -> dict[str, Any]:
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def _conv(at: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    x = x.to(weight.dtype)
    if (top, left) != (bottom, right):
        x = F.pad(x, (left, right, top, bottom))
        top = left = 0
    return F.conv2d(
        x,
        weight,
        bias,
        at.get("strides", [1, 1]),
        (top, left),
        at.get("dilations", [1, 1]),
        at.get("group", 1),
    )


def _batch_norm(at: dict[str, Any], x: Tensor, *parameters: Tensor) -> Tensor:
    scale, shift, mean, variance = (p.to(x.dtype) for p in parameters)
    return F.batch_norm(x, mean, variance, scale, shift, eps=at.get("epsilon", 1e-5))


def _max_pool(at: dict[str, Any], x: Tensor) -> Tensor:
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise EngineError("backend torch: no MaxPool with uneven padding; choose another backend")
    ceil = bool(at.get("ceil_mode", 0))
    dilation = at.get("dilations", [1, 1])
    return F.max_pool2d(x, at["kernel_shape"], at.get("strides", [1, 1]), (top, left), dilation, ceil)


def _average_pool(at: dict[str, Any], x: Tensor) -> Tensor:
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise EngineError("backend torch: no AveragePool with uneven padding; choose another backend")
    return F.avg_pool2d(
        x,
        at["kernel_shape"],
        at.get("strides", [1, 1]),
        (top, left),
        bool(at.get("ceil_mode", 0)),
        bool(at.get("count_include_pad", 0)),
    )


def _resize(
    at: dict[str, Any], x: Tensor, _roi: Value = None, scales: Value = None, sizes: Value = None
) -> Tensor:
    how = at.get("coordinate_transformation_mode", b"half_pixel")
    if at.get("mode") != b"linear" or how not in (b"half_pixel", b"align_corners"):
        raise EngineError("backend torch: only bilinear Resize; choose another backend")
    if sizes is None:
        sizes = [int(f) * s if f == int(f) else math.floor(f * s)
                 for f, s in zip(scales, x.shape, strict=True)]  # fmt: skip
    return F.interpolate(x, list(sizes[2:]), mode="bilinear", align_corners=how == b"align_corners")


def _reduce_mean(at: dict[str, Any], x: Tensor, axes: Value = None) -> Tensor:
    return x.mean(tuple(axes if axes is not None else at["axes"]), keepdim=bool(at.get("keepdims", 1)))


def _pad(at: dict[str, Any], x: Tensor, pads: Value, value: Value = None, axes: Value = None) -> Tensor:
    if at.get("mode", b"constant") != b"constant":
        raise EngineError("backend torch: only Pad with a constant; choose another backend")
    rank = x.dim()
    before, after = [0] * rank, [0] * rank
    count = len(pads) // 2
    for i, axis in enumerate(axes if axes is not None else range(rank)):
        before[axis], after[axis] = pads[i], pads[count + i]
    flat = [side for axis in reversed(range(rank)) for side in (before[axis], after[axis])]
    return F.pad(x, flat, value=0.0 if value is None else float(value))


def _slice(
    _at: dict[str, Any], x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None
) -> Value:
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


def _squeeze(_at: dict[str, Any], x: Value, axes: Value = None) -> Value:
    if isinstance(x, Tensor):
        return x.squeeze() if axes is None else x.squeeze(tuple(axes))
    return x[0] if isinstance(x, list) and len(x) == 1 else x


def _unsqueeze(_at: dict[str, Any], x: Value, axes: Value) -> Value:
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


_DTYPES = {onnx.TensorProto.INT64: torch.int64, onnx.TensorProto.UINT8: torch.uint8}


def _both(on_tensors: Callable[[Any, Any], Any], on_sizes: Callable[[Any, Any], Any]) -> Callable[..., Value]:
    """An operation with two operands: tensors, or sizes element by element."""

    def run(_at: dict[str, Any], a: Value, b: Value) -> Value:
        if isinstance(a, Tensor) or isinstance(b, Tensor):
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


_OPERATIONS: dict[str, Callable[..., Value]] = {
    "Add": _both(lambda a, b: a + b, lambda a, b: a + b),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Concat": _concat,
    "Conv": _conv,
    "Div": _both(lambda a, b: a / b, lambda a, b: a // b),
    "Expand": lambda _at, x, shape: x.expand(torch.broadcast_shapes(x.shape, tuple(shape))),  # type: ignore[no-untyped-call]
    "Gather": _gather,
    "GlobalAveragePool": lambda _at, x: x.mean((2, 3), keepdim=True),
    "HardSigmoid": lambda at, x: torch.clamp(x * at.get("alpha", 0.2) + at.get("beta", 0.5), 0, 1),
    "HardSwish": lambda _at, x: F.hardswish(x),
    "Identity": lambda _at, x: x,
    "Max": _both(torch.maximum, max),
    "MaxPool": _max_pool,
    "Mul": _both(lambda a, b: a * b, lambda a, b: a * b),
    "Pad": _pad,
    "ReduceMean": _reduce_mean,
    "Relu": lambda _at, x: F.relu(x),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda _at, x: torch.sigmoid(x),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _both(lambda a, b: a - b, lambda a, b: a - b),
    "Transpose": lambda at, x: x.permute(at["perm"]),
    "Unsqueeze": _unsqueeze,
}
