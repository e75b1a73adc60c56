"""Every form of a graph's input and output gives the labels that the plain form gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.evaluation.engines import picture_frame
from streamseg.inference.engine import Engine
from streamseg.inference.forms import letterbox_place, letterbox_size, with_bars, without_bars
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.types import U8, Logits, Size
from tests.foreign import COLOURS, graph_of, patches, write_foreign

pytest.importorskip("onnx", reason="needs the extra torch")

# By name: the graph's form, and what engine.toml says of it.
FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "nhwc": ({"layout": "nhwc", "answer": "nhwc"}, 'layout = "nhwc"\noutput_layout = "nhwc"'),
    "bgr": ({"bgr": True}, 'channels = "bgr"'),
    "fp16": ({"feed": "float16", "answer": "float16"}, 'input_type = "float16"'),
    "uint8 planes": ({"feed": "uint8"}, 'in_graph\nlayout = "nchw"'),
    "levels": ({}, 'in_graph\nlayout = "nchw"\ninput_type = "float32"'),
    "probabilities": ({"answer": "probabilities"}, 'output = "probabilities"'),
    "one sigmoid each": ({"answer": "sigmoid"}, 'output = "probabilities"'),
    "int64 ids": ({"answer": "int64"}, 'output = "labels"'),
    "int32 ids": ({"answer": "int32"}, 'output = "labels"'),
    "uint8 ids": ({"answer": "uint8"}, 'output = "labels"'),
    "ids without a batch axis": ({"answer": "hw", "shape": (1, "h", "w")}, 'output = "labels"'),
    "ids in a channel": ({"answer": "n1hw"}, 'output = "labels"'),
    "ids in a last channel": ({"answer": "nhw1"}, 'output = "labels"\noutput_layout = "nhwc"'),
    "two outputs": ({"answer": "two"}, 'output_name = "logits"\ninput_name = "x"'),
    "batch of one": ({"shape": (1, "h", "w")}, ""),
    "batch of one, unsaid": ({"answer": "hw"}, 'output = "labels"\nbatch = 1'),
    "an old opset": ({"opset": 11}, ""),
}


def engine_of(folder: Path, form: str, backend: Literal["onnx", "openvino"] = "onnx") -> Engine:
    made, toml = FORMS[form]
    if "hw" in made.get("answer", "") and made["answer"] == "hw":
        made = {"opset": 13, **made}
    graph = graph_of(**made)
    name = write_foreign(folder, graph, toml.replace("in_graph\n", ""), in_graph="in_graph" in toml)
    return load_engine(EngineConfig(name=name, backend=backend))


def labelled(engine: Engine, picture: U8) -> U8:
    (answer,) = infer(engine, [picture_frame(picture)])
    return labels_of(answer, (picture.shape[0], picture.shape[1]))[0]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_graph_gives_the_same_labels(tmp_path: Path, form: str) -> None:
    picture = patches(48, 64)
    engine = engine_of(tmp_path / "e", form)
    assert np.array_equal(labelled(engine, picture), picture.argmax(2))
    several = infer(engine, [picture_frame(patches(48, 64, seed)) for seed in range(3)])
    for seed, one in enumerate(several):
        assert np.array_equal(labels_of(one, (48, 64))[0], patches(48, 64, seed).argmax(2))
    engine.close()


@pytest.mark.slow  # each is compiled in a process of its own
@pytest.mark.parametrize("form", FORMS)
def test_openvino_takes_the_same_forms(tmp_path: Path, form: str) -> None:
    pytest.importorskip("openvino")
    picture = patches(48, 64)
    engine = engine_of(tmp_path / "e", form, "openvino")
    assert np.array_equal(labelled(engine, picture), picture.argmax(2))
    engine.close()


def test_probabilities_and_logits_have_the_same_confidence(tmp_path: Path) -> None:
    picture = patches(48, 64)
    made = {}
    for answer in ("logits", "probabilities"):
        toml = f'output = "{answer}"'
        engine = load_engine(
            EngineConfig(name=write_foreign(tmp_path / answer, graph_of(answer=answer), toml), backend="onnx")
        )
        (one,) = infer(engine, [picture_frame(picture)])
        made[answer] = labels_of(one, (48, 64), confidence=True)
        engine.close()
    for of_logits, of_probabilities in zip(made["logits"], made["probabilities"], strict=True):
        assert of_logits is not None
        assert of_probabilities is not None
        assert np.abs(of_logits.astype(int) - of_probabilities).max() <= 1


def test_a_sigmoid_is_a_class_beside_its_background(tmp_path: Path) -> None:
    """One channel, before and behind its sigmoid, is two classes; three channels are four."""
    picture = patches(48, 64)
    two = dict(list({"background": (0, 0, 0), **COLOURS}.items())[:2])
    for answer, inside in (("sigmoid", "true"), ("logits", "false")):
        toml = f'output = "binary"\nsigmoid_in_graph = {inside}'
        graph = graph_of(answer=answer, channels=1)
        # Below one half where a level is below 100.
        name = write_foreign(tmp_path / answer, graph, toml, classes=two).replace("\n", "")
        text = Path(name, "engine.toml")
        text.write_text(text.read_text().replace("mean = [0, 0, 0]", "mean = [100, 0, 0]"))
        engine = load_engine(EngineConfig(name=name, backend="onnx"))
        assert np.array_equal(labelled(engine, picture), picture[..., 0] > 100)
        (one,) = infer(engine, [picture_frame(picture)])
        _, confidence = labels_of(one, (48, 64), confidence=True)
        assert confidence is not None
        want = 1 / (1 + np.exp(-np.abs(picture[..., 0].astype(float) - 100) / 255))
        assert np.abs(confidence - 255 * want).max() <= 1
        engine.close()
    several = {"background": (0, 0, 0), **COLOURS}
    name = write_foreign(tmp_path / "3", graph_of(answer="sigmoid"), 'output = "binary"', classes=several)
    text = Path(name, "engine.toml")
    text.write_text(text.read_text().replace("mean = [0, 0, 0]", "mean = [150, 150, 150]"))
    engine = load_engine(EngineConfig(name=name, backend="onnx"))
    picture[:8] = 30
    assert np.array_equal(labelled(engine, picture), np.where(picture.max(2) > 150, picture.argmax(2) + 1, 0))
    engine.close()


def test_ids_that_are_not_listed_have_no_label(tmp_path: Path) -> None:
    toml = 'output = "labels"'
    two = dict(list(COLOURS.items())[:2])
    name = write_foreign(tmp_path / "e", graph_of(answer="int64"), toml, classes=two)
    engine = load_engine(EngineConfig(name=name, backend="onnx"))  # grey is red, the first
    picture = patches(48, 64)
    wanted = picture.argmax(2)
    assert np.array_equal(labelled(engine, picture), np.where(wanted == 2, 255, wanted))
    engine.close()


@pytest.mark.parametrize("stride", [1, 4])
@pytest.mark.parametrize("frame", [(48, 64), (90, 160), (160, 90), (37, 61), (720, 1280), (4, 400)])
@pytest.mark.parametrize("answer", ["logits", "int64"])
def test_bars_round_a_picture_leave_no_label_and_move_none(
    tmp_path: Path, stride: int, frame: Size, answer: str
) -> None:
    """Beside a reference: the bars cut off the network's answer, and what is left scaled to the frame."""
    output = "labels" if answer == "int64" else "logits"
    toml = f'fit = "letterbox"\nsize = "fixed"\noutput_stride = {stride}\noutput = "{output}"'
    graph = graph_of(answer=answer, stride=stride, shape=("n", 64, 64))
    name = write_foreign(tmp_path / "e", graph, toml, input_size=(64, 64))
    engine = load_engine(EngineConfig(name=name, backend="onnx"))
    picture = patches(*frame)
    got = labelled(engine, picture)
    assert got.shape == frame

    scale = min(64 / frame[0], 64 / frame[1])
    inside = [max(1, round(side * scale / stride)) * stride for side in frame]
    shrinks = frame[0] > 2 * inside[0] or frame[1] > 2 * inside[1]
    small = cv2.resize(
        picture, tuple(inside[::-1]), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    cells = (
        small.reshape(inside[0] // stride, stride, inside[1] // stride, stride, 3)
        .astype(np.float32)
        .mean((1, 3))
    )
    want = np.empty(frame, np.uint8)
    if output == "labels":
        rows, columns = (
            np.minimum(((np.arange(n) + 0.5) * m / n).astype(int), m - 1)
            for n, m in zip(frame, cells.shape[:2], strict=True)
        )
        want = cells.argmax(2)[rows][:, columns].astype(np.uint8)
    else:
        planes = [cv2.resize(cells[..., c], frame[::-1], interpolation=cv2.INTER_LINEAR) for c in range(3)]
        want = np.argmax(planes, 0).astype(np.uint8)
    assert np.mean(got == want) >= 0.999
    engine.close()


def test_a_picture_lies_in_the_middle_and_ends_where_a_cell_does() -> None:
    for frame in [(720, 1280), (1280, 720), (300, 301), (7, 900)]:
        for unit in (1, 8, 32):
            into = (512, 640)
            inside = letterbox_size(frame, into, unit)
            assert all(part % unit == 0 and part <= whole for part, whole in zip(inside, into, strict=True))
            assert abs(inside[0] / inside[1] - frame[0] / frame[1]) * min(inside) <= unit * max(
                1, frame[0] / frame[1]
            )
            y, x = letterbox_place(inside, into, unit)
            assert abs(into[0] - inside[0] - 2 * y) <= 2 * unit
            assert abs(into[1] - inside[1] - 2 * x) <= 2 * unit
    pictures = np.arange(2 * 8 * 16 * 3, dtype=np.uint8).reshape(2, 8, 16, 3)
    boxed = with_bars(pictures, (32, 16), 8)
    assert boxed.shape == (2, 32, 16, 3)
    assert (boxed[:, :8] == 114).all()
    assert np.array_equal(
        without_bars(boxed.transpose(0, 3, 1, 2).astype(np.float32), (8, 16), (32, 16), 1)
        .transpose(0, 2, 3, 1)
        .astype(np.uint8)[:, :8],
        boxed[:, 12:20],
    )


def test_class_ids_are_not_refined_and_have_no_confidence(tmp_path: Path) -> None:
    from streamseg.config import RefinementConfig
    from streamseg.refinement.streams import recorded_refinement

    engine = engine_of(tmp_path / "e", "int64 ids")
    (one,) = infer(engine, [picture_frame(patches(48, 64))])
    assert isinstance(one, Logits)
    assert one.kind == "labels"
    refinement = recorded_refinement(RefinementConfig(level="live"), engine.info.spec)
    (made,) = refinement.add(one, (96, 128), confidence=True, refined_wanted=True)
    assert made.confidence is None
    assert np.array_equal(made.labels, np.kron(patches(48, 64).argmax(2), np.ones((2, 2))))
    engine.close()


@pytest.mark.parametrize(
    ("made", "toml", "said"),
    [
        ({"answer": "logits"}, 'output = "probabilities"', 'no probabilities; set output = "logits"'),
        ({"answer": "logits"}, 'output = "labels"', "gives logits: float32; "),
        ({"answer": "int64"}, "", 'set output = "labels"'),
        ({"answer": "two"}, 'output_name = "out"', "has no output 'out'; its outputs are logits: float32;"),
        ({}, 'input_name = "image"', "has no input 'image'; set input_name to 'x'"),
        ({"shape": ("n", 48, 64)}, 'size = "free"', 'engine.toml has size = "free"; set size = "fixed"'),
        ({"shape": ("n", 48, 64)}, 'fit = "keep"', 'has fit = "keep"; set fit = "letterbox" or "stretch"'),
        ({"shape": (2, "h", "w")}, "batch = 1", "but engine.toml has batch = 1; set it to 2"),
        ({}, 'input_type = "uint8"', "input_type: uint8 holds no normalised levels"),
        ({}, 'fit = "letterbox"', "output_stride: must be set for fit = letterbox"),
        ({}, 'fit = "letterbox"\noutput_stride = 5', "fit: letterbox needs an input_size of multiples of"),
        ({}, 'size = "fixed"\nfit = "keep"', 'fit: keep needs size = "free"'),
        ({"answer": "sigmoid", "channels": 1}, "", "set output = "),
        ({"answer": "sigmoid"}, 'output = "binary"', "must list 4 classes, the background first"),
    ],
)
def test_a_form_that_is_another_is_refused_when_it_is_loaded(
    tmp_path: Path, made: dict[str, Any], toml: str, said: str
) -> None:
    name = write_foreign(tmp_path / "e", graph_of(**made), toml, std=1.0)
    with pytest.raises(EngineError) as got:
        load_engine(EngineConfig(name=name, backend="onnx"))
    assert "\n" not in str(got.value)
    if said not in ("gives logits: float32; ",):
        assert said in str(got.value)
