"""The operators of .tflite graphs that move numbers without computing with them, in ONNX."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np

from streamseg.errors import WeightsError
from streamseg.models.tflite_graph import LAST, Conversion, Shape, Value
from streamseg.models.weights.tflite import Operator
from streamseg.types import Size

CHANNELS_FIRST = (0, 2, 3, 1)  # where the axes of (N, H, W, C) are in (N, C, H, W)


def axis_of(x: Value, axis: int) -> tuple[int, int]:
    """An axis of the file's tensor, from the front, and where it is in ours."""
    axis += len(x.shape) if axis < 0 else 0
    if not 0 <= axis < len(x.shape):
        raise WeightsError(f"axis {axis} of {list(x.shape)}")
    return axis, CHANNELS_FIRST[axis] if len(x.shape) == 4 else axis


def expand(c: Conversion, op: Operator, sides: Size) -> None:
    """One cell spread over the sides of another tensor, as image pooling does."""
    x, place = c.value(op.inputs[0]), op.outputs[0]
    other = c.like(sides)
    if c.free and other is not None:
        shape = c.sides_of(place, other, x.name)
    else:
        c.fixed("a cell spread over sides that no other tensor has")
        shape = c.onnx.constant(f"t{place}_to", [1, x.shape[3], *sides])
    stride = other.stride if other is not None else Fraction(1)
    c.put(place, c.node("Expand", [x.name, shape], place, "_spread"), (1, *sides, x.shape[3]), stride)


def tile(c: Conversion, op: Operator) -> None:
    x, times = c.value(op.inputs[0]), c.constant(op.inputs[1], "repeats").reshape(-1)
    if len(x.shape) != 4 or x.sides != (1, 1) or len(times) != 4 or times[0] != 1 or times[3] != 1:
        raise WeightsError("repeats more than one cell: not supported")
    expand(c, op, (int(times[1]), int(times[2])))


def pad(c: Conversion, op: Operator) -> None:
    x, place = c.value(op.inputs[0]), op.outputs[0]
    margins = c.constant(op.inputs[1], "paddings")
    if margins.shape != (len(x.shape), 2) or (margins < 0).any() or (margins > 4096).any():
        raise WeightsError("its paddings are not for its tensor")
    order = [0, 3, 1, 2] if len(x.shape) == 4 else list(range(len(x.shape)))
    pads = c.onnx.constant(f"t{place}_pads", [int(margins[i, end]) for end in (0, 1) for i in order])
    names, how = [x.name, pads], "constant"
    if op.kind == "MIRROR_PAD":
        if op.options["mode"] != 0:
            raise WeightsError("mirrors the border itself: not supported")
        how = "reflect"
    elif op.kind == "PADV2":
        value = c.tensor(op.inputs[2])
        if value.data is None or value.data.size != 1:
            raise WeightsError("pads with something computed: not supported")
        names.append(c.onnx.constant(f"t{place}_with", value.real.reshape(())))
    shape = tuple(side + int(m.sum()) for side, m in zip(x.shape, margins, strict=True))
    c.put(place, c.node("Pad", names, place, "_padded", mode=how), shape, x.stride)


def concat(c: Conversion, op: Operator) -> None:
    parts, place = [c.value(i) for i in op.inputs], op.outputs[0]
    axis, ours = axis_of(parts[0], op.options["axis"])
    rests = {(*p.shape[:axis], *p.shape[axis + 1 :]) for p in parts}
    if len(rests) != 1 or len({len(p.shape) for p in parts}) != 1 or op.options["fused"]:
        raise WeightsError(f"joins {', '.join(str(list(p.shape)) for p in parts)}")
    if len(parts[0].shape) == 4 and axis in (1, 2):
        c.fixed("parts of a picture joined")
    shape = list(parts[0].shape)
    shape[axis] = sum(p.shape[axis] for p in parts)
    y = c.node("Concat", [p.name for p in parts], place, "_joined", axis=ours)
    c.put(place, y, tuple(shape), max(p.stride for p in parts))


