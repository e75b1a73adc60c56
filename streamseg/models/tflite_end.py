"""Where a .tflite graph's logits are: what stands behind them, and which pixel each of them belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace

from streamseg.errors import WeightsError
from streamseg.models.weights.tflite import Graph, Operator
from streamseg.types import Size

BEHIND = {"ARG_MAX", "SOFTMAX", "LOG_SOFTMAX", "LOGISTIC", "QUANTIZE", "DEQUANTIZE", "CAST"}
SCALING = ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR")
LARGEST_SIDE = 8192


@dataclass(frozen=True, slots=True)
class End:
    """The logits of a graph, and the border that moves them to the centres of their cells.

    The pipeline takes logit i of a network with output stride s as the centre of pixels s·i … s·i + s − 1. A
    network that was trained with aligned corners has it at pixel s·i, for sides of s·k + 1: then the picture
    gets a border of half a cell, and `skip` logits at the top and left and `drop` at the other end are left
    out (models/served.py has the same for networks in torch).
    """

    place: int  # of the logits among the tensors
    input_size: Size
    stride: int
    corners: bool  # the first logit is at the first pixel, not in the middle of a cell
    border: tuple[int, int] = (0, 0)  # pixels before and after, on both axes
    skip: int = 0
    drop: int = 0

    def placed(self, multiple: int) -> End | None:
        """With the border for pictures whose sides are multiples of `multiple`, the graph's largest stride.

        None where no border makes their sides what the file's are.
        """
        rest = self.input_size[0] % multiple
        if self.input_size[1] % multiple != rest or multiple % self.stride:
            return None
        if not self.corners:
            return replace(self, border=(0, rest), drop=rest // self.stride)
        before = self.stride // 2
        cells = -(-(multiple + rest) // self.stride)  # that the border adds
        return replace(self, border=(before, multiple + rest - before), skip=1, drop=cells - 1)


def find_end(graph: Graph, keep_scaling: bool = False) -> End:
    """Find the logits; raises WeightsError for a graph that is no segmentation network.

    keep_scaling: the last scaling to the picture's size stays in the graph.
    """
    if len(graph.inputs) != 1 or len(graph.outputs) != 1:
        raise WeightsError(
            f"has {len(graph.inputs)} inputs and {len(graph.outputs)} outputs; wanted are one picture and "
            "its classes"
        )
    shape = graph.tensors[graph.inputs[0]].shape
    if len(shape) != 4 or shape[0] != 1 or shape[3] != 3 or not all(1 <= s <= LARGEST_SIDE for s in shape):
        raise WeightsError(f"takes {list(shape)}; wanted is a picture, [1, height, width, 3]")
    size = shape[1], shape[2]
    made_by = {place: op for op in graph.operators for place in op.outputs}
    place, scaling = graph.outputs[0], None
    while (op := made_by.get(place)) is not None and op.inputs and op.inputs[0] in made_by:
        before = op.inputs[0]
        if op.kind in SCALING and _sides(graph, place) != _sides(graph, before):
            if scaling or keep_scaling or _sides(graph, place) != size or _grid(graph, op, size) is None:
                break
            scaling = op
        elif op.kind not in BEHIND and op.kind not in SCALING:
            break
        place = before
    sides = _sides(graph, place)
    if sides is None:
        raise WeightsError(f"gives {list(graph.tensors[place].shape)}; wanted are logits, [1, h, w, classes]")
    grid = _grid(graph, scaling, size) if scaling else _own_grid(sides, size)
    if grid is None:
        raise WeightsError(f"gives {sides[0]}x{sides[1]} cells for {size[0]}x{size[1]} pixels: not supported")
    return End(place, size, *grid)


def _sides(graph: Graph, place: int) -> Size | None:
    shape = graph.tensors[place].shape
    return (shape[1], shape[2]) if len(shape) == 4 and shape[0] == 1 and min(shape) > 0 else None


def _grid(graph: Graph, op: Operator, size: Size) -> tuple[int, bool] | None:
    """The output stride in front of a scaling to the picture's size, and whether corners are aligned.

    None where the cells are no whole number of pixels apart, as for aligned corners of 512 and 32.
    """
    sides = _sides(graph, op.inputs[0])
    if sides is None or op.kind != "RESIZE_BILINEAR":
        return None
    if op.options["align_corners"]:
        strides = {(a - 1) // (b - 1) if b > 1 and (a - 1) % (b - 1) == 0 else 0
                   for a, b in zip(size, sides, strict=True)}  # fmt: skip
    else:
        strides = {a // b if a % b == 0 else 0 for a, b in zip(size, sides, strict=True)}
    stride = strides.pop()
    if strides or not 1 <= stride <= 64:
        return None
    return stride, not op.options["half_pixel_centers"]


def _own_grid(sides: Size, size: Size) -> tuple[int, bool] | None:
    """The same for logits that the file gives as they are."""
    for corners in (False, True):
        less = int(corners)
        strides = {(a - less) // (b - less) if b > less and (a - less) % (b - less) == 0 else 0
                   for a, b in zip(size, sides, strict=True)}  # fmt: skip
        if len(strides) == 1 and 1 <= (stride := strides.pop()) <= 64:
            return stride, corners and stride > 1
    return None
