"""An engine's ONNX graph as a torch module.

Supports the operations of torch_operations.py; a graph with others is refused by name. Sizes stay Python
integers, so that torch.export keeps them dynamic. Needs torch and onnx.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from onnx import GraphProto, NodeProto, numpy_helper
from torch import Tensor, nn

from streamseg.errors import EngineError
from streamseg.inference.backends.onnx_edit import fold_batch_norm
from streamseg.inference.backends.torch_layers import Value
from streamseg.inference.backends.torch_operations import OPERATIONS

_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class GraphModule(nn.Module):
    """uint8 RGB (N, H, W, 3), or what the graph takes, to float32 logits (N, C, h, w).

    Convolutions and what follows them compute in `dtype`; what precedes the first one, the normalisation,
    stays fp32. Batch normalisations are folded into the convolution before them.
    """

    def __init__(self, graph: bytes, dtype: torch.dtype = torch.float32, output: str = "") -> None:
        """output: by name; empty: the first. Raises EngineError for a graph with other operations."""
        super().__init__()
        model = onnx.load_from_string(graph)
        _move_constants(model.graph)
        fold_batch_norm(model.graph)
        arrays = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
        nodes = list(model.graph.node)
        unknown = sorted({node.op_type for node in nodes} - OPERATIONS.keys())
        if unknown:
            raise EngineError(
                f"backend torch: does not support {', '.join(unknown)} of this graph; choose another backend"
            )
        self._input = model.graph.input[0].name
        self._output = output or model.graph.output[0].name
        self._sizes: dict[str, Value] = {}
        self._buffers_of: dict[str, str] = {}
        factors = {
            node.input[2] for node in nodes if node.op_type in ("Resize", "Pad") and len(node.input) > 2
        }
        half = {name for node in nodes if node.op_type in _WEIGHTED for name in node.input[1:]}
        for number, (name, array) in enumerate(arrays.items()):
            if (array.dtype == np.int64 and array.ndim <= 1) or name in factors:
                self._sizes[name] = array.tolist()
                continue
            tensor = torch.from_numpy(np.array(array))
            self._buffers_of[name] = f"w{number}"
            is_half = name in half and tensor.is_floating_point()
            self.register_buffer(f"w{number}", tensor.to(dtype) if is_half else tensor)
        opset = max((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), default=1)
        self._steps = [
            (OPERATIONS[node.op_type], list(node.input), list(node.output), _attributes(node, opset))
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
            result = run(attributes, *(values[name] for name in inputs))
            if isinstance(result, tuple):
                values.update(zip(outputs, result, strict=False))
            else:
                values[outputs[0]] = result
            for name in done:
                if name != self._output:
                    values[name] = None
        logits: Tensor = values[self._output]
        return logits.float()


def _attributes(node: NodeProto, opset: int) -> dict[str, Any]:
    named = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    return {**named, "opset": opset, "outputs": len(node.output)}


def _move_constants(graph: GraphProto) -> None:
    """Make initializers of Constant nodes."""
    for node in [node for node in graph.node if node.op_type == "Constant"]:
        (attribute,) = node.attribute
        value = onnx.helper.get_attribute_value(attribute)
        if attribute.name == "value":
            value = numpy_helper.to_array(value)
        elif attribute.name.startswith("value_float"):
            value = np.array(value, np.float32)
        elif attribute.name.startswith("value_int"):
            value = np.array(value, np.int64)
        else:
            raise EngineError(
                f"backend torch: does not support a Constant of {attribute.name}; choose another"
            )
        graph.initializer.append(numpy_helper.from_array(value, node.output[0]))
        graph.node.remove(node)
