"""A small network with every kind of node that our exporters write, by hand: to export one takes seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from streamseg.types import U8
from tests.engines import write_engine

CLASSES = 5
STRIDE = 2


def small_graph(dilation: int = 2) -> bytes:
    """uint8 RGB (N, H, W, 3) → logits (N, 5, H/2, W/2), with random weights; one convolution is dilated."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    constants: list[Any] = []

    def constant(name: str, value: Any) -> str:
        constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def weight(name: str, *shape: int) -> str:
        spread = np.sqrt(2 / np.prod(shape[1:]))
        return constant(name, rng.normal(0, spread, shape).astype(np.float32))

    def floats(name: str, count: int, low: float, high: float) -> str:
        return constant(name, rng.uniform(low, high, count).astype(np.float32))

    def ints(name: str, *values: int) -> str:
        return constant(name, np.array(values, np.int64))

    node = helper.make_node
    norm = [
        floats(f"norm_{n}", 8, *r)
        for n, r in zip("gbmv", ((0.5, 2), (-1, 1), (-1, 1), (0.2, 3)), strict=True)
    ]
    nodes = [
        node("Transpose", ["rgb"], ["planes"], perm=[0, 3, 1, 2]),
        node("Cast", ["planes"], ["levels"], to=TensorProto.FLOAT),
        node("Sub", ["levels", constant("mean", np.full((1, 3, 1, 1), 120.3, np.float32))], ["centred"]),
        node("Mul", ["centred", constant("scale", np.full((1, 3, 1, 1), 1 / 60, np.float32))], ["scaled"]),
        node("Gather", ["scaled", ints("bgr", 2, 1, 0)], ["swapped"], axis=1),
        node("Pad", ["swapped", ints("border", 0, 0, 1, 1, 0, 0, 1, 1)], ["bordered"], mode="constant"),
        node("Conv", ["bordered", weight("first", 8, 3, 3, 3)], ["edges"], kernel_shape=[3, 3]),
        node("BatchNormalization", ["edges", *norm], ["normed"], epsilon=1e-3),
        node("HardSwish", ["normed"], ["bent"]),
        node("MaxPool", ["bent"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        node(
            "Conv",
            ["pooled", weight("second", 8, 8, 3, 3), floats("second_bias", 8, -0.2, 0.2)],
            ["wide"],
            kernel_shape=[3, 3],
            dilations=[dilation, dilation],
            pads=[dilation] * 4,
        ),
        node("Relu", ["wide"], ["lit"]),
        node("ReduceMean", ["lit", ints("sides", 2, 3)], ["whole"], keepdims=1),
        node("Conv", ["whole", weight("third", 8, 8, 1, 1)], ["squeezed"], kernel_shape=[1, 1]),
        node("HardSigmoid", ["squeezed"], ["gate"], alpha=1 / 6, beta=0.5),
        node("Mul", ["lit", "gate"], ["gated"]),
        node("AveragePool", ["lit"], ["mild"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        node("Shape", ["gated"], ["shape"]),
        node(
            "Resize",
            ["mild", "", "", "shape"],
            ["stretched"],
            mode="linear",
            coordinate_transformation_mode="align_corners",
        ),
        node("Concat", ["gated", "stretched"], ["both"], axis=1),
        node("Conv", ["both", weight("last", CLASSES, 16, 1, 1)], ["scores"], kernel_shape=[1, 1]),
        node("Shape", ["rgb"], ["rows"], start=1, end=2),
        node("Div", ["rows", ints("half", 2)], ["rows_out"]),
        node("Slice", ["scores", ints("from", 0), "rows_out", ints("axis", 2), ints("step", 1)], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES, None, None])],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return bytes(model.SerializeToString())


def write_small_engine(folder: Path, dilation: int = 2) -> Path:
    """An engine's folder with small_graph(): EngineConfig(name=str(folder))."""
    return write_engine(
        folder,
        small_graph(dilation),
        {f"c{i}": (i, i, i) for i in range(CLASSES)},
        name="small",
        file="small.onnx",
        network="small",
        label_set="small-5",
        input_size=(64, 96),
        output_stride=STRIDE,
    )


def run_graph(graph: bytes, batch: U8) -> Any:
    """What ONNX Runtime makes of a batch."""
    import onnxruntime as ort

    session = ort.InferenceSession(graph, providers=["CPUExecutionProvider"])
    (answer,) = session.run(None, {session.get_inputs()[0].name: batch})
    return answer
