"""Graphs as other people export them, in every form: the brightest channel of a picture is its class."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from streamseg.types import U8

COLOURS = {"red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 60, 220)}


def graph_of(
    feed: str = "float32",
    layout: str = "nchw",
    answer: str = "logits",
    *,
    channels: int = 3,
    bgr: bool = False,
    shape: Sequence[int | str] = ("n", "h", "w"),
    stride: int = 1,
    opset: int = 17,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """A graph whose class is the brightest channel of a picture (red, green, blue), averaged over `stride`.

    answer: logits, nhwc, probabilities, sigmoid, int64, int32, uint8, nhw, hw, n1hw, nhw1, or two outputs.
    Levels are compared as they come, so that any scale will do.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    n, h, w = shape
    weight = np.eye(channels, 3, dtype=np.float32)[:, ::-1] if bgr else np.eye(channels, 3, dtype=np.float32)
    nodes = [helper.make_node("Cast", ["x"], ["levels"], to=TensorProto.FLOAT)]
    planes = "levels"
    if layout == "nhwc":
        nodes.append(helper.make_node("Transpose", [planes], ["planes"], perm=[0, 3, 1, 2]))
        planes = "planes"
    pool = {"kernel_shape": [stride, stride], "strides": [stride, stride]}
    nodes += [
        helper.make_node("AveragePool", [planes], ["small"], **pool),
        helper.make_node("Conv", ["small", "weight", "bias"], ["logits"]),
    ]
    ids: dict[str, tuple[str, dict[str, Any]]] = {
        "int64": ("int64", {"keepdims": 0}),
        "int32": ("int32", {"keepdims": 0}),
        "uint8": ("uint8", {"keepdims": 0}),
        "hw": ("int64", {"keepdims": 0}),
        "n1hw": ("int64", {"keepdims": 1}),
        "nhw1": ("int64", {"keepdims": 1}),
    }
    last, kind = "logits", TensorProto.FLOAT
    if answer == "nhwc":
        nodes.append(helper.make_node("Transpose", [last], ["y"], perm=[0, 2, 3, 1]))
        last = "y"
    elif answer == "probabilities":
        nodes.append(helper.make_node("Softmax", [last], ["y"], axis=1))
        last = "y"
    elif answer == "sigmoid":
        nodes.append(helper.make_node("Sigmoid", [last], ["y"]))
        last = "y"
    elif answer == "float16":
        nodes.append(helper.make_node("Cast", [last], ["y"], to=TensorProto.FLOAT16))
        last, kind = "y", TensorProto.FLOAT16
    elif answer in ids:
        wanted, how = ids[answer]
        kind = {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "uint8": TensorProto.UINT8}[wanted]
        nodes.append(helper.make_node("ArgMax", [last], ["best"], axis=1, **how))
        nodes.append(helper.make_node("Cast", ["best"], ["ids"], to=kind))
        last = "ids"
        if answer == "hw":
            nodes.append(helper.make_node("Squeeze", [last, "first"], ["y"]))
            last = "y"
        elif answer == "nhw1":
            nodes.append(helper.make_node("Transpose", [last], ["y"], perm=[0, 2, 3, 1]))
            last = "y"
    outputs = [helper.make_tensor_value_info(last, kind, None)]
    if answer == "two":
        nodes.append(helper.make_node("Neg", ["logits"], ["aux"]))
        outputs.append(helper.make_tensor_value_info("aux", TensorProto.FLOAT, None))
    sides = [n, 3, h, w] if layout == "nchw" else [n, h, w, 3]
    types = {"float32": TensorProto.FLOAT, "float16": TensorProto.FLOAT16, "uint8": TensorProto.UINT8}
    graph = helper.make_graph(
        nodes,
        "brightest",
        [helper.make_tensor_value_info("x", types[feed], sides)],
        outputs,
        [
            numpy_helper.from_array(np.ascontiguousarray(weight[:, :, None, None]), "weight"),
            numpy_helper.from_array(np.zeros(channels, np.float32), "bias"),
            numpy_helper.from_array(np.zeros(1, np.int64), "first"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    for key, value in (metadata or {}).items():
        model.metadata_props.add(key=key, value=value)
    del onnx
    return bytes(model.SerializeToString())


def write_foreign(
    folder: Path,
    graph: bytes,
    toml: str = "",
    *,
    input_size: tuple[int, int] = (48, 64),
    in_graph: bool = False,
    classes: Mapping[str, tuple[int, int, int]] = COLOURS,
    std: float = 255.0,
) -> str:
    """An engine's folder of this graph, with more lines for engine.toml."""
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(graph)
    entries = "".join(f'[[classes]]\nname = "{n}"\ncolour = {list(c)}\n' for n, c in classes.items())
    (folder / "engine.toml").write_text(
        'name = "foreign"\nnetwork = "brightest"\nlicence = "x"\nlabel_set = "rgb"\n'
        f"input_size = {list(input_size)}\n{toml}\n"
        f"[normalisation]\nmean = [0, 0, 0]\nstd = [{std}, {std}, {std}]\n"
        f"in_graph = {'true' if in_graph else 'false'}\n"
        f'[weights.fp32]\nfile = "model.onnx"\nsha256 = "{hashlib.sha256(graph).hexdigest()}"\n{entries}'
    )
    return str(folder)


def patches(height: int, width: int, seed: int = 0) -> U8:
    """A picture of patches, each of one clearly brightest channel."""
    rng = np.random.default_rng(seed)
    cells = rng.integers(0, 3, (max(1, height // 8), max(1, width // 8)))
    y = np.arange(height) * len(cells) // height
    x = np.arange(width) * cells.shape[1] // width
    picture = rng.integers(0, 100, (height, width, 3)).astype(np.uint8)
    np.put_along_axis(picture, cells[y][:, x][..., None], 200, 2)
    return picture
