"""Each ONNX operation that the torch backend reads, beside ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

torch = pytest.importorskip("torch")
onnx = pytest.importorskip("onnx")

from streamseg.errors import EngineError  # noqa: E402
from streamseg.inference.backends.torch_graph import GraphModule  # noqa: E402
from streamseg.inference.backends.torch_operations import OPERATIONS  # noqa: E402

RNG = np.random.default_rng(5)
PICTURE = RNG.normal(0, 2, (2, 4, 6, 8)).astype(np.float32)
FLOAT, INT64 = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64


def normal(*shape: int) -> np.ndarray:
    return RNG.normal(size=shape).astype(np.float32)


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


class Case:
    """One operation on the picture `x`, with constants, at an opset."""

    def __init__(self, op: str, *constants: Any, opset: int = 17, made: int = 1, **attributes: Any) -> None:
        self.op, self.constants, self.opset, self.made, self.attributes = (
            op,
            constants,
            opset,
            made,
            attributes,
        )

    def __str__(self) -> str:
        what = " ".join(f"{k}={v}" for k, v in self.attributes.items() if not hasattr(v, "dims"))
        return f"{self.op}-{self.opset} {what} {[getattr(c, 'shape', c) for c in self.constants]}"

    def graph(self) -> bytes:
        h, nh = onnx.helper, onnx.numpy_helper
        given = ["x"] + [f"c{i}" if c is not None else "" for i, c in enumerate(self.constants)]
        outputs = [f"y{i}" for i in range(self.made)]
        node = h.make_node(self.op, given, outputs, **self.attributes)
        last = outputs[-1]
        made = h.make_tensor_value_info(last, INT64 if self.op.startswith("Arg") else FLOAT, None)
        constants = [
            nh.from_array(np.asarray(c), f"c{i}") for i, c in enumerate(self.constants) if c is not None
        ]
        graph = h.make_graph(
            [node], "g", [h.make_tensor_value_info("x", FLOAT, PICTURE.shape)], [made], constants
        )
        model = h.make_model(graph, opset_imports=[h.make_opsetid("", self.opset)], ir_version=8)
        return bytes(model.SerializeToString())


CASES = [
    *(
        Case(op)
        for op in ("Abs", "Clip", "Elu", "Erf", "Exp", "Flatten", "Floor", "GlobalMaxPool", "LeakyRelu")
    ),
    *(
        Case(op)
        for op in ("Neg", "Reciprocal", "Softplus", "Sum", "Tanh", "GlobalAveragePool", "HardSigmoid")
    ),
    *(Case(op) for op in ("HardSwish", "Identity", "Relu", "Sigmoid", "Softmax", "LogSoftmax", "Dropout")),
    *(Case("Gelu", opset=20, approximate=how) for how in ("none", "tanh")),
    Case("Mish", opset=18),
    *(Case(op, axis=axis, keepdims=keep) for op in ("ArgMax", "ArgMin") for axis, keep in ((1, 1), (-1, 0))),
    Case("Clip", np.float32(-1), np.float32(1)),
    Case("Clip", None, np.float32(0.5)),
    Case("Clip", opset=6, min=-0.5, max=6.0),
    Case("LeakyRelu", alpha=0.3),
    *(
        Case(op, axis=axis, opset=opset)
        for op in ("Softmax", "LogSoftmax")
        for axis in (1, 2, -1)
        for opset in (11, 13)
    ),
    *(Case("Conv", normal(3, 4, 3, 3), auto_pad=pad, strides=[2, 2]) for pad in ("SAME_UPPER", "SAME_LOWER")),
    Case("Conv", normal(3, 4, 3, 3), normal(3), pads=[0, 1, 2, 1], dilations=[2, 1]),
    Case("ConvTranspose", normal(4, 3, 2, 2), normal(3), strides=[2, 2]),
    Case("ConvTranspose", normal(4, 3, 4, 4), strides=[2, 2], pads=[1, 1, 1, 1]),
    Case(
        "ConvTranspose", normal(4, 2, 3, 3), strides=[2, 2], pads=[1, 1, 0, 0], output_padding=[0, 0], group=2
    ),
    Case("MatMul", normal(8, 5)),
    Case("MatMul", normal(2, 4, 8, 3)),
    Case("Pow", np.float32(2.0)),
    Case("Add", normal(8)),
    Case("Sub", np.float32(1)),
    Case("Mul", normal(1, 4, 1, 1)),
    Case("Div", np.float32(3)),
    Case("Max", np.float32(0)),
    Case("Min", np.float32(0), np.float32(-0.5)),
    Case("Sum", normal(8), np.float32(1)),
    Case("PRelu", normal(4, 1, 1)),
    Case("LayerNormalization", normal(8), normal(8)),
    Case("LayerNormalization", normal(6, 8), axis=-2, epsilon=1e-3),
    Case("InstanceNormalization", normal(4), normal(4)),
    Case("BatchNormalization", normal(4), normal(4), normal(4), np.abs(normal(4))),
    *(Case("Split", axis=1, made=2, opset=opset) for opset in (11, 13)),
    Case("Split", axis=3, made=3, opset=18, num_outputs=3),
    Case("Split", ints(1, 3), axis=1, made=2),
    Case("Split", axis=1, made=2, opset=11, split=[3, 1]),
    *(Case("Flatten", axis=axis) for axis in (0, 2, 4, -1)),
    *(Case("DepthToSpace", blocksize=2, mode=mode) for mode in ("DCR", "CRD")),
    *(Case(f"Reduce{how}", axes=[2, 3], keepdims=keep) for how in ("Mean", "Max", "Min") for keep in (0, 1)),
    Case("ReduceSum", ints(1), keepdims=0),
    Case("ReduceMean"),
    Case("ReduceMean", ints(-1), opset=18),
    Case("Transpose", perm=[0, 2, 3, 1]),
    Case("Squeeze", opset=11),
    Case("Unsqueeze", opset=11, axes=[0, 2]),
    Case("Unsqueeze", ints(1)),
    Case("Reshape", ints(0, -1, 8)),
    Case("Expand", ints(2, 2, 4, 6, 8)),
    Case("Gather", ints(2, 0), axis=1),
    Case("Concat", normal(2, 1, 6, 8), axis=1),
    Case("Slice", ints(1, 0), ints(-1, 100), ints(2, 3), ints(1, 2)),
    Case("Slice", opset=9, starts=[1], ends=[3], axes=[1]),
    Case("Pad", ints(0, 0, 1, 2, 0, 0, 0, 1), np.float32(3)),
    Case("Pad", opset=10, pads=[0, 0, 1, 0, 0, 0, 0, 1], value=2.0),
    Case("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
    Case("AveragePool", kernel_shape=[2, 2], strides=[2, 2]),
    Case("Resize", None, np.array([1, 1, 2, 3], np.float32), mode="linear"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_an_operation_computes_what_onnx_runtime_does(case: Case) -> None:
    graph = case.graph()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    (want,) = session.run(None, {"x": PICTURE})
    with torch.inference_mode():
        got = GraphModule(graph).eval()(torch.from_numpy(PICTURE)).numpy()
    assert got.shape == want.shape
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def gemm(**attributes: Any) -> bytes:
    h, nh = onnx.helper, onnx.numpy_helper
    shape = (3, 8) if attributes.get("transB") else (8, 3)
    nodes = [
        h.make_node("Constant", [], ["to"], value_ints=[2 * 4 * 6, 8]),
        h.make_node("Reshape", ["x", "to"], ["flat"]),
        h.make_node("Gemm", ["flat", "w", "b"], ["y"], **attributes),
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", FLOAT, PICTURE.shape)],
        [h.make_tensor_value_info("y", FLOAT, None)],
        [nh.from_array(normal(*shape), "w"), nh.from_array(normal(3), "b")],
    )
    return bytes(
        h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()
    )


@pytest.mark.parametrize("attributes", [{}, {"transB": 1}, {"alpha": 0.5, "beta": 2.0}])
def test_products_and_constants_in_nodes_are_read(attributes: dict[str, Any]) -> None:
    graph = gemm(**attributes)
    (want,) = ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"x": PICTURE})
    with torch.inference_mode():
        got = GraphModule(graph)(torch.from_numpy(PICTURE)).numpy()
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=2e-5)


def mixed(dtype: Any) -> Any:
    """A block as in a transformer, in half precision: norm, product, softmax, product."""
    h, nh = onnx.helper, onnx.numpy_helper
    nodes = [
        h.make_node("Conv", ["x", "c"], ["a"]),
        h.make_node("LayerNormalization", ["a", "n"], ["b"]),
        h.make_node("MatMul", ["b", "w"], ["d"]),
        h.make_node("Softmax", ["d"], ["e"], axis=-1),
        h.make_node("MatMul", ["e", "d"], ["y"]),
    ]
    constants = {"c": normal(4, 4, 1, 1), "n": normal(8), "w": normal(8, 6)}
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", FLOAT, PICTURE.shape)],
        [h.make_tensor_value_info("y", FLOAT, None)],
        [nh.from_array(value, name) for name, value in constants.items()],
    )
    model = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8)
    return GraphModule(model.SerializeToString(), dtype)


def test_half_precision_reaches_products_too() -> None:
    with torch.inference_mode():
        picture = torch.from_numpy(PICTURE)
        torch.manual_seed(0)
        state = RNG.bit_generator.state
        exact = mixed(torch.float32)(picture)
        RNG.bit_generator.state = state
        module = mixed(torch.bfloat16)
        rough = module(picture)
    assert {b.dtype for b in module.buffers() if b.dim() > 1} == {torch.bfloat16}
    assert float((exact - rough).abs().mean()) < 0.05


def test_every_operation_of_the_table_is_compared_here_or_is_one_of_sizes() -> None:
    compared = {case.op for case in CASES} | {"Gemm"}
    of_sizes = {
        "Cast",
        "ConstantOfShape",
        "Equal",
        "Greater",
        "Less",
        "Range",
        "Shape",
        "Where",
        "Log",
        "Sqrt",
    }
    assert set(OPERATIONS) == compared | of_sizes


@pytest.mark.parametrize("op", ["Log", "Sqrt"])
def test_roots_and_logarithms_of_positive_numbers(op: str) -> None:
    graph = Case(op).graph()
    picture = np.abs(PICTURE) + 0.1
    (want,) = ort.InferenceSession(graph, providers=["CPUExecutionProvider"]).run(None, {"x": picture})
    np.testing.assert_allclose(GraphModule(graph)(torch.from_numpy(picture)).numpy(), want, rtol=1e-5)


def test_an_expansion_by_sizes_is_read_as_exporters_write_it() -> None:
    h, nh = onnx.helper, onnx.numpy_helper
    nodes: Sequence[Any] = [
        h.make_node("Shape", ["x"], ["s"]),
        h.make_node("Constant", [], ["wish"], value_ints=[-1, 4, -1, 8]),
        h.make_node("Constant", [], ["none"], value_ints=[-1]),
        h.make_node("Equal", ["wish", "none"], ["open"]),
        h.make_node("Where", ["open", "s", "wish"], ["to"]),
        h.make_node("Constant", [], ["one"], value_ints=[4]),
        h.make_node("ConstantOfShape", ["one"], ["ones"], value=nh.from_array(ints(1))),
        h.make_node("Mul", ["to", "ones"], ["same"]),
        h.make_node("Constant", [], ["three"], value_float=3.0),
        h.make_node("Expand", ["three", "same"], ["threes"]),
        h.make_node("Mul", ["x", "threes"], ["y"]),
    ]
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", FLOAT, ["n", 4, "h", 8])],
        [h.make_tensor_value_info("y", FLOAT, None)],
    )
    data = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()
    np.testing.assert_allclose(GraphModule(data)(torch.from_numpy(PICTURE)).numpy(), 3 * PICTURE, rtol=1e-6)


def test_what_is_not_supported_is_refused_by_name() -> None:
    graph = onnx.load_from_string(Case("Det").graph())
    graph.graph.node.append(onnx.helper.make_node("NonZero", ["x"], ["z"]))
    with pytest.raises(EngineError, match="does not support Det, NonZero of this graph; choose another"):
        GraphModule(graph.SerializeToString())
