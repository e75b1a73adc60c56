"""The convolutions, pools and matrix products of .tflite graphs in ONNX, and the activations behind them."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from streamseg.errors import WeightsError
from streamseg.models.tflite_graph import Conversion, Shape, Value
from streamseg.models.weights.tflite import Operator, Tensor

SAME, VALID = 0, 1
NONE, RELU, RELU1, RELU6, TANH = range(5)  # fused activations
BOUNDS = {RELU: (0.0, np.inf), RELU1: (-1.0, 1.0), RELU6: (0.0, 6.0)}
LARGEST_STRIDE = 64


def finish(c: Conversion, op: Operator, name: str, shape: Shape, stride: Fraction) -> None:
    """Put the operator's result behind its activation.

    A quantised tensor holds nothing outside of its range, and networks are trained with that: in float32 the
    range is a clip, which takes the place of a ReLU; in 8 bits rounding does it.
    """
    place, kind = op.outputs[0], op.options.get("fused", NONE)
    tensor = c.tensor(place)
    if tensor.quantisation is None or tensor.type not in ("uint8", "int8") or kind == TANH:
        c.put(place, activation(c, kind, name, place), shape, stride)
        return
    low, high = tensor.quantisation.range(tensor.type)
    lowest, highest = BOUNDS.get(kind, (0.0, 0.0) if kind else (-np.inf, np.inf))
    inside = max(low, lowest), min(high, highest)
    if not c.quantised or inside[0] > low + 1e-3 * high or inside[1] < high - 1e-3 * high:
        bounds = [c.onnx.constant(f"bound{b!r}", float(np.float32(b))) for b in inside]
        name = c.node("Clip", [name, *bounds], place, "_clip")
    c.put(place, name, shape, stride)


def activation(c: Conversion, kind: int, name: str, place: int) -> str:
    if kind == NONE:
        return name
    if kind == RELU:
        return c.node("Relu", [name], place, "_relu")
    if kind == TANH:
        return c.node("Tanh", [name], place, "_tanh")
    if kind not in (RELU1, RELU6):
        raise WeightsError(f"fused activation {kind}: not supported")
    low, high = (0.0, 6.0) if kind == RELU6 else (-1.0, 1.0)
    bounds = [c.onnx.constant(f"bound{bound:g}", bound) for bound in (low, high)]
    return c.node("Clip", [name, *bounds], place, "_clip")


def weights(c: Conversion, place: int, axes: tuple[int, ...], what: str = "weights") -> tuple[str, Tensor]:
    """A constant with its axes in ONNX's order. In 8 bits it stays as it is stored, as int8."""
    tensor = c.tensor(place)
    if place < 0 or tensor.data is None or tensor.data.ndim != len(axes):
        raise WeightsError(f"its {what} are computed, or have another shape than {len(axes)} axes")
    q = tensor.quantisation
    if not c.quantised or q is None or tensor.type not in ("uint8", "int8", "int32"):
        if tensor.type not in ("float32", "float16") and q is None:
            raise WeightsError(f"its {what} are {tensor.type} without scales")
        return c.onnx.constant(f"w{place}", np.ascontiguousarray(tensor.real.transpose(axes))), tensor
    data, zero = tensor.data.astype(np.int32), q.zero.astype(np.int32)
    if tensor.type == "uint8":
        data, zero = data - 128, zero - 128
    kind = np.int32 if tensor.type == "int32" else np.int8
    if kind == np.int8 and (np.abs(zero) > 128).any():
        raise WeightsError(f"its {what} have a zero outside of 8 bits")
    stored = c.onnx.constant(f"w{place}_stored", np.ascontiguousarray(data.transpose(axes).astype(kind)))
    whole = len(q.scale) == 1
    scale = c.onnx.constant(f"w{place}_scale", q.scale.reshape(() if whole else -1).astype(np.float32))
    zeros = c.onnx.constant(f"w{place}_zero", zero.reshape(() if whole else -1).astype(kind))
    axis = {} if whole else {"axis": axes.index(q.axis)}
    return c.onnx.node("DequantizeLinear", [stored, scale, zeros], [f"w{place}"], **axis), tensor


def padding(size: int, out: int, kernel: int, stride: int, dilation: int, same: bool) -> tuple[int, int]:
    """Before and after, as TensorFlow pads a side to give `out` cells."""
    whole = max(0, (out - 1) * stride + (kernel - 1) * dilation + 1 - size) if same else 0
    return whole // 2, whole - whole // 2


def steps(op: Operator) -> tuple[int, int]:
    """The strides of an operator, checked."""
    strides = op.options["stride_h"], op.options["stride_w"]
    if not all(1 <= s <= LARGEST_STRIDE for s in strides):
        raise WeightsError(f"its stride is {strides[0]}x{strides[1]}")
    return strides


