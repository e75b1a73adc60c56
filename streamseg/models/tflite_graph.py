"""A .tflite graph as an ONNX graph: uint8 pictures in, logits out, of any size where the graph allows it.

The file's tensors are (N, H, W, C), ours (N, C, H, W). What stands behind the logits (the last scaling, a
softmax, an argmax) is left to the pipeline. A quantised file gives two graphs: one in float32, of its
dequantised weights, and one in 8 bits that computes with the file's own scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from streamseg.errors import WeightsError
from streamseg.models.onnx_writer import OnnxGraph
from streamseg.models.tflite_end import End
from streamseg.models.weights.tflite import MOST_VALUES, Array, Graph, Operator, Tensor
from streamseg.types import Size

INPUT, OUTPUT = "image_u8", "logits"
OPSET = 17
LAST = 2**31 - 1  # the end of an axis

Shape = tuple[int, ...]


class FixedSize(Exception):
    """The graph can only be of the file's own size; `why` says what fixes it."""


@dataclass(frozen=True, slots=True)
class Value:
    """A tensor of the new graph. Of four axes it is (N, C, H, W); `shape` is as in the file, (N, H, W, C)."""

    name: str
    shape: Shape
    stride: Fraction = Fraction(
        1
    )  # input pixels for each cell; 0 where nothing is left of the picture's sides

    @property
    def sides(self) -> Size:
        return self.shape[1], self.shape[2]


@dataclass(frozen=True, slots=True)
class Converted:
    """An ONNX graph, and what the pipeline has to know of it."""

    model: bytes
    classes: int
    output_stride: int
    size: Size | None  # the only one that it takes; None for any of multiples of size_multiple
    size_multiple: int
    mean: tuple[float, float, float]  # of the levels 0..255
    std: tuple[float, float, float]


