"""Guesses of `engine import` where a graph leaves several open: the labels are those of the graph."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("onnx", reason="needs the extra torch")

import onnx
from onnx import TensorProto, helper, numpy_helper

from streamseg.errors import EngineError, StreamsegError
from streamseg.evaluation.engines import segment
from streamseg.models.weights.onnx_import import Taken, import_graph
from streamseg.types import F32
from tests.foreign import graph_of, patches

NAMES = "red\ngreen\nblue\n"


def imported(tmp_path: Path, graph: bytes, names: str = NAMES, **given: Any) -> tuple[Taken, float]:
    """The import, and the share of a picture's pixels that have the class of their brightest channel."""
    (tmp_path / "n.onnx").write_bytes(graph)
    (tmp_path / "names.txt").write_text(names)
    given = {"labels": str(tmp_path / "names.txt")} | given
    taken, engine = import_graph(tmp_path / "n.onnx", "e", tmp_path / "e", given, lambda: patches(64, 64))
    picture = patches(64, 64, 3)
    same = float(np.mean(segment(engine, picture) == picture.argmax(2)))
    engine.close()
    return taken, same


def with_first(graph: bytes, operation: str, numbers: Sequence[float], shape: Sequence[int]) -> bytes:
    """The graph with arithmetic before its first layer."""
    model = onnx.load_from_string(graph)
    constant = np.array(numbers, np.float32).reshape(shape)
    model.graph.initializer.append(numpy_helper.from_array(constant, "own"))
    node = model.graph.node[0]
    model.graph.node.insert(0, helper.make_node(operation, [node.input[0], "own"], ["normal"]))
    model.graph.node[1].input[0] = "normal"
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("layout", "shape", "mean"),
    [
        ("nchw", (1, 3, 1, 1), (103.939, 116.779, 123.68)),
        ("nchw", (3, 1, 1), (104.00699, 116.66877, 122.67892)),
        ("nhwc", (3,), (103.53, 116.28, 123.675)),
        ("nchw", (1, 3, 1, 1), (0.406, 0.456, 0.485)),
    ],
)
def test_a_mean_in_the_order_of_bgr_says_so(
    tmp_path: Path, layout: str, shape: tuple[int, ...], mean: tuple[float, ...]
) -> None:
    graph = with_first(graph_of(layout=layout, bgr=True), "Sub", mean, shape)
    taken, same = imported(tmp_path, graph, layout=layout, input_size=(64, 64))
    assert taken.spec.channels == "bgr"
    assert [g.source for g in taken.guesses if g.what == "channels"] == ["the mean that the graph subtracts"]
    assert same == 1
    graph = with_first(graph_of(layout=layout), "Sub", mean[::-1], shape)
    (tmp_path / "rgb").mkdir()
    taken, same = imported(tmp_path / "rgb", graph, layout=layout, input_size=(64, 64))
    assert (taken.spec.channels, same) == ("rgb", 1)


def grid(classes: int, layout: str, sides: int) -> bytes:
    """Channels last in, logits at one half out, in `layout`."""
    weight: F32 = np.eye(classes, 3, dtype=np.float32)[:, :, None, None]
    nodes = [
        helper.make_node("Transpose", ["x"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["small"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["small", "weight"], ["first" if layout == "nhwc" else "y"]),
    ]
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", ["first"], ["y"], perm=[0, 2, 3, 1]))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, sides, sides, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_as_many_classes_as_cells_have_the_inputs_layout(tmp_path: Path, layout: str) -> None:
    names = "\n".join(f"c{i}" for i in range(32))
    given = {"output_layout": "nchw"} if layout == "nchw" else {}
    taken, same = imported(tmp_path, grid(32, layout, 64), names, **given)
    assert taken.spec.output_layout == layout
    assert same > 0.99, "the rest is where two patches meet"
    shown = [g for g in taken.guesses if g.what == "output_layout"]
    assert len(shown) == (layout == "nhwc"), "what was guessed is printed, and what was given is none"


def test_an_auxiliary_output_is_not_the_main_one(tmp_path: Path) -> None:
    model = onnx.load_from_string(graph_of(answer="two"))
    outputs = list(model.graph.output)
    del model.graph.output[:]
    model.graph.output.extend(reversed(outputs))
    for node in model.graph.node:
        node.output[:] = ["main" if name == "logits" else name for name in node.output]
        node.input[:] = ["main" if name == "logits" else name for name in node.input]
    model.graph.output[1].name = "main"
    taken, same = imported(tmp_path, bytes(model.SerializeToString()), input_size=(64, 64))
    assert (taken.spec.output_name, same) == ("main", 1)


def test_logits_without_a_batch_axis_and_other_formats_are_refused_by_name(tmp_path: Path) -> None:
    model = onnx.load_from_string(graph_of(shape=(1, 64, 64)))
    model.graph.node.append(helper.make_node("Squeeze", ["logits", "first"], ["flat"]))
    model.graph.output[0].name = "flat"
    with pytest.raises(EngineError, match="has no axis of the batch; export it with four axes"):
        imported(tmp_path, bytes(model.SerializeToString()))
    with pytest.raises(EngineError, match=r"is in ONNX Runtime's own format; take the \.onnx file"):
        imported(tmp_path, b"\x18\x00\x00\x00ORTM" + bytes(100))


@pytest.mark.parametrize(
    ("form", "given", "said"),
    [
        ({}, {"dataset": "voc"}, "--dataset: --labels names the classes already"),
        (
            {},
            {"in_graph": True, "mean": (1.0, 2.0, 3.0)},
            "--mean: --in-graph says that levels are taken as they",
        ),
        ({"feed": "uint8"}, {"std": (1.0, 2.0, 3.0)}, r"--std: n\.onnx takes levels as they are \(uint8\)"),
        ({}, {"input_size": (9000, 64)}, r"n\.onnx: pictures of 8992x64 \(given\); sides of at most 8192"),
        ({"shape": (1, 64, 90000)}, {}, r"pictures of 64x90000 \(the input's shape, which is fixed\)"),
        ({}, {"network": "a\nb", "input_size": (64, 64)}, "^network: must be one line of text"),
    ],
)
def test_options_that_contradict_one_another_or_the_graph_are_refused(
    tmp_path: Path, form: dict[str, Any], given: dict[str, Any], said: str
) -> None:
    with pytest.raises(StreamsegError, match=said):
        imported(tmp_path, graph_of(**form), **given)


def test_a_size_that_is_to_be_fixed_is_stretched_to(tmp_path: Path) -> None:
    taken, same = imported(tmp_path, graph_of(), size="fixed", input_size=(64, 64))
    assert (taken.spec.size, taken.spec.fit, same) == ("fixed", "stretch", 1)


@pytest.mark.parametrize("given", [{}, {"output": "logits"}, {"output": "labels"}])
@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT8, TensorProto.INT32])
def test_whole_numbers_in_several_channels_are_refused(
    tmp_path: Path, kind: int, given: dict[str, str]
) -> None:
    model = onnx.load_from_string(graph_of(shape=(1, 64, 64)))
    model.graph.node.append(helper.make_node("Cast", ["logits"], ["whole"], to=kind))
    model.graph.output[0].name = "whole"
    model.graph.output[0].type.tensor_type.elem_type = kind
    with pytest.raises(EngineError, match="in 3 channels, which are neither class ids nor numbers in float"):
        imported(tmp_path, bytes(model.SerializeToString()), **given)