def split(c: Conversion, op: Operator) -> None:
    even = op.kind == "SPLIT"
    x = c.value(op.inputs[1 if even else 0])
    axis, ours = axis_of(x, int(c.constant(op.inputs[0 if even else 2], "axis").reshape(-1)[0]))
    whole, count = x.shape[axis], len(op.outputs)
    sizes = [whole // count] * count if even else c.constant(op.inputs[1], "sizes").reshape(-1).tolist()
    if sum(sizes) != whole or len(sizes) != count or min(sizes) < 1:
        raise WeightsError(f"cuts {whole} into {sizes}")
    if len(x.shape) == 4 and axis in (1, 2):
        c.fixed("a picture cut into parts")
    names = [f"t{place}_part" for place in op.outputs]
    c.onnx.node("Split", [x.name, c.onnx.constant(f"t{op.outputs[0]}_sizes", sizes)], names, axis=ours)
    for place, name, size in zip(op.outputs, names, sizes, strict=True):
        c.put(place, name, (*x.shape[:axis], size, *x.shape[axis + 1 :]), x.stride)


def cut(c: Conversion, op: Operator) -> None:
    """SLICE, and STRIDED_SLICE without new or lost axes."""
    x, place = c.value(op.inputs[0]), op.outputs[0]
    rank = len(x.shape)
    begin, second = (c.constant(op.inputs[i], "limits").reshape(-1).tolist() for i in (1, 2))
    if len(begin) != rank or len(second) != rank:
        raise WeightsError("its limits are not for its tensor")
    by = [1] * rank
    if op.kind == "SLICE":
        end = [b + s if s >= 0 else side for b, s, side in zip(begin, second, x.shape, strict=True)]
    else:
        masks = op.options
        if masks["ellipsis_mask"] or masks["new_axis_mask"] or masks["shrink_axis_mask"]:
            raise WeightsError("adds or drops axes: not supported")
        by = c.constant(op.inputs[3], "steps").reshape(-1).tolist()
        begin = [0 if masks["begin_mask"] >> i & 1 else b for i, b in enumerate(begin)]
        end = [x.shape[i] if masks["end_mask"] >> i & 1 else e for i, e in enumerate(second)]
    begin, end = (
        [v + side if v < 0 else v for v, side in zip(many, x.shape, strict=True)] for many in (begin, end)
    )
    shape: list[int] = []
    for i, side in enumerate(x.shape):
        if not (0 <= begin[i] < end[i] <= side and 1 <= by[i] <= side):
            raise WeightsError(f"takes {begin[i]} to {end[i]} of {side}")
        shape.append(-(-(end[i] - begin[i]) // by[i]))
        if rank == 4 and i in (1, 2) and by[i] > 1:
            c.fixed("a picture thinned out")
    ends = [LAST if e == side else e - side for e, side in zip(end, x.shape, strict=True)]  # from the end
    axes = [axis_of(x, i)[1] for i in range(rank)]
    slots = [c.onnx.constant(f"t{place}_{what}", v) for what, v in
             (("start", begin), ("end", ends), ("axes", axes), ("by", by))]  # fmt: skip
    c.put(place, c.node("Slice", [x.name, *slots], place, "_cut"), tuple(shape), x.stride)


def reshape(c: Conversion, op: Operator) -> None:
    """RESHAPE, SQUEEZE and EXPAND_DIMS, to the shape that the file declares."""
    x, place = c.value(op.inputs[0]), op.outputs[0]
    shape = c.tensor(place).shape
    if np.prod(shape, dtype=object) != np.prod(x.shape, dtype=object):
        raise WeightsError(f"makes {list(x.shape)} {list(shape)}")
    y = x.name
    pooled = shape[-1:] == x.shape[-1:] == (int(np.prod(x.shape, dtype=object)),)
    if shape == x.shape:
        c.put(place, y, shape, x.stride)
        return
    if pooled:
        to = [-1, shape[-1], 1, 1] if len(shape) == 4 else [-1, *shape[1:]]
        if len(shape) == 1:
            raise WeightsError("drops the axis of pictures: not supported")
        y = c.node("Reshape", [y, c.onnx.constant(f"t{place}_to", to)], place, "_shaped")
        c.put(place, y, shape, Fraction(0))
        return
    c.fixed("a picture's cells in another order")
    if len(x.shape) == 4:
        y = c.node("Transpose", [y], place, "_last", perm=[0, 2, 3, 1])
    y = c.node("Reshape", [y, c.onnx.constant(f"t{place}_to", list(shape))], place, "_shaped")
    if len(shape) == 4:
        y = c.node("Transpose", [y], place, "_first", perm=[0, 3, 1, 2])
    c.put(place, y, shape, x.stride)


def rounding(c: Conversion, op: Operator) -> None:
    """QUANTIZE and DEQUANTIZE: another scale for the same numbers; of a constant, its values."""
    source, place = c.tensor(op.inputs[0]), op.outputs[0]
    if op.inputs[0] not in c.values and source.data is not None:
        c.folded[place] = replace(c.tensor(place), data=source.real, type="float32", quantisation=None)
        if source.shape != c.tensor(place).shape:
            raise WeightsError(f"makes {list(source.shape)} {list(c.tensor(place).shape)}")
        return
    x = c.value(op.inputs[0])
    c.put(place, x.name, x.shape, x.stride)


def depth_to_space(c: Conversion, op: Operator) -> None:
    x, place, block = c.value(op.inputs[0]), op.outputs[0], op.options["block"]
    if not 1 <= block <= 32 or len(x.shape) != 4 or x.shape[3] % block**2:
        raise WeightsError(f"block {block} of {list(x.shape)}")
    shape: Shape = (1, x.shape[1] * block, x.shape[2] * block, x.shape[3] // block**2)
    y = c.node("DepthToSpace", [x.name], place, "_spread", blocksize=block)
    c.put(place, y, shape, x.stride / block)


MOVES: dict[str, Callable[[Conversion, Operator], None]] = {
    "TILE": tile,
    "PAD": pad,
    "PADV2": pad,
    "MIRROR_PAD": pad,
    "CONCATENATION": concat,
    "SPLIT": split,
    "SPLIT_V": split,
    "SLICE": cut,
    "STRIDED_SLICE": cut,
    "RESHAPE": reshape,
    "SQUEEZE": reshape,
    "EXPAND_DIMS": reshape,
    "QUANTIZE": rounding,
    "DEQUANTIZE": rounding,
    "DEPTH_TO_SPACE": depth_to_space,
}
