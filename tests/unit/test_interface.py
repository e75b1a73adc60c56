"""A graph's inputs and outputs beside engine.toml: what fits runs, the rest is refused when it is loaded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from streamseg.config import BackendName, EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.base import reason
from streamseg.inference.engine import Engine, Limits
from streamseg.inference.infer import input_size
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits, make_batch
from streamseg.types import U8

onnx = pytest.importorskip("onnx", reason="needs the extra torch")
FLOAT, UINT8, INT64, HALF = (getattr(onnx.TensorProto, n) for n in ("FLOAT", "UINT8", "INT64", "FLOAT16"))
SIZE = (48, 64)
BACKENDS: tuple[BackendName, ...] = ("onnx", "openvino", "torch")

Node = tuple[str, Sequence[str], Sequence[str], dict[str, Any]]


def foreign(
    folder: Path,
    *behind: Node,
    shape: Sequence[int | str] = ("n", 3, "h", "w"),
    kind: int = FLOAT,
    outputs: Sequence[tuple[str, int, Any]] = (("y", FLOAT, None),),
    extra_inputs: Sequence[str] = (),
    constants: dict[str, Any] | None = None,
    channels: int = 3,
    toml: str = "",
) -> str:
    """An engine whose classes are the channel that is brightest, with other nodes behind; its folder."""
    folder.mkdir(parents=True)
    weight = np.eye(channels, 3, dtype=np.float16 if kind == HALF else np.float32)[:, :, None, None]
    h = onnx.helper
    nodes = [h.make_node("Conv", ["x", "weight"], ["y"])]
    nodes += [h.make_node(op, list(given), list(made), **at) for op, given, made, at in behind]
    values = {"weight": weight, **(constants or {})}
    graph = h.make_graph(
        nodes,
        "foreign",
        [h.make_tensor_value_info("x", kind, shape)]
        + [h.make_tensor_value_info(name, FLOAT, [1]) for name in extra_inputs],
        [h.make_tensor_value_info(*output) for output in outputs],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    data = h.make_model(graph, opset_imports=[h.make_opsetid("", 17)], ir_version=8).SerializeToString()
    (folder / "model.onnx").write_bytes(data)
    classes = "".join(f'[[classes]]\nname = "{i}"\ncolour = [0, 0, 0]\n' for i in range(3))
    lines = {"input_size": "[48, 64]", "in_graph": "false"}
    lines |= dict(line.split(" = ") for line in toml.splitlines())
    inside = lines.pop("in_graph")
    (folder / "engine.toml").write_text(
        'name = "foreign"\nnetwork = "x"\nlicence = "x"\nlabel_set = "x"\n'
        + "".join(f"{key} = {value}\n" for key, value in lines.items())
        + f"[normalisation]\nmean = [0, 0, 0]\nstd = [1, 1, 1]\nin_graph = {inside}\n"
        + f'[weights.fp32]\nfile = "model.onnx"\nsha256 = "{hashlib.sha256(data).hexdigest()}"\n{classes}'
    )
    return str(folder)


def loaded(name: str, backend: BackendName = "onnx") -> Engine:
    if backend != "onnx":
        pytest.importorskip(backend)
    return load_engine(EngineConfig(name=name, backend=backend))


def case(backend: BackendName, *values: Any, quick: bool) -> Any:
    """A case of a test; of OpenVINO, which builds a plan in a process of its own for each, some are slow."""
    slow = backend == "openvino" and not quick
    return pytest.param(backend, *values, marks=pytest.mark.slow if slow else ())


def stripes(height: int, width: int) -> U8:
    """Red on the left, green, and blue on the right."""
    picture = np.zeros((height, width, 3), np.uint8)
    for channel, part in enumerate(np.array_split(np.arange(width), 3)):
        picture[:, part, channel] = 200
    return picture


def labelled(engine: Engine, pictures: Sequence[U8]) -> list[U8]:
    size = input_size(engine, (pictures[0].shape[0], pictures[0].shape[1]))
    logits = engine(make_batch(pictures, size))
    return [
        labels_from_logits(one, picture.shape[:2])[0] for one, picture in zip(logits, pictures, strict=True)
    ]


@pytest.mark.parametrize(
    ("backend", "shape", "limits"),
    [
        case(backend, shape, limits, quick=limits in (Limits(), Limits(batch=4, size=SIZE)))
        for backend in BACKENDS
        for shape, limits in (
            (("n", 3, "h", "w"), Limits()),
            (("n", 3, 48, 64), Limits(size=SIZE)),
            ((1, 3, "h", "w"), Limits(batch=1)),
            ((1, 3, 48, 64), Limits(batch=1, size=SIZE)),
            ((4, 3, 48, 64), Limits(batch=4, size=SIZE)),
            (("n", 3, 48, "w"), Limits(size=SIZE)),
        )
    ],
)
def test_a_graph_of_a_fixed_size_or_batch_runs_for_every_picture(
    tmp_path: Path, backend: BackendName, shape: Sequence[int | str], limits: Limits
) -> None:
    engine = loaded(foreign(tmp_path / "e", shape=shape), backend)
    assert engine.info.limits == limits
    for pictures in ([stripes(96, 128)], [stripes(90, 160)] * 3, [stripes(160, 90)] * 5):
        width = pictures[0].shape[1]
        for labels in labelled(engine, pictures):
            assert labels.shape == pictures[0].shape[:2]
            assert [int(labels[:, at].max()) for at in (width // 6, width // 2, -width // 6)] == [0, 1, 2]
    engine.close()


def test_a_batch_of_another_size_gives_logits_of_its_own_grid(tmp_path: Path) -> None:
    engine = loaded(foreign(tmp_path / "e", shape=(2, 3, 48, 64)))
    logits = engine(np.stack([stripes(96, 32)] * 3))
    assert logits.shape == (3, 3, 96, 32)
    assert np.array_equal(logits[0, :, 40, 16].argmax(), 1)
    engine.close()


TRANSPOSED: Node = ("Transpose", ["y"], ["z"], {"perm": [0, 2, 3, 1]})
BEST: Node = ("ArgMax", ["y"], ["z"], {"axis": 1, "keepdims": 0})
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "class ids": (
        {"behind": [BEST], "outputs": [("z", INT64, ["n", "h", "w"])]},
        "gives z: int64 (?, ?, ?); wanted are the logits, float32 (N, 3, h, w); whole numbers are class "
        'ids: set output = "labels"',
    ),
    "logits and class ids": (
        {"behind": [BEST], "outputs": [("y", FLOAT, None), ("z", INT64, None)]},
        "has 2 outputs (y: float32; z: int64); it must have one, the logits, or engine.toml an output_name",
    ),
    "two inputs": (
        {"extra_inputs": ["scale"]},
        "has 2 inputs (x: float32 (?, 3, ?, ?); scale: float32 (1));",
    ),
    "a class more, as it says": (
        {"channels": 4, "outputs": [("y", FLOAT, ["n", 4, "h", "w"])]},
        "are the logits, float32 (N, 3, h, w); engine.toml must list its 4 classes",
    ),
    "a class more, unsaid": (
        {"channels": 4},
        "(2, 3, 40 / stride, 32 / stride); engine.toml must list its 4",
    ),
    "classes last, as it says": (
        {"behind": [TRANSPOSED], "outputs": [("z", FLOAT, ["n", "h", "w", 3])]},
        "gives z: float32 (?, ?, ?, 3); wanted are the logits, float32 (N, 3, h, w); it has",
    ),
    "classes last, unsaid": (
        {"behind": [TRANSPOSED], "outputs": [("z", FLOAT, None)]},
        'it has its classes last: set output_layout = "nhwc"',
    ),
    "one channel": ({"channels": 1}, 'one channel is no choice between 3 classes: set output = "binary"'),
    "no batch axis": (
        {
            "behind": [("Squeeze", ["y", "axes"], ["z"], {})],
            "constants": {"axes": [0]},
            "outputs": [("z", FLOAT, None)],
            "shape": (1, 3, "h", "w"),
        },
        "gives (3, 40, 32) for 1 picture of 40x32",
    ),
    "channels last in": (
        {"shape": ("n", "h", "w", 3)},
        '(N, 3, H, W); it has its channels last: set layout = "nhwc"',
    ),
    "uint8 in": ({"kind": UINT8}, "as engine.toml has in_graph = false; set the other"),
    "float32 in": ({"toml": "in_graph = true"}, "as engine.toml has in_graph = true; set the other"),
    "float16": (
        {"kind": HALF, "outputs": [("y", HALF, None)]},
        'takes x: float16 (?, 3, ?, ?); wanted is float32 (N, 3, H, W); set input_type = "float16"',
    ),
    "five axes": ({"shape": ("n", 1, 3, "h", "w")}, "(N, 3, H, W); export it with four axes"),
    "another fixed size": (
        {"shape": ("n", 3, 96, 128)},
        "takes pictures of 96x128 only (x: float32 (?, 3, 96, 128)), but engine.toml has",
    ),
    "another stride": ({"toml": "output_stride = 4"}, "has logits at 1/1 (40x32 for 40x32), but"),
    "a size fixed inside": (
        {
            "behind": [("Reshape", ["y", "to"], ["z"], {})],
            "constants": {"to": [-1, 3, 48, 64]},
            "outputs": [("z", FLOAT, None)],
        },
        'runs on pictures of 48x64 only, though its input says otherwise; set size = "fixed"',
    ),
    "a batch fixed inside": (
        {
            "behind": [("Reshape", ["y", "to"], ["z"], {}), ("Expand", ["z", "as"], ["u"], {})],
            "constants": {"to": [1, 3, 48, -1], "as": [1, 3, 48, 64]},
            "outputs": [("u", FLOAT, None)],
        },
        "only, though its input says otherwise",
    ),
    "a batch of one inside a fixed size": (
        {
            "shape": ("n", 3, 48, 64),
            "behind": [("Reshape", ["y", "to"], ["z"], {})],
            "constants": {"to": [1, 3, 48, 64]},
            "outputs": [("z", FLOAT, None)],
        },
        "runs on one picture at a time only, though its input says otherwise; set batch = 1",
    ),
    "pictures that become one": (
        {
            "shape": ("n", 3, 48, 64),
            "behind": [("Reshape", ["y", "to"], ["z"], {})],
            "constants": {"to": [1, 3, 48, -1]},
            "outputs": [("z", FLOAT, None)],
        },
        "runs on one picture at a time only, though its input says otherwise; set batch = 1",
    ),
    "no numbers": (
        {
            "behind": [("Div", ["y", "none"], ["z"], {}), ("Sub", ["z", "z"], ["u"], {})],
            "constants": {"none": np.zeros(1, np.float32)},
            "outputs": [("u", FLOAT, None)],
        },
        "computes no numbers (NaN or infinity) from a plain picture",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_does_not_fit_is_refused_in_one_line_when_it_is_loaded(tmp_path: Path, kind: str) -> None:
    made, said = dict(REFUSED[kind][0]), REFUSED[kind][1]
    name = foreign(tmp_path / "e", *made.pop("behind", ()), **made)
    with pytest.raises(EngineError) as got:
        loaded(name)
    text = str(got.value)
    assert text.startswith("engine foreign: model.onnx ")
    assert said in text
    assert not {"\n", "ONNXRuntimeError", "INVALID_ARGUMENT"} & {*text, *text.split()}


@pytest.mark.parametrize(
    ("backend", "kind"),
    [
        case(backend, kind, quick=kind in ("class ids", "another stride"))
        for backend in BACKENDS[1:]
        for kind in ("a class more, unsaid", "classes last, unsaid", "class ids", "another stride")
    ],
)
def test_every_backend_refuses_the_same(tmp_path: Path, backend: BackendName, kind: str) -> None:
    made, said = REFUSED[kind]
    made = dict(made)
    with pytest.raises(EngineError) as got:
        loaded(foreign(tmp_path / "e", *made.pop("behind", ()), **made), backend)
    assert said in str(got.value)


def test_an_input_size_in_the_settings_that_the_graph_does_not_take_is_refused(tmp_path: Path) -> None:
    name = foreign(tmp_path / "e", shape=("n", 3, *SIZE))
    with pytest.raises(
        EngineError, match=r"^engine\.input_size: .* takes pictures of \[48, 64\] only; is \[96"
    ):
        load_engine(EngineConfig(name=name, backend="onnx", input_size=(96, 128)))


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("[ONNXRuntimeError] : 2 : INVALID_ARGUMENT : Got invalid\n dimensions", "Got invalid dimensions"),
        ("Exception from src/inference/src/core.cpp:116:\nno such op", "no such op"),
        ("", "ValueError"),
    ],
)
def test_a_librarys_reason_has_no_codes_and_no_source_files_of_its_own(text: str, left: str) -> None:
    assert reason(ValueError(text)) == left
