"""The engine's ONNX graph as TensorRT takes it: strongly typed, with symmetric int8.

TensorRT computes in the types that the graph states. So the graph is rewritten before it is parsed: for fp16
and bf16 everything from the first convolutions on, with a cast there and one at the logits; for int8 the
quantisation, whose activations are uint8 with a zero point for CPUs, becomes symmetric int8. The picture's
normalisation before the first convolution stays fp32 in every precision.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.onnx_edit import Constants, fold_batch_norm

_HALF = {
    "fp16": (TensorProto.FLOAT16, np.dtype(np.float16)),
    "bf16": (TensorProto.BFLOAT16, np.dtype(ml_dtypes.bfloat16)),
}
_BF16_OPSET = 22  # the first whose convolutions and pools may be bf16; of ours they differ in nothing else
_ALWAYS_FP32 = {"Resize": (1, 2)}  # inputs: region of interest and scales


def plan_graph(graph: bytes, precision: Precision) -> bytes:
    """Rewrite an engine's graph for TensorRT: uint8 RGB (N, H, W, 3) → logits (N, C, h, w) float32.

    The result is deterministic. Raises EngineError for a graph that does not take uint8 pictures.
    """
    model = onnx.load_from_string(graph)
    if len(model.graph.input) != 1 or _type_of(model.graph.input[0]) != TensorProto.UINT8:
        raise EngineError("TensorRT: the graph does not take uint8 pictures; export the engine again")
    del model.graph.value_info[:]  # their types change
    _name_constants(model.graph)
    _cast_first(model.graph)
    if precision == "int8":
        _make_symmetric(model.graph)
    fold_batch_norm(model.graph)
    if precision == "bf16":
        _split_hard_swish(model.graph)
        model.opset_import[0].version = max(model.opset_import[0].version, _BF16_OPSET)
    if precision in _HALF:
        _make_half(model, precision)
    return bytes(model.SerializeToString(deterministic=True))


def _name_constants(graph: GraphProto) -> None:
    """Turn Constant nodes into initializers, so that there is one kind of constant."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        value = helper.get_attribute_value(node.attribute[0])
        if not isinstance(value, TensorProto):
            value = numpy_helper.from_array(np.asarray(value, _constant_type(node.attribute[0].name)))
        tensor = graph.initializer.add()
        tensor.CopyFrom(value)
        tensor.name = node.output[0]
        graph.node.remove(node)


def _constant_type(attribute: str) -> type[np.generic]:
    return np.float32 if attribute.startswith("value_float") else np.int64


def _cast_first(graph: GraphProto) -> None:
    """Cast the picture to fp32 before anything else: TensorRT only casts uint8."""
    picture = graph.input[0].name
    levels = f"{picture}_fp32"
    moved, renamed = {picture}, {}  # values that still are the picture's levels, transposed or sliced
    for node in list(graph.node):
        if moved.isdisjoint(node.input) or node.op_type == "Shape":
            continue
        if node.op_type == "Cast":
            renamed[node.output[0]] = levels if node.input[0] == picture else node.input[0]
            graph.node.remove(node)
        else:
            moved.update(node.output)
    for node in graph.node:
        if node.op_type != "Shape":
            node.input[:] = [levels if name == picture else renamed.get(name, name) for name in node.input]
    graph.node.insert(0, helper.make_node("Cast", [picture], [levels], to=TensorProto.FLOAT))


