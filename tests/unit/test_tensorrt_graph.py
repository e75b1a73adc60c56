"""The graph that TensorRT is given says what the engine's graph says, in the types that were asked for."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections import Counter
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.config import EngineConfig, Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import BuildSpec, build_spec
from streamseg.inference.plans.verify import agreement_of
from streamseg.inference.scaling import make_batch
from streamseg.inference.spec import find_engine
from streamseg.types import U8
from tools.demo import draw_scene

onnx = pytest.importorskip("onnx")
torch = pytest.importorskip("torch")

from streamseg.inference.backends.tensorrt.graph import plan_graph  # noqa: E402
from tests.plans import run_graph, small_graph  # noqa: E402

NAMES = ("slim", "small")
SIZE = (96, 144)


@pytest.fixture(scope="module")
def graphs() -> dict[str, bytes]:
    return {"slim": slim().graph(), "slim int8": slim("int8").graph(), "small": small_graph()}


def slim(precision: Precision = "fp32", **changes: Any) -> BuildSpec:
    folder, engine = find_engine("camvid-slim")
    return msgspec.structs.replace(build_spec(EngineConfig(), folder, engine, precision), **changes)


@functools.cache
def pictures() -> U8:
    return make_batch([draw_scene(t)[0] for t in (1.0, 5.0)], SIZE)


def nodes_by_type(graph: bytes) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load_from_string(graph).graph.node)


def types_into(graph: bytes, operation: str) -> set[int]:
    """The types of all that goes into nodes of one kind."""
    model = onnx.shape_inference.infer_shapes(onnx.load_from_string(graph), strict_mode=True)
    types = {v.name: v.type.tensor_type.elem_type for v in (*model.graph.value_info, *model.graph.output)}
    types |= {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    return {types[name] for node in model.graph.node if node.op_type == operation for name in node.input}


@pytest.mark.parametrize("name", NAMES)
def test_in_fp32_the_rewritten_graph_gives_the_same_logits(graphs: dict[str, bytes], name: str) -> None:
    want = run_graph(graphs[name], pictures())
    np.testing.assert_allclose(
        run_graph(plan_graph(graphs[name], "fp32"), pictures()), want, atol=1e-4 * want.std(), rtol=1e-4
    )


@pytest.mark.parametrize("name", NAMES)
def test_in_fp16_every_convolution_computes_in_fp16_and_agrees(graphs: dict[str, bytes], name: str) -> None:
    graph = plan_graph(graphs[name], "fp16")
    assert types_into(graph, "Conv") == {onnx.TensorProto.FLOAT16}
    found = agreement_of([(run_graph(graph, pictures()), run_graph(graphs[name], pictures()))])
    assert found.mean_difference < 0.01
    assert found.argmax_percent > 99


@pytest.mark.parametrize("name", NAMES)
def test_in_bf16_every_convolution_computes_in_bf16(graphs: dict[str, bytes], name: str) -> None:
    graph = plan_graph(graphs[name], "bf16")
    onnx.checker.check_model(onnx.load_from_string(graph), full_check=True)
    assert types_into(graph, "Conv") == {onnx.TensorProto.BFLOAT16}
    assert nodes_by_type(graph)["HardSwish"] == 0  # TensorRT has none in bf16


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_the_picture_is_normalised_in_fp32(graphs: dict[str, bytes], precision: Precision) -> None:
    graph = plan_graph(graphs["slim"], precision)
    assert types_into(graph, "Sub") == {onnx.TensorProto.FLOAT}
    assert onnx.load_from_string(graph).graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_int8_is_quantised_around_zero_and_agrees_with_fp32(graphs: dict[str, bytes]) -> None:
    graph = plan_graph(graphs["slim int8"], "int8")
    zeros = {t.name: t for t in onnx.load_from_string(graph).graph.initializer}
    for node in onnx.load_from_string(graph).graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            levels = onnx.numpy_helper.to_array(zeros[node.input[2]])
            assert levels.dtype == np.int8
            assert not levels.any()
    batch = make_batch([draw_scene(1.0)[0]], (240, 320))
    found = agreement_of([(run_graph(graph, batch), run_graph(graphs["slim"], batch))])
    assert found.argmax_percent > 95
    assert found.mean_difference < 0.2


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_nothing_touches_uint8_before_it_is_cast(graphs: dict[str, bytes], precision: Precision) -> None:
    graph = onnx.load_from_string(plan_graph(graphs["slim"], precision)).graph
    picture = graph.input[0].name
    assert {node.op_type for node in graph.node if picture in node.input} <= {"Cast", "Shape"}


def test_batch_normalisations_are_folded_into_the_convolutions(graphs: dict[str, bytes]) -> None:
    assert nodes_by_type(graphs["small"])["BatchNormalization"] == 1
    assert nodes_by_type(plan_graph(graphs["small"], "fp16"))["BatchNormalization"] == 0


def test_the_same_graph_is_rewritten_to_the_same_bytes(graphs: dict[str, bytes]) -> None:
    for precision in ("fp32", "fp16", "bf16"):
        assert plan_graph(graphs["slim"], precision) == plan_graph(graphs["slim"], precision)


def test_weights_beyond_fp16_are_refused_by_name(graphs: dict[str, bytes]) -> None:
    model = onnx.load_from_string(graphs["slim"])
    node = next(node for node in model.graph.node if node.op_type == "Conv")
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    weights = np.array(onnx.numpy_helper.to_array(tensor))
    weights[0] = 1e5
    tensor.CopyFrom(onnx.numpy_helper.from_array(weights, tensor.name))
    with pytest.raises(EngineError, match="do not fit into fp16; use bf16"):
        plan_graph(model.SerializeToString(), "fp16")
    plan_graph(model.SerializeToString(), "bf16")


def test_a_graph_that_takes_floats_is_refused() -> None:
    model = onnx.load_from_string(slim().graph())
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    with pytest.raises(EngineError, match="does not take uint8 pictures"):
        plan_graph(model.SerializeToString(), "fp32")


def test_the_program_for_torch_tensorrt_says_what_the_graph_says() -> None:
    from streamseg.inference.backends.tensorrt.torch_trt import exported

    spec = slim()
    batch = make_batch([pictures()[0]], (360, 480))
    logits = exported(spec, "cpu").module()(torch.from_numpy(batch)).numpy()
    want = run_graph(plan_graph(spec.graph(), "fp32"), batch)
    np.testing.assert_allclose(logits, want, atol=1e-3 * want.std(), rtol=1e-3)


def test_importing_the_backends_imports_no_library() -> None:
    code = (
        "import sys, streamseg.inference.backends.tensorrt, streamseg.inference.backends.tensorrt.plan; "
        "print(*({'torch', 'onnx', 'tensorrt', 'tensorrt_rtx', 'torch_tensorrt'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert loaded.split() == []
