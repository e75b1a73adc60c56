"""A tiny engine whose answers are known beforehand: it tells red, green and blue from everything else."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

TINY_CLASSES = {"other": (60, 60, 60), "red": (220, 40, 40), "green": (40, 200, 40), "blue": (40, 60, 220)}
TINY_STRIDE = 4


@pytest.fixture(scope="session")
def tiny_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An engine's folder: EngineConfig(name=str(tiny_engine)). Classes: 0 other, 1 red, 2 green, 3 blue.

    A picture's pure (255, 0, 0) is red, grey, black and white are other. Input 48×64, logits at a quarter of
    it, fp32 only. Takes uint8 (N, H, W, 3) of any size whose sides are multiples of 8.
    """
    return write_tiny_engine(tmp_path_factory.mktemp("engines") / "tiny")


def write_tiny_engine(folder: Path, *, name: str = "tiny", gain: float = 1 / 32) -> Path:
    """Write engine.toml and its weights into `folder`, which is made; another gain gives other weights."""
    return write_engine(
        folder,
        _graph(gain),
        TINY_CLASSES,
        name=name,
        file="tiny.onnx",
        network="threshold",
        label_set="tiny-4",
        input_size=(48, 64),
        output_stride=TINY_STRIDE,
    )


def write_two_forms(folder: Path, gain: float = 1 / 32) -> Path:
    """The tiny engine with an int8 form, which is its graph with another gain; below 0 labels are others."""
    write_tiny_engine(folder)
    data = _graph(gain)
    (folder / "tiny.int8.onnx").write_bytes(data)
    toml = (folder / "engine.toml").read_text()
    entry = f'[weights.int8]\nfile = "tiny.int8.onnx"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n\n'
    (folder / "engine.toml").write_text(toml.replace("[[classes]]", entry + "[[classes]]", 1))
    return folder


def write_constant_engine(folder: Path, classes: int, *, label_set: str = "") -> Path:
    """An engine of so many classes that labels every pixel with the last one; its label set is of-CLASSES."""
    weight = np.zeros((classes, 3), np.float32)
    bias = np.arange(classes, dtype=np.float32)
    return write_engine(
        folder,
        _threshold_graph(weight, bias),
        {f"c{i}": (i, i, 255 - i) for i in range(classes)},
        name=folder.name,
        file="constant.onnx",
        network="constant",
        label_set=label_set or f"of-{classes}",
        input_size=(48, 64),
        output_stride=TINY_STRIDE,
    )


def write_engine(
    folder: Path,
    graph: bytes,
    colours: Mapping[str, tuple[int, int, int]],
    *,
    name: str,
    file: str,
    network: str,
    label_set: str,
    input_size: tuple[int, int],
    output_stride: int,
) -> Path:
    """Write an engine of one fp32 graph that takes uint8 pictures into `folder`, which is made."""
    folder.mkdir(parents=True)
    (folder / file).write_bytes(graph)
    classes = "\n".join(f'[[classes]]\nname = "{n}"\ncolour = {list(c)}' for n, c in colours.items())
    (folder / "engine.toml").write_text(
        f"""name = "{name}"
network = "{network}"
licence = "Apache-2.0"
label_set = "{label_set}"
input_size = {list(input_size)}
size_multiple = 8
output_stride = {output_stride}

[normalisation]
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]
in_graph = true

[weights.fp32]
file = "{file}"
sha256 = "{hashlib.sha256(graph).hexdigest()}"

{classes}
"""
    )
    return folder


def _graph(gain: float) -> bytes:
    """uint8 RGB (N, H, W, 3) → logits (N, 4, H/4, W/4): how far one channel lies above the other two."""
    # (classes, channels); "other" is a constant that grey stays below and a clear colour exceeds.
    weight = np.array([[0, 0, 0], [1, -0.5, -0.5], [-0.5, 1, -0.5], [-0.5, -0.5, 1]], np.float32) * gain
    bias = np.array([64, 0, 0, 0], np.float32) * gain
    return _threshold_graph(weight, bias)


def _threshold_graph(weight: npt.NDArray[np.float32], bias: npt.NDArray[np.float32]) -> bytes:
    """uint8 RGB (N, H, W, 3) → logits (N, C, H/4, W/4): weight (C, 3) times the mean level, plus bias."""
    import onnx  # only where tests are run
    from onnx import TensorProto, helper, numpy_helper

    nodes = [
        helper.make_node("Cast", ["rgb"], ["levels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["levels"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "AveragePool",
            ["planes"],
            ["small"],
            kernel_shape=[TINY_STRIDE, TINY_STRIDE],
            strides=[TINY_STRIDE, TINY_STRIDE],
        ),
        helper.make_node("Conv", ["small", "weight", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "threshold",
        [helper.make_tensor_value_info("rgb", TensorProto.UINT8, ["n", "h", "w", 3])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", len(bias), None, None])],
        [
            numpy_helper.from_array(weight[:, :, None, None], "weight"),
            numpy_helper.from_array(bias, "bias"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