def window(
    c: Conversion, x: Value, op: Operator, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)
) -> tuple[list[int], tuple[int, int], Fraction]:
    """Pads, sides and stride of what a kernel that moves over x gives."""
    strides, same = steps(op), op.options["padding"] == SAME
    if not all(1 <= k <= 1024 for k in kernel) or not all(1 <= d <= 1024 for d in dilation):
        raise WeightsError(f"its kernel is {list(kernel)} with dilation {list(dilation)}")
    pads, sides = [0] * 4, []
    for i in (0, 1):
        reach = (kernel[i] - 1) * dilation[i] + 1
        out = -(-x.sides[i] // strides[i]) if same else (x.sides[i] - reach) // strides[i] + 1
        if out < 1:
            raise WeightsError(f"its kernel of {reach} does not fit into {x.sides[i]} cells")
        pads[i], pads[i + 2] = padding(x.sides[i], out, kernel[i], strides[i], dilation[i], same)
        sides.append(out)
    if strides[0] != strides[1]:
        c.fixed("strides that differ")
    return pads, (sides[0], sides[1]), x.stride * strides[0]


def convolution(c: Conversion, op: Operator) -> None:
    _convolve(c, op, c.value(op.inputs[0]), dilation=(op.options["dilation_h"], op.options["dilation_w"]))


def _convolve(
    c: Conversion, op: Operator, x: Value, dilation: tuple[int, int], spread: list[int] | None = None,
    into: Operator | None = None,
) -> None:  # fmt: skip
    """`spread`: the padding of a convolution between SPACE_TO_BATCH and BATCH_TO_SPACE, which is `into`."""
    deep = op.kind == "DEPTHWISE_CONV_2D"
    name, tensor = weights(c, op.inputs[1], (3, 0, 1, 2) if deep else (0, 3, 1, 2))
    outputs, rows, columns, inputs = (tensor.shape[i] for i in ((3, 1, 2, 0) if deep else (0, 1, 2, 3)))
    channels = x.shape[3]
    group = channels if deep else channels // inputs
    if (
        (deep and (inputs != 1 or outputs % channels))
        or (not deep and group * inputs != channels)
        or outputs % group
    ):
        raise WeightsError(f"its weights {list(tensor.shape)} are not for {channels} channels")
    pads, sides, stride = window(c, x, op, (rows, columns), dilation)
    if spread is not None:
        pads = spread
        sides = tuple(  # type: ignore[assignment]
            x.sides[i] + pads[i] + pads[i + 2] - (k - 1) * dilation[i] for i, k in enumerate((rows, columns))
        )
    names = [x.name, name]
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        bias, shape = weights(c, op.inputs[2], (0,), "biases")
        if shape.shape != (outputs,):
            raise WeightsError(f"has {list(shape.shape)} biases for {outputs} channels")
        names.append(bias)
    last = into or op
    y = c.node("Conv", names, last.outputs[0], "_conv", kernel_shape=[rows, columns], pads=pads,
               strides=list(steps(op)), dilations=list(dilation), group=group)  # fmt: skip
    if into is not None:
        into = Operator(into.kind, into.inputs, into.outputs, {"fused": op.options["fused"]})
    finish(c, into or op, y, (1, *sides, outputs), stride)


def atrous(c: Conversion, op: Operator) -> None:
    """A dilated convolution as older files have it: taken apart into a batch, and put together again."""
    inner, after = op, op
    for kinds in (("CONV_2D", "DEPTHWISE_CONV_2D"), ("BATCH_TO_SPACE_ND",)):
        users = c.users.get(after.outputs[0], [])
        if len(users) != 1 or users[0].kind not in kinds or users[0].inputs[0] != after.outputs[0]:
            raise WeightsError("no dilated convolution follows: not supported")
        inner, after = after, users[0]
    blocks, margins = c.constant(op.inputs[1], "blocks"), c.constant(op.inputs[2], "paddings")
    crops = c.constant(after.inputs[2], "crops")
    if (
        margins.shape != (2, 2)
        or crops.shape != (2, 2)
        or blocks.shape != (2,)
        or inner.options["padding"] != VALID
    ):
        raise WeightsError("is no dilated convolution: not supported")
    net = margins.astype(int) - crops
    rows, columns = int(blocks[0]), int(blocks[1])
    if (
        (net < 0).any()
        or (net > 4096).any()
        or steps(inner) != (1, 1)
        or not 1 <= rows <= 64
        or not 1 <= columns <= 64
    ):
        raise WeightsError("is no dilated convolution: not supported")
    pads = [int(net[0, 0]), int(net[1, 0]), int(net[0, 1]), int(net[1, 1])]
    plain = Operator(inner.kind, inner.inputs, inner.outputs, {**inner.options, "padding": SAME})
    _convolve(c, plain, c.value(op.inputs[0]), (rows, columns), pads, after)
    c.done |= {id(inner), id(after)}


def transposed(c: Conversion, op: Operator) -> None:
    """A transposed convolution, which enlarges."""
    wanted, x = c.constant(op.inputs[0], "sides"), c.value(op.inputs[2])
    name, tensor = weights(c, op.inputs[1], (3, 0, 1, 2))
    outputs, rows, columns, inputs = tensor.shape
    strides = steps(op)
    if wanted.shape != (4,) or inputs != x.shape[3] or max(rows, columns) > 1024:
        raise WeightsError(f"its weights {list(tensor.shape)} are not for {x.shape[3]} channels")
    pads, rest = [0] * 4, [0, 0]
    for i, kernel in enumerate((rows, columns)):
        more = (x.sides[i] - 1) * strides[i] + kernel - int(wanted[1 + i])
        if not -strides[i] < more <= kernel:
            raise WeightsError(f"makes {x.sides[i]} cells {wanted[1 + i]}: not supported")
        pads[i], pads[i + 2] = max(0, more) // 2, max(0, more) - max(0, more) // 2
        rest[i] = max(0, -more)
        if int(wanted[1 + i]) != x.sides[i] * strides[i]:
            c.fixed("a transposed convolution to another size than its stride gives")
    names = [x.name, name]
    if len(op.inputs) > 3 and op.inputs[3] >= 0:
        bias, shape = weights(c, op.inputs[3], (0,), "biases")
        if shape.shape != (outputs,):
            raise WeightsError(f"has {list(shape.shape)} biases for {outputs} channels")
        names.append(bias)
    if strides[0] != strides[1]:
        c.fixed("strides that differ")
    y = c.node("ConvTranspose", names, op.outputs[0], "_conv", kernel_shape=[rows, columns], pads=pads,
               strides=list(strides), output_padding=rest)  # fmt: skip
    finish(c, op, y, (1, int(wanted[1]), int(wanted[2]), outputs), x.stride / strides[0])


def connected(c: Conversion, op: Operator) -> None:
    """A matrix product over channels: a convolution of 1x1."""
    x = c.value(op.inputs[0])
    name, tensor = weights(c, op.inputs[1], (0, 1))
    outputs, inputs = tensor.shape
    if x.shape[-1] != inputs or op.options["weights_format"]:
        raise WeightsError(f"its weights {list(tensor.shape)} are not for {list(x.shape)}")
    bias = []
    if len(op.inputs) > 2 and op.inputs[2] >= 0:
        named, shape = weights(c, op.inputs[2], (0,), "biases")
        if shape.shape != (outputs,):
            raise WeightsError(f"has {list(shape.shape)} biases for {outputs} channels")
        bias = [named]
    declared = c.tensor(op.outputs[0]).shape
    place = op.outputs[0]
    y = x.name
    if len(x.shape) == 4:
        if x.sides != (1, 1):
            raise WeightsError("is for the whole picture at once: not supported")
        y = c.node("Flatten", [y], place, "_flat", axis=1)
    elif len(x.shape) != 2:
        raise WeightsError(f"takes {list(x.shape)}: not supported")
    y = c.node("Gemm", [y, name, *bias], place, "_product", transB=1)
    if len(declared) == 4:
        y = c.node("Reshape", [y, c.onnx.constant(f"t{place}_to", [-1, outputs, 1, 1])], place, "_axes")
    finish(c, op, y, (1, 1, 1, outputs) if len(declared) == 4 else (1, outputs), Fraction(0))


def pool(c: Conversion, op: Operator) -> None:
    x, place = c.value(op.inputs[0]), op.outputs[0]
    kernel = op.options["filter_h"], op.options["filter_w"]
    mean = op.kind == "AVERAGE_POOL_2D"
    if kernel == x.sides and c.tensor(place).shape[1:3] == (1, 1):
        whole = "GlobalAveragePool" if mean else "GlobalMaxPool"
        finish(c, op, c.node(whole, [x.name], place, "_pool"), (1, 1, 1, x.shape[3]), Fraction(0))
        return
    pads, sides, stride = window(c, x, op, kernel)
    y = c.node("AveragePool" if mean else "MaxPool", [x.name], place, "_pool", kernel_shape=list(kernel),
               strides=list(steps(op)), pads=pads)  # fmt: skip
    finish(c, op, y, (1, *sides, x.shape[3]), stride)
