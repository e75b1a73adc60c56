"""From a .tflite graph to an ONNX graph of any size, or of the file's own where nothing else is possible."""

from __future__ import annotations

from dataclasses import replace

from streamseg.errors import WeightsError
from streamseg.models.tflite_end import find_end
from streamseg.models.tflite_graph import Conversion, Converted, FixedSize
from streamseg.models.tflite_layers import LAYERS
from streamseg.models.weights.tflite import Graph


def convert(
    graph: Graph,
    *,
    quantised: bool = False,
    mean: tuple[float, ...] = (127.5,) * 3,
    std: tuple[float, ...] = (127.5,) * 3,
) -> Converted:
    """The ONNX graph of a file's graph; `quantised`: in 8 bits, with the file's scales.

    mean and std are those of a file that takes float32; a quantised one knows its own. Raises WeightsError.
    """
    end = find_end(graph)
    tensor = graph.tensors[graph.inputs[0]]
    if tensor.type in ("uint8", "int8") and (q := tensor.quantisation) is not None:
        middle = float(q.zero[0]) + (128 if tensor.type == "int8" else 0)
        mean, std = (middle,) * 3, (1 / float(q.scale[0]),) * 3
    elif tensor.type != "float32":
        raise WeightsError(f"takes pictures as {tensor.type}: not supported")
    try:
        strides = Conversion(
            graph, replace(end, border=(0, 0)), free=True, quantised=False, mean=mean, std=std
        )
        strides.run(LAYERS)
        if (placed := end.placed(strides.multiple)) is None:
            raise FixedSize("its sides")
        return Conversion(graph, placed, free=True, quantised=quantised, mean=mean, std=std).run(LAYERS)
    except FixedSize:
        end = find_end(graph, keep_scaling=True)
        return Conversion(graph, end, free=False, quantised=quantised, mean=mean, std=std).run(LAYERS)


def is_quantised(graph: Graph) -> bool:
    """Whether the file computes in 8 bits throughout, and so has scales for everything."""
    convolutions = [op for op in graph.operators if "CONV" in op.kind]
    return bool(convolutions) and all(
        graph.tensors[op.outputs[0]].type in ("uint8", "int8") and graph.tensors[op.outputs[0]].quantisation
        for op in convolutions
    )
