"""ONNX operations on tensors in torch: convolutions, products, pools, norms, scaling.

Each takes its node's attributes, with `opset` and the number of `outputs`, and its inputs.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from streamseg.errors import EngineError

Value = Any  # a Tensor; or of sizes an int or a list of ints


def conv(at: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    x = x.to(weight.dtype)
    strides, dilations = at.get("strides", [1, 1]), at.get("dilations", [1, 1])
    if at.get("auto_pad", b"NOTSET") in (b"SAME_UPPER", b"SAME_LOWER"):
        (top, bottom), (left, right) = (
            _same(int(x.shape[2 + i]), int(weight.shape[2 + i]), strides[i], dilations[i], at["auto_pad"])
            for i in (0, 1)
        )
    if (top, left) != (bottom, right):
        x = F.pad(x, (left, right, top, bottom))
        top = left = 0
    return F.conv2d(x, weight, bias, strides, (top, left), dilations, at.get("group", 1))


def _same(side: int, kernel: int, stride: int, dilation: int, how: bytes) -> tuple[int, int]:
    """Padding before and after, so that a side becomes side / stride, as TensorFlow's exports have it."""
    whole = max(0, (-(-side // stride) - 1) * stride + (kernel - 1) * dilation + 1 - side)
    less = whole // 2
    return (less, whole - less) if how == b"SAME_UPPER" else (whole - less, less)


def conv_transpose(at: dict[str, Any], x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    if at.get("auto_pad", b"NOTSET") != b"NOTSET" or "output_shape" in at:
        raise EngineError("backend torch: only ConvTranspose with padding; choose another backend")
    rest = at.get("output_padding", [0, 0])
    more = (rest[0] + top - bottom, rest[1] + left - right)  # padding that is uneven
    if min(more) < 0:
        raise EngineError("backend torch: no ConvTranspose with such padding; choose another backend")
    strides, dilations = at.get("strides", [1, 1]), at.get("dilations", [1, 1])
    return F.conv_transpose2d(
        x.to(weight.dtype), weight, bias, strides, (top, left), more, at.get("group", 1), dilations
    )


def matmul(_at: dict[str, Any], a: Tensor, b: Tensor) -> Tensor:
    dtype = min(a.dtype, b.dtype, key=lambda kind: kind.itemsize)
    return a.to(dtype) @ b.to(dtype)


def gemm(at: dict[str, Any], a: Tensor, b: Tensor, c: Tensor | None = None) -> Tensor:
    left, right = (a.t() if at.get("transA") else a), (b.t() if at.get("transB") else b)
    product: Tensor = at.get("alpha", 1.0) * matmul(at, left, right)
    return product if c is None else product + at.get("beta", 1.0) * c.to(product.dtype)


def softmax(function: Callable[..., Tensor]) -> Callable[..., Value]:
    def run(at: dict[str, Any], x: Tensor) -> Tensor:
        if at["opset"] >= 13:
            return function(x, at.get("axis", -1))
        axis = at.get("axis", 1) % x.dim()  # over all axes from there on
        return function(x.flatten(axis), axis).reshape(x.shape)

    return run


def layer_norm(at: dict[str, Any], x: Tensor, scale: Tensor, shift: Tensor | None = None) -> Tensor:
    shape = x.shape[at.get("axis", -1) % x.dim() :]
    weight, bias = (None if t is None else t.to(x.dtype).expand(shape) for t in (scale, shift))
    return F.layer_norm(x, shape, weight, bias, at.get("epsilon", 1e-5))


def instance_norm(at: dict[str, Any], x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    weight, bias = scale.to(x.dtype), shift.to(x.dtype)
    return F.instance_norm(x, weight=weight, bias=bias, eps=at.get("epsilon", 1e-5))


def clip(at: dict[str, Any], x: Value, low: Value = None, high: Value = None) -> Value:
    low = at.get("min") if low is None else low
    high = at.get("max") if high is None else high
    if low is None and high is None:
        return x
    bounds = [b.to(x.dtype) if isinstance(b, Tensor) else b for b in (low, high)]
    if any(isinstance(b, Tensor) for b in bounds):  # both alike
        bounds = [b if b is None or isinstance(b, Tensor) else x.new_tensor(b) for b in bounds]
    return torch.clamp(x, bounds[0], bounds[1])


def flatten(at: dict[str, Any], x: Tensor) -> Tensor:
    axis = at.get("axis", 1)
    axis = axis + x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:axis]), -1)


def best(function: Callable[..., Tensor]) -> Callable[..., Value]:
    def run(at: dict[str, Any], x: Tensor) -> Tensor:
        if at.get("select_last_index"):
            raise EngineError("backend torch: no ArgMax of the last index; choose another backend")
        return function(x, at.get("axis", 0), keepdim=bool(at.get("keepdims", 1)))

    return run


def reduce(function: Callable[..., Tensor]) -> Callable[..., Value]:
    def run(at: dict[str, Any], x: Tensor, axes: Value = None) -> Value:
        axes = at.get("axes") if axes is None else axes
        if not axes and at.get("noop_with_empty_axes"):
            return x
        return function(x, tuple(axes or range(x.dim())), bool(at.get("keepdims", 1)))

    return run


def gelu(at: dict[str, Any], x: Tensor) -> Tensor:
    return F.gelu(x, approximate=at.get("approximate", b"none").decode())


def depth_to_space(at: dict[str, Any], x: Tensor) -> Tensor:
    block = at["blocksize"]
    if at.get("mode", b"DCR") == b"CRD":
        return F.pixel_shuffle(x, block)
    n, channels, height, width = x.shape
    parts = x.reshape(n, block, block, channels // block**2, height, width).permute(0, 3, 4, 1, 5, 2)
    return parts.reshape(n, channels // block**2, height * block, width * block)


def batch_norm(at: dict[str, Any], x: Tensor, *parameters: Tensor) -> Tensor:
    scale, shift, mean, variance = (p.to(x.dtype) for p in parameters)
    return F.batch_norm(x, mean, variance, scale, shift, eps=at.get("epsilon", 1e-5))


def max_pool(at: dict[str, Any], x: Tensor) -> Tensor:
    top, left, bottom, right = at.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        raise EngineError("backend torch: no MaxPool with uneven padding; choose another backend")
    ceil = bool(at.get("ceil_mode", 0))
    dilation = at.get("dilations", [1, 1])
    return F.max_pool2d(x, at["kernel_shape"], at.get("strides", [1, 1]), (top, left), dilation, ceil)


def average_pool(at: dict[str, Any], x: Tensor) -> Tensor:
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


def resize(
    at: dict[str, Any], x: Tensor, _roi: Value = None, scales: Value = None, sizes: Value = None
) -> Tensor:
    how = at.get("coordinate_transformation_mode", b"half_pixel")
    if at.get("mode") != b"linear" or how not in (b"half_pixel", b"align_corners"):
        raise EngineError("backend torch: only bilinear Resize; choose another backend")
    if sizes is None:
        sizes = [int(f) * s if f == int(f) else math.floor(f * s)
                 for f, s in zip(scales, x.shape, strict=True)]  # fmt: skip
    return F.interpolate(x, list(sizes[2:]), mode="bilinear", align_corners=how == b"align_corners")


def pad(at: dict[str, Any], x: Tensor, pads: Value = None, value: Value = None, axes: Value = None) -> Tensor:
    if pads is None:  # before opset 11
        pads, value = at["pads"], at.get("value")
    if at.get("mode", b"constant") != b"constant":
        raise EngineError("backend torch: only Pad with a constant; choose another backend")
    rank = x.dim()
    before, after = [0] * rank, [0] * rank
    count = len(pads) // 2
    for i, axis in enumerate(axes if axes is not None else range(rank)):
        before[axis], after[axis] = pads[i], pads[count + i]
    flat = [side for axis in reversed(range(rank)) for side in (before[axis], after[axis])]
    return F.pad(x, flat, value=0.0 if value is None else float(value))
