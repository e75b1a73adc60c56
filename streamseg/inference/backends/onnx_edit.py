"""Editing ONNX graphs: their constants by name, and batch normalisations folded into convolutions."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto, numpy_helper

Array = npt.NDArray[Any]


class Constants:
    """The initializers of a graph by name."""

    def __init__(self, graph: GraphProto) -> None:
        self._graph = graph
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}

    def __contains__(self, name: str) -> bool:
        return name in self._tensors

    def type_of(self, name: str) -> int:
        return int(self._tensors[name].data_type)

    def __getitem__(self, name: str) -> Array:
        return numpy_helper.to_array(self._tensors[name])

    def add(self, name: str, value: Array) -> str:
        if name not in self._tensors:
            tensor = numpy_helper.from_array(value, name)
            self._graph.initializer.append(tensor)
            self._tensors[name] = tensor
        return name

    def drop_unused(self) -> None:
        used = {name for node in self._graph.node for name in node.input}
        kept = [tensor for tensor in self._graph.initializer if tensor.name in used]
        del self._graph.initializer[:]
        self._graph.initializer.extend(kept)


def fold_batch_norm(graph: GraphProto) -> None:
    """Fold each batch normalisation into the convolution that alone feeds it; computed in fp64."""
    constants = Constants(graph)
    uses = Counter(name for node in graph.node for name in node.input)
    made_by = {name: node for node in graph.node for name in node.output}
    for norm in [node for node in graph.node if node.op_type == "BatchNormalization"]:
        before = made_by.get(norm.input[0])
        if before is None or before.op_type != "Conv" or uses[norm.input[0]] > 1:
            continue
        if before.input[1] not in constants:  # quantised
            continue
        scale, shift, mean, variance = (constants[name].astype(np.float64) for name in norm.input[1:5])
        gain = scale / np.sqrt(variance + _attribute(norm, "epsilon", 1e-5))
        weight = constants[before.input[1]].astype(np.float64)
        bias = constants[before.input[2]].astype(np.float64) if len(before.input) > 2 else np.zeros(len(gain))
        folded_weight = constants.add(
            f"{norm.output[0]}_weight", (weight * gain[:, None, None, None]).astype(np.float32)
        )
        folded_bias = constants.add(
            f"{norm.output[0]}_bias", ((bias - mean) * gain + shift).astype(np.float32)
        )
        del before.input[1:]
        before.input.extend([folded_weight, folded_bias])
        before.output[0] = norm.output[0]
        graph.node.remove(norm)
    constants.drop_unused()


def _attribute(node: NodeProto, name: str, default: float) -> float:
    return next((float(a.f) for a in node.attribute if a.name == name), default)
