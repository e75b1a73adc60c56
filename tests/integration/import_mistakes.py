"""The mistakes that people make with `engine import`; docs/operating.md has a row for each."""

from __future__ import annotations

from typing import Any

from tests.foreign import graph_of
from tests.integration.mistakes import MISTAKES, Place, Words, mistake

NET = ["engine", "import", "net.onnx", "--as", "net"]


def imported(place: Place, *words: object, file: str = "net.onnx", **form: Any) -> Words:
    """Import a graph of this form."""
    place.file(file, graph_of(**form))
    return ["engine", "import", file, "--as", "net", *map(str, words)]


MISTAKES |= {
    "a network that is not there": lambda p: NET,
    "a folder without a network": lambda p: ["engine", "import", str(p.folder), "--as", "net"],
    "weights of torch instead of a graph": lambda p: [
        *["engine", "import", str(p.file("net.pth", b"PK\x03\x04" + bytes(60))), "--as", "net"]
    ],
    "a network that was cut off": lambda p: [
        "engine",
        "import",
        str(p.file("net.onnx", graph_of()[:-90])),
        "--as",
        "a",
    ],
    "a network that finds boxes, by its metadata": lambda p: imported(
        p, metadata={"task": "detect", "names": "{0: 'car'}", "imgsz": "[64, 64]"}
    ),
    "fewer names than classes": lambda p: imported(p, "--labels", p.file("names.txt", "road\nsky\n")),
    "another data set's classes": lambda p: imported(p, "--dataset", "ade20k"),
    "class ids that nothing names": lambda p: imported(p, answer="int64"),
    "another layout than the network's": lambda p: imported(p, "--layout", "nhwc"),
    "another size than a fixed one": lambda p: imported(p, "--input-size", 512, 512, shape=("n", 64, 96)),
    "an output that is not there": lambda p: imported(p, "--output-name", "seg", answer="two"),
    "a name that another engine has": lambda p: imported(p, "--as", "camvid-slim"),
    "a file of names that is not there": lambda p: imported(p, "--labels", "names.json"),
}


def other_graph(
    place: Place, shape: list[int], sides: list[Any], inputs: int = 1, file: str = "net.onnx"
) -> Words:
    """Import a graph that gives zeros of this shape."""
    import numpy as np
    import onnx
    from onnx import TensorProto, helper

    ports = [helper.make_tensor_value_info(f"x{i}", TensorProto.FLOAT, sides) for i in range(inputs)]
    nodes = [
        helper.make_node("ReduceMean", ["x0"], ["mean"], keepdims=0),
        helper.make_node("Add", ["mean", "zeros"], ["y"]),
    ]
    zeros = onnx.numpy_helper.from_array(np.zeros(shape, np.float32), "zeros")
    graph = helper.make_graph(
        nodes, "other", ports, [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)], [zeros]
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    place.file(file, model.SerializeToString())
    return ["engine", "import", file, "--as", "net"]


MISTAKES |= {
    "a network that finds boxes": lambda p: other_graph(p, [1, 84, 8400], [1, 3, 64, 64]),
    "a network for whole pictures": lambda p: other_graph(p, [1, 1000], [1, 3, 64, 64]),
    "a network with two inputs": lambda p: other_graph(p, [1, 3, 64, 64], [1, 3, 64, 64], inputs=2),
    "a network for four channels": lambda p: other_graph(p, [1, 3, 64, 64], [1, 4, 64, 64]),
}


@mistake("weights beside the network that were not copied")
def _(p: Place) -> Words:
    return beside(p, "net.data")


@mistake("weights outside of the network's folder")
def _(p: Place) -> Words:
    return beside(p, "../net.data")


@mistake("weights beside the network that are a link to elsewhere")
def _(p: Place) -> Words:
    (p.folder / "net.data").symlink_to("/etc/hostname")
    return beside(p, "net.data")


@mistake("a folder of HuggingFace with another kind of network")
def _(p: Place) -> Words:
    (p.folder / "hub").mkdir()
    (p.folder / "hub/model.onnx").write_bytes(graph_of())
    (p.folder / "hub/config.json").write_text('{"architectures": ["DetrForObjectDetection"]}')
    return ["engine", "import", "hub", "--as", "net"]


def beside(place: Place, location: str) -> Words:
    """Import a graph whose weights are said to lie in another file."""
    import onnx

    model = onnx.load_from_string(graph_of())
    for tensor in model.graph.initializer:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.ClearField("raw_data")
    place.file("net.onnx", model.SerializeToString())
    return NET