class Conversion:
    """One graph while it is made; the operators are in tflite_layers.py."""

    def __init__(self, graph: Graph, end: End, *, free: bool, quantised: bool, mean: Any, std: Any) -> None:
        self.graph, self.end = graph, end
        self.free, self.quantised = free, quantised
        self.mean, self.std = mean, std
        self.onnx = OnnxGraph("tflite", OPSET)
        self.values: dict[int, Value] = {}
        self.folded: dict[int, Tensor] = {}  # constants that operators give
        self.users: dict[int, list[Operator]] = {}
        for op in graph.operators:
            for i in set(op.inputs):
                self.users.setdefault(i, []).append(op)
        self.done: set[int] = set()  # ids of operators that another one has taken with it

    # What operators ask for.

    def tensor(self, place: int) -> Tensor:
        return self.folded.get(place, self.graph.tensors[place])

    def constant(self, place: int, what: str) -> Array:
        """A constant of whole numbers, such as paddings."""
        data = self.tensor(place).data if place >= 0 else None
        if data is None or data.dtype.kind not in "iu" or data.size > 64:
            raise WeightsError(f"its {what} are computed, or no whole numbers: not supported")
        return data

    def value(self, place: int) -> Value:
        if place not in self.values:
            kind = (
                "is a constant" if place >= 0 and self.tensor(place).data is not None else "is not computed"
            )
            raise WeightsError(f"its input {place} {kind}: not supported")
        return self.values[place]

    def fixed(self, why: str) -> None:
        """Say that what follows depends on the picture's size."""
        if self.free:
            raise FixedSize(why)

    def node(self, kind: str, inputs: list[str], place: int, suffix: str = "", **attributes: Any) -> str:
        return self.onnx.node(kind, inputs, [f"t{place}{suffix}"], **attributes)

    def sides_of(self, place: int, like: Value, channels: str) -> str:
        """The name of a shape (N, C, h, w): N and C of the tensor `channels`, h and w those of `like`."""
        parts = []
        for name, first, last in ((channels, 0, 2), (like.name, 2, 4)):
            whole = self.node("Shape", [name], place, f"_shape{first}")
            slots = [self.onnx.constant(f"at{i}", [i]) for i in (first, last)]
            parts.append(self.node("Slice", [whole, *slots], place, f"_sides{first}"))
        return self.node("Concat", parts, place, "_sizes", axis=0)

    def like(self, sides: Size) -> Value | None:
        """The last tensor of these sides."""
        return next(
            (v for v in reversed(self.values.values()) if len(v.shape) == 4 and v.sides == sides), None
        )

    def put(self, place: int, name: str, shape: Shape, stride: Fraction, *, same: bool = False) -> None:
        """Say what a tensor of the file is called; `same`: it holds what another tensor of it does.

        In 8 bits the tensor is rounded here as the file rounds it.
        """
        declared = self.graph.tensors[place].shape
        if tuple(declared) != tuple(shape) and not same:
            raise WeightsError(f"gives {list(shape)}, but the file says {list(declared)}")
        if np.prod(shape, dtype=object) > MOST_VALUES:
            raise WeightsError(f"gives {list(shape)}, more than {MOST_VALUES} numbers")
        tensor = self.graph.tensors[place]
        if (
            self.quantised
            and not same
            and tensor.quantisation is not None
            and tensor.type in ("uint8", "int8")
        ):
            q = tensor.quantisation
            scale = self.onnx.constant(f"t{place}_scale", np.asarray(q.scale[0], np.float32))
            zero = self.onnx.constant(f"t{place}_zero", np.asarray(q.zero[0], tensor.type))
            stored = self.node("QuantizeLinear", [name, scale, zero], place, "_stored")
            name = self.node("DequantizeLinear", [stored, scale, zero], place, "_real")
        self.values[place] = Value(name, tuple(shape), stride)

    # The graph as a whole.

    def run(self, layers: Mapping[str, Callable[[Conversion, Operator], None]]) -> Converted:
        """Make the graph; raises WeightsError, and FixedSize where only the file's own size is possible."""
        self._begin()
        for number, op in enumerate(self.graph.operators):
            if self.end.place in self.values:
                break
            if id(op) in self.done:
                continue
            if op.kind not in layers:
                raise WeightsError(f"operator {number} is {op.kind}: not supported")
            try:
                layers[op.kind](self, op)
            except WeightsError as error:
                raise WeightsError(f"operator {number}, {op.kind}: {error}") from error
            except (IndexError, KeyError, ZeroDivisionError, ValueError, OverflowError) as error:
                raise WeightsError(f"operator {number}, {op.kind}, does not fit its tensors") from error
        if self.end.place not in self.values:
            raise WeightsError("its output does not depend on the picture")
        return self._finish(self.values[self.end.place])

    @property
    def multiple(self) -> int:
        """The largest stride of the graph: what follows fits for sides that differ by a multiple of it."""
        return int(max(v.stride for v in self.values.values()))

    def _begin(self) -> None:
        (place,) = self.graph.inputs
        height, width = self.end.input_size
        g = self.onnx
        x = g.node("Transpose", [INPUT], ["picture"], perm=[0, 3, 1, 2])
        x = g.node("Cast", [x], ["levels"], to=1)
        mean, scale = (np.float32(v).reshape(1, 3, 1, 1) for v in (self.mean, 1 / np.asarray(self.std)))
        x = g.node("Sub", [x, g.constant("mean", mean)], ["centred"])
        x = g.node("Mul", [x, g.constant("scale", scale)], ["normalised"])
        if any(self.end.border):
            before, after = self.end.border
            pads = g.constant("border", [0, 0, before, before, 0, 0, after, after])
            x = g.node("Pad", [x, pads, g.constant("zero", 0.0)], ["bordered"])
        self.put(place, x, (1, height, width, 3), Fraction(1))

    def _finish(self, logits: Value) -> Converted:
        g, end = self.onnx, self.end
        name = logits.name
        if end.border[0] or end.drop:
            slots = [
                g.constant("crop_start", [end.skip] * 2),
                g.constant("crop_end", [-end.drop if end.drop else LAST] * 2),
                g.constant("crop_axes", [2, 3]),
            ]
            name = g.node("Slice", [name, *slots], ["cropped"])
        stride = end.stride
        if end.corners and not self.free:
            sizes = g.constant("whole", [1, logits.shape[3], *end.input_size])
            how = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
            name, stride = g.node("Resize", [name, "", "", sizes], ["scaled"], **how), 1
        channels = logits.shape[3]
        if channels == 1:  # of two classes: what the first one's would be is 0
            zero = g.node("Mul", [name, g.constant("nothing", 0.0)], ["background"])
            name = g.node("Concat", [zero, name], ["both"], axis=1)
        g.node("Identity", [name], [OUTPUT])
        classes = max(2, channels)
        height, width = end.input_size
        sides = ("height", "width") if self.free else (height, width)
        batch = "n" if self.free else 1
        g.port(INPUT, "uint8", [batch, *sides, 3])
        cells = ("h", "w") if self.free else tuple(side // stride for side in end.input_size)
        g.port(OUTPUT, "float32", [batch, classes, *cells], output=True)
        size = None if self.free else end.input_size
        multiple = self.multiple if self.free else 1
        mean, std = (tuple(float(v) for v in values) for values in (self.mean, self.std))
        return Converted(g.model(), classes, stride, size, multiple, mean, std)  # type: ignore[arg-type]
