"""ONNX files read without a library: what they say of themselves, and weights that lie in other files."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import build_spec
from streamseg.inference.backends.select import choices
from streamseg.inference.onnx_file import Port, checked_name, read_surface
from streamseg.inference.plans.load import load_engine
from streamseg.inference.plans.recipe_key import recipe_of
from streamseg.inference.spec import find_engine, read_spec
from streamseg.inference.spec_text import write_spec
from streamseg.inference.weights import read_weights, weights_entry

onnx = pytest.importorskip("onnx", reason="needs the extra torch")

BLUE = np.full((1, 48, 64, 3), (0, 0, 255), np.uint8)


def beside(engine: Path, folder: Path, location: str, *, one_file: bool = True) -> Path:
    """A copy of an engine whose weights lie in another file, or in one for each tensor."""
    folder.mkdir(parents=True)
    model = onnx.load(engine / "tiny.onnx")
    (folder / location).parent.mkdir(parents=True, exist_ok=True)
    onnx.external_data_helper.convert_model_to_external_data(
        model, all_tensors_to_one_file=one_file, location=location if one_file else None, size_threshold=0
    )
    onnx.save(model, folder / "tiny.onnx")
    told = (engine / "engine.toml").read_text()
    old = hashlib.sha256((engine / "tiny.onnx").read_bytes()).hexdigest()
    new = hashlib.sha256((folder / "tiny.onnx").read_bytes()).hexdigest()
    (folder / "engine.toml").write_text(told.replace(old, new))
    return folder


def proved(folder: Path) -> Path:
    """The same with the SHA-256 of the other files in engine.toml."""
    surface = read_surface((folder / "tiny.onnx").read_bytes(), "tiny")
    data = ", ".join(
        f'"{name}" = "{hashlib.sha256((folder / name).read_bytes()).hexdigest()}"' for name in surface.beside
    )
    text = (folder / "engine.toml").read_text()
    (folder / "engine.toml").write_text(
        text.replace('file = "tiny.onnx"', f'file = "tiny.onnx"\ndata = {{ {data} }}')
    )
    return folder


def test_inputs_outputs_and_sides_are_read_as_the_file_has_them(tiny_engine: Path) -> None:
    surface = read_surface((tiny_engine / "tiny.onnx").read_bytes(), "tiny")
    (rgb,), (logits,) = surface.inputs, surface.outputs
    assert (rgb.name, rgb.type, rgb.shape) == ("rgb", "uint8", (None, None, None, 3))
    assert (logits.name, logits.type, logits.shape) == ("logits", "float32", (None, 4, None, None))
    assert surface.beside == ()


def test_an_input_that_has_a_value_in_the_file_is_none(tiny_engine: Path) -> None:
    model = onnx.load(tiny_engine / "tiny.onnx")
    model.graph.input.append(
        onnx.helper.make_tensor_value_info("bias", onnx.TensorProto.FLOAT, [4])
    )  # as before IR 4
    surface = read_surface(model.SerializeToString(), "tiny")
    assert [port.name for port in surface.inputs] == ["rgb"]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "it is empty"),
        (b"<!DOCTYPE html><title>404</title>", "it is a web page; download the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "it is a Git LFS pointer"),
        (b"PK\x03\x04" + bytes(60), "it is a ZIP archive"),
        (bytes(200), "damaged, or another kind of file"),
    ],
)
def test_a_file_that_is_no_graph_is_called_by_what_it_is(data: bytes, said: str) -> None:
    with pytest.raises(EngineError, match="is not an ONNX file") as got:
        read_surface(data, "x: model.onnx")
    assert said in str(got.value)
    assert "\n" not in str(got.value)


def test_a_graph_cut_off_anywhere_is_refused_in_one_line(tiny_engine: Path) -> None:
    whole = (tiny_engine / "tiny.onnx").read_bytes()
    for length in range(1, len(whole) // 2, 7):
        with pytest.raises(EngineError, match=r"^x is not an ONNX file: [^\n]*$"):
            read_surface(whole[:length], "x")


@pytest.mark.parametrize("location", ["tiny.onnx.data", "weights/all.bin"])
@pytest.mark.parametrize("backend", ["onnx", "openvino", "torch"])
def test_weights_beside_the_graph_are_loaded_from_any_working_folder(
    tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, location: str, backend: str
) -> None:
    pytest.importorskip(backend.replace("onnx", "onnxruntime"))
    folder = proved(beside(tiny_engine, tmp_path / "a", location))
    monkeypatch.chdir(tmp_path)
    engine = load_engine(EngineConfig(name=str(folder), backend=backend))  # type: ignore[arg-type]
    assert engine(BLUE)[0].argmax(0).min() == 3
    engine.close()


def test_a_file_for_each_tensor_and_a_constant_in_a_node_are_taken_in(
    tiny_engine: Path, tmp_path: Path
) -> None:
    folder = beside(tiny_engine, tmp_path / "a", "", one_file=False)
    assert len(read_surface((folder / "tiny.onnx").read_bytes(), "x").beside) == 2
    spec = read_spec(proved(folder))
    joined = onnx.load_from_string(read_weights(folder, spec, "fp32"))
    whole = onnx.load(tiny_engine / "tiny.onnx")
    for got, want in zip(joined.graph.initializer, whole.graph.initializer, strict=True):
        assert got.data_location == onnx.TensorProto.DEFAULT
        assert np.array_equal(onnx.numpy_helper.to_array(got), onnx.numpy_helper.to_array(want))
    assert joined.graph.node == whole.graph.node


def test_weights_that_no_hash_proves_are_refused_with_what_to_do(tiny_engine: Path, tmp_path: Path) -> None:
    folder = beside(tiny_engine, tmp_path / "a", "tiny.onnx.data")
    with pytest.raises(EngineError, match=r"has weights in tiny\.onnx\.data, .* one file .* data = ") as got:
        load_engine(EngineConfig(name=str(folder), backend="onnx"))
    assert "\n" not in str(got.value)


@pytest.mark.parametrize("change", ["exchanged", "cut", "removed"])
def test_other_weights_beside_the_same_graph_are_noticed(
    tiny_engine: Path, tmp_path: Path, change: str
) -> None:
    folder = proved(beside(tiny_engine, tmp_path / "a", "w.bin"))
    data = (folder / "w.bin").read_bytes()
    if change == "removed":
        (folder / "w.bin").unlink()
    else:
        (folder / "w.bin").write_bytes(data[::-1] if change == "exchanged" else data[:-4])
    said = r"w\.bin cannot be read" if change == "removed" else r"w\.bin is damaged"
    with pytest.raises(EngineError, match=said):
        load_engine(EngineConfig(name=str(folder), backend="onnx"))


def test_the_key_of_a_plan_changes_with_the_weights_beside_the_graph(
    tiny_engine: Path, tmp_path: Path
) -> None:
    keys = set()
    for name in ("a", "b"):
        folder = beside(tiny_engine, tmp_path / name, "w.bin")
        if name == "b":
            (folder / "w.bin").write_bytes((folder / "w.bin").read_bytes()[::-1])
        spec = read_spec(proved(folder))
        assert spec.weights["fp32"].sha256 == read_spec(tmp_path / "a").weights["fp32"].sha256
        choice = choices(EngineConfig(name=str(folder), backend="onnx"))[0]
        keys.add(recipe_of(choice.backend, build_spec(EngineConfig(), folder, spec, "fp32")).key)
    assert len(keys) == 2


@pytest.mark.parametrize(
    "location", ["/etc/weights", "../w.bin", "a/../../w.bin", "C:\\w.bin", "..\\w.bin", ""]
)
def test_weights_outside_of_the_folder_are_refused(location: str) -> None:
    with pytest.raises(EngineError, match="outside of its folder"):
        checked_name(location, "x")


@pytest.mark.parametrize("location", ["w.bin\n", "\x1b[31mw.bin", "w\0.bin", "w" * 300])
def test_weights_in_a_file_that_no_system_would_make_are_refused_in_one_line(location: str) -> None:
    with pytest.raises(EngineError, match="a file of an impossible name") as got:
        checked_name(location, "x")
    assert str(got.value).isprintable()
    assert len(str(got.value)) < 300


def test_a_name_of_an_input_is_shown_in_one_line() -> None:
    assert str(Port("a\nb\x1b", "uint8", None)) == r"'a\nb\x1b': uint8"
    assert len(str(Port("n" * 9000, "uint8", (None, 3)))) < 300


@pytest.mark.parametrize("location", [".", "./", "a/..", "//"])
def test_a_folder_in_the_place_of_weights_is_refused(location: str) -> None:
    with pytest.raises(EngineError, match="outside of its folder"):
        checked_name(location, "x")


@pytest.mark.parametrize(
    "fields", [(1, 5, 6), (1, 5, 11)]
)  # a node, its attribute, the graph or graphs in it
def test_graphs_in_one_another_without_an_end_are_refused_in_one_line(fields: tuple[int, ...]) -> None:
    body = b""
    for _ in range(400):
        for number in reversed(fields):
            length = bytes([len(body) & 0x7F | 0x80, len(body) >> 7 & 0x7F | 0x80, len(body) >> 14])
            body = bytes([number << 3 | 2]) + length + body
    length = bytes([len(body) & 0x7F | 0x80, len(body) >> 7 & 0x7F | 0x80, len(body) >> 14])
    with pytest.raises(EngineError, match=r"^x is not an ONNX file: .*more than 100 messages in one another"):
        read_surface(bytes([7 << 3 | 2]) + length + body, "x")


def test_an_engine_written_again_keeps_the_hashes_of_all_its_weights(
    tiny_engine: Path, tmp_path: Path
) -> None:
    folder = proved(beside(tiny_engine, tmp_path / "a", "w.bin"))
    spec = read_spec(folder)
    write_spec(folder, spec)
    assert read_spec(folder) == spec
    os.rename(folder / "tiny.onnx", folder / "model.onnx")
    assert weights_entry(folder / "model.onnx", "model.onnx").data == spec.weights["fp32"].data
    assert find_engine(str(folder))[1].weights["fp32"].digest != spec.weights["fp32"].sha256
