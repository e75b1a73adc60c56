"""Engines' folders: written, written again without losing what was chosen, and given an int8 form."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.crf import CrfParams
from streamseg.errors import EngineError
from streamseg.inference.plans.load import load_engine
from streamseg.inference.spec import read_spec
from streamseg.inference.spec_text import kept_settings, write_spec
from tools.demo import draw_scene


def test_a_specification_is_read_as_it_was_written(tiny_engine: Path, tmp_path: Path) -> None:
    spec = read_spec(tiny_engine)
    spec = msgspec.structs.replace(spec, licence='a "quoted" one, ä', crf=CrfParams(iterations=7))
    write_spec(tmp_path, spec)
    assert read_spec(tmp_path) == spec


def test_writing_an_engine_again_keeps_its_crf_and_its_thin_classes(
    tiny_engine: Path, tmp_path: Path
) -> None:
    new = read_spec(tiny_engine)
    assert kept_settings(tmp_path, new) == new, "there is none yet"
    chosen = tuple(
        msgspec.structs.replace(entry, thin=entry.name in ("red", "gone")) for entry in new.classes
    )
    write_spec(tmp_path, msgspec.structs.replace(new, crf=CrfParams(iterations=3), classes=chosen))
    kept = kept_settings(tmp_path, msgspec.structs.replace(new, licence="another"))
    assert kept.crf.iterations == 3
    assert [entry.name for entry in kept.classes if entry.thin] == ["red"]
    assert kept.licence == "another"


def test_an_imported_network_gets_an_int8_form_from_pictures(
    tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch", reason="needs the extra torch")
    import onnx

    from streamseg.evaluation.dataset import pictures_of
    from streamseg.models import export
    from streamseg.models.quantise import quantise_engine
    from tests.narrow import narrow_engine, narrow_network

    name = "deeplab-v1"
    folder = shutil.copytree(narrow_engine(name), tmp_path / "narrow")
    (tmp_path / "pictures").mkdir()
    for i in range(6):
        rgb = draw_scene(i * 1.5)[0]
        cv2.imwrite(str(tmp_path / "pictures" / f"{i}.png"), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))
    before = read_spec(folder)
    _, quantised = quantise_engine(str(folder), pictures_of(str(tmp_path / "pictures"), 6), (120, 160))
    after = read_spec(folder)
    assert msgspec.structs.replace(after, weights=before.weights) == before
    assert sorted(p.name for p in folder.iterdir()) == ["engine.toml", "model.int8.onnx", "model.onnx"]
    assert quantised.agreement[quantised.calibration] > 80
    quantise_engine(str(folder), pictures_of(str(tmp_path / "pictures"), 3), (120, 160), weight_bits=7)
    stored = onnx.load(folder / "model.int8.onnx").graph.initializer
    int8 = [onnx.numpy_helper.to_array(t) for t in stored if t.data_type == onnx.TensorProto.INT8]
    assert max(np.abs(w.astype(np.int16)).max() for w in int8) == 64, (
        "two products with levels fit in 16 bits"
    )
    engine = load_engine(EngineConfig(name=str(folder), backend="onnx", precision="int8"))
    assert engine(np.zeros((1, 120, 160, 3), np.uint8)).shape == (1, 21, 15, 20)
    engine.close()
    other = tiny_engine / "tiny.onnx"  # any graph: exporting takes seconds
    monkeypatch.setattr(export, "export_onnx", lambda served, path, **_: shutil.copy(other, path))
    export.write_engine(narrow_network(name, classes=21, seed=1), name, folder)
    assert list(read_spec(folder).weights) == ["fp32"], "int8 of other weights does not stay"


def test_depthwise_weights_are_known_by_their_shape() -> None:
    onnx = pytest.importorskip("onnx")
    from streamseg.models.quantise import depthwise_weights

    engines = Path(__file__).parents[2] / "engines"
    lite = depthwise_weights(onnx.load(engines / "camvid-lite/model.onnx").graph)
    assert len(lite) == 19
    assert sum(".depthwise." in name for name in lite) == 14
    assert depthwise_weights(onnx.load(engines / "camvid-slim/model.onnx").graph) == []


def test_only_convolutions_in_the_middle_are_quantised() -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra torch")
    from streamseg.models.quantise import outer_convolutions

    slim = onnx.load(Path("engines/camvid-slim/model.onnx")).graph
    convolutions = [node.name for node in slim.node if node.op_type == "Conv"]
    assert outer_convolutions(slim) == sorted({convolutions[0], convolutions[-1]})


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (
            "std = [1.0, 1.0, 1.0]",
            "std = [1.0, 0.0, 1.0]",
            "normalisation.std: must be a list of 3, each a number",
        ),
        (
            "std = [1.0, 1.0, 1.0]",
            "std = [1.0, inf, 1.0]",
            "normalisation.std: must be a list of 3, each a number",
        ),
        ("mean = [0.0, 0.0, 0.0]", "mean = [0.0, 0.0, nan]", "normalisation.mean: must be a list of 3"),
        ("mean = [0.0, 0.0, 0.0]", "mean = [0.0, 0.0]", "normalisation.mean: must be a list of 3"),
        (
            "colour = [220, 40, 40]",
            "colour = [220, 40, 256]",
            "classes[1].colour: must be a list of 3, each a whole",
        ),
        (
            "colour = [220, 40, 40]",
            "colour = [220, -40, 40]",
            "classes[1].colour: must be a list of 3, each a whole",
        ),
        ('name = "green"', 'name = ""', "classes[2].name: must be text"),
        ('name = "green"', 'nam = "green"', "classes[2].nam: unknown setting; did you mean classes[2].name?"),
        (
            'name = "green"',
            'name = "red"',
            "classes[2].name: must be unique; 'red' is also that of classes[1]",
        ),
        (
            "input_size = [48, 64]",
            "input_size = [48, 0]",
            "input_size: must be a list of 2, each a whole number",
        ),
        ("input_size = [48, 64]", "input_size = [48, 9000]", "at most 8192; is [48, 9000]"),
        ("size_multiple = 8", "size_multiple = 0", "size_multiple: must be a whole number at least 1"),
        (
            "output_stride = 4",
            "output_stride = 0",
            "output_stride: must be a whole number at least 1, at most 64",
        ),
        (
            "output_stride = 4",
            "output_stride = 64",
            "output_stride: must be at most the input's smaller side; is 64",
        ),
        ("[weights.fp32]", "[weights.fp16]", "weights.fp16: must be fp32 or int8"),
        (
            "[[classes]]",
            "[crf]\nsmoothness_weight = inf\n[[classes]]",
            "crf.smoothness_weight: must be finite",
        ),
        (
            "[[classes]]",
            "[crf]\nsmoothness_sigma = 1e-9\n[[classes]]",
            "crf.smoothness_sigma: must be at least 0.01; is 1e-09",
        ),
        ("std = [1.0, 1.0, 1.0]", "std = [1.0, 5e-324, 1.0]", "each a number at least 1e-06"),
        (
            "[[classes]]",
            "[crf]\ncompatibility = [1.0, 2.0]\n[[classes]]",
            "crf.compatibility: must be 4 factors",
        ),
        (
            "[[classes]]",
            "[crf]\nappearance_sigma_rgb = [1.0, 2.0]\n[[classes]]",
            "crf.appearance_sigma_rgb: must be one",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_its_key_when_it_is_read(
    tiny_engine: Path, tmp_path: Path, right: str, wrong: str, said: str
) -> None:
    text = (tiny_engine / "engine.toml").read_text()
    assert right in text
    (tmp_path / "engine.toml").write_text(text.replace(right, wrong, 1))
    with pytest.raises(EngineError) as got:
        read_spec(tmp_path)
    assert said in str(got.value)
    assert "\n" not in str(got.value)


@pytest.mark.parametrize(("count", "fits"), [(1, False), (2, True), (255, True), (256, False)])
def test_an_engine_has_from_two_classes_to_as_many_as_a_mask_has_ids(
    tiny_engine: Path, tmp_path: Path, count: int, fits: bool
) -> None:
    before = (tiny_engine / "engine.toml").read_text().split("[[classes]]")[0]
    classes = "".join(f'[[classes]]\nname = "{i}"\ncolour = [0, 0, 0]\n' for i in range(count))
    (tmp_path / "engine.toml").write_text(before + classes)
    if fits:
        assert len(read_spec(tmp_path).classes) == count
    else:
        with pytest.raises(EngineError, match=f"classes: must be a list of at least 2.*; has {count}$"):
            read_spec(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a = " + "[" * 3000 + "]" * 3000, "is not valid TOML: .* too deeply"),
        ("a = " + "{a = " * 3000, "is not valid TOML: .* too deeply"),
        ("a" + ".a" * 3000 + " = 1", "is not valid TOML: .* too deeply"),
        ("output_stride = " + "9" * 5000, "is not valid TOML: .*digits"),
        ('name = "a"\nname = "b"', "is not valid TOML"),
        ("[[classes]]\n" * 200, "and [0-9]+ more problems$"),
        ('"new\\nline" = 1', r"new\\nline: unknown setting"),
        ('"\\u001b[31mred" = 1', r"u001b\[31mred: unknown setting"),
        ('"' + "k" * 20_000 + '" = 1', "kkk…; "),
        ('[weights."fp\\n32"]', r"weights\.fp\\n32\.file: is missing"),
    ],
)
def test_a_strange_file_is_refused_in_one_short_line(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "engine.toml").write_text(text)
    with pytest.raises(EngineError, match=said) as got:
        read_spec(tmp_path)
    assert str(got.value).isprintable()
    assert len(str(got.value)) < 10_000


@pytest.mark.parametrize(
    ("right", "wrong", "key"),
    [
        ('label_set = "', 'label_set = "a\\n', "label_set"),
        ('licence = "', 'licence = "\\u001b[31m', "licence"),
        ('file = "', 'file = "\\r', "weights.fp32.file"),
        ('name = "green', 'name = "green\\u2028', "classes[2].name"),
    ],
)
def test_a_text_of_several_lines_is_refused(
    tiny_engine: Path, tmp_path: Path, right: str, wrong: str, key: str
) -> None:
    text = (tiny_engine / "engine.toml").read_text()
    assert right in text
    (tmp_path / "engine.toml").write_text(text.replace(right, wrong, 1))
    with pytest.raises(EngineError, match=rf"{re.escape(key)}: must be one line of text") as got:
        read_spec(tmp_path)
    assert str(got.value).isprintable()


def test_an_engine_without_any_weights_is_refused(tiny_engine: Path, tmp_path: Path) -> None:
    text = (tiny_engine / "engine.toml").read_text()
    before, after = text.split("[weights.fp32]")
    (tmp_path / "engine.toml").write_text(f"{before}[weights]\n[[classes]]{after.split('[[classes]]', 1)[1]}")
    with pytest.raises(EngineError, match=r"weights: must have a table fp32 or int8; is empty$"):
        read_spec(tmp_path)