def _make_symmetric(graph: GraphProto) -> None:
    """Quantise activations to -127 … 127 around zero where they were 0 … 255 around a zero point.

    The new step covers the same range, at most twice as coarse. Biases, int32 for CPUs, become fp32: TensorRT
    adds them to the sums itself.
    """
    constants = Constants(graph)
    folded: dict[str, str] = {}
    for node in list(graph.node):
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        if node.input[0] in constants and constants.type_of(node.input[0]) == TensorProto.INT32:
            levels, step = constants[node.input[0]], constants[node.input[1]]
            folded[node.output[0]] = constants.add(
                f"{node.output[0]}_fp32", (levels * step).astype(np.float32)
            )
            graph.node.remove(node)
            continue
        zero = node.input[2] if len(node.input) > 2 else ""
        if zero and constants.type_of(zero) == TensorProto.UINT8:
            step, middle = constants[node.input[1]], constants[zero].astype(np.float64)
            wider = step * np.maximum(middle, 255 - middle) / 127
            node.input[1] = constants.add(f"{node.input[1]}_symmetric", wider.astype(np.float32))
            node.input[2] = constants.add(f"{zero}_symmetric", np.zeros(middle.shape, np.int8))
    _rename_inputs(graph, folded)
    constants.drop_unused()


def _rename_inputs(graph: GraphProto, renamed: dict[str, str]) -> None:
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]


def _split_hard_swish(graph: GraphProto) -> None:
    """x · HardSigmoid(x): TensorRT's HardSwish takes no bf16."""
    nodes: list[NodeProto] = []
    for node in graph.node:
        if node.op_type == "HardSwish":
            (name,) = node.output
            gate = helper.make_node("HardSigmoid", node.input, [f"{name}_gate"], alpha=1 / 6, beta=0.5)
            nodes += [gate, helper.make_node("Mul", [node.input[0], f"{name}_gate"], [name])]
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _make_half(model: ModelProto, precision: Precision) -> None:
    """Turn fp32 into half from the first convolutions on, and the outputs back."""
    half, dtype = _HALF[precision]
    graph = model.graph
    fp32 = _floats(model)
    constants = Constants(graph)
    halved: set[str] = set()  # values that were fp32
    cast: set[str] = set()  # fp32 values that have been cast to half, once for all nodes that need it
    learned = _behind_convolutions(graph)
    nodes: list[NodeProto] = []
    for node in graph.node:
        if learned.isdisjoint(node.output):
            nodes.append(node)
            continue
        for at, name in enumerate(node.input):
            if at in _ALWAYS_FP32.get(node.op_type, ()) or name not in fp32:
                continue
            if name in constants:
                value = constants[name]
                if precision == "fp16" and np.abs(value).max(initial=0) > np.finfo(np.float16).max:
                    raise EngineError(f"TensorRT: the weights {name} do not fit into fp16; use bf16")
                node.input[at] = constants.add(f"{name}_{precision}", value.astype(dtype))
            elif name not in halved:
                node.input[at] = f"{name}_{precision}"
                if name not in cast:
                    cast.add(name)
                    nodes.append(helper.make_node("Cast", [name], [f"{name}_{precision}"], to=half))
        nodes.append(node)
        halved.update(name for name in node.output if name in fp32)
    for name in [value.name for value in graph.output if value.name in halved]:
        _rename_value(nodes, name, f"{name}_{precision}")
        nodes.append(helper.make_node("Cast", [f"{name}_{precision}"], [name], to=TensorProto.FLOAT))
    del graph.node[:]
    graph.node.extend(nodes)
    constants.drop_unused()


def _floats(model: ModelProto) -> set[str]:
    """The names of all values that are fp32."""
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = {v.name for v in (*graph.value_info, *graph.output) if _type_of(v) == TensorProto.FLOAT}
    return values | {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT}


def _behind_convolutions(graph: GraphProto) -> set[str]:
    """The outputs of convolutions, and all that is computed from them."""
    values: set[str] = set()
    for node in graph.node:
        if node.op_type == "Conv" or not values.isdisjoint(node.input):
            values.update(node.output)
    return values


def _rename_value(nodes: list[NodeProto], name: str, new: str) -> None:
    for node in nodes:
        node.input[:] = [new if n == name else n for n in node.input]
        node.output[:] = [new if n == name else n for n in node.output]


def _type_of(value: onnx.ValueInfoProto) -> int:
    return int(value.type.tensor_type.elem_type)
