"""`streamseg engine import`: what it prints, where the engine is, and the picture of the result."""

from __future__ import annotations

import logging
from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.inference.backends.select import choices
from streamseg.inference.spec import find_engine
from tests.foreign import graph_of, patches
from tests.integration.command import Command, streamseg

__all__ = ["streamseg"]

pytest.importorskip("onnx", reason="needs the extra torch")


def test_an_import_says_what_it_found_and_shows_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamseg: Command, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.chdir(tmp_path)
    metadata = {"names": "['red', 'green', 'blue']", "task": "semantic", "imgsz": "64"}
    Path("net.onnx").write_bytes(graph_of(answer="int64", shape=(1, 64, 64), metadata=metadata))
    cv2.imwrite("street.png", patches(48, 96)[..., ::-1])
    ended = streamseg("engine", "import", "net.onnx", "--as", "mine", "--picture", "street.png")
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert lines[0] == "net.onnx: opset 17"
    found = {line.split()[0]: line for line in lines[1:-2]}
    assert found["classes"].endswith("3: red, green, blue  (metadata: names)")
    assert found["output"].endswith("labels, 1x64x64, at full size  (it gives int64)")
    assert found["fit"].endswith("letterbox  (ultralytics)")
    assert lines[-2].startswith("engines/mine: written. engines/mine/check.jpg: ")
    assert lines[-1].endswith("streamseg run --engine mine --source SOURCE --watch --web")

    shown = cv2.imread("engines/mine/check.jpg")
    height = shown.shape[0]
    assert shown.shape[1] == 96
    assert height > 2 * 48, "the picture, the picture under its classes, and the legend"
    assert np.abs(shown[:48].astype(int) - patches(48, 96)[..., ::-1]).mean() < 25

    folder, spec = find_engine("mine")
    assert {path.name for path in folder.iterdir()} == {"check.jpg", "engine.toml", "model.onnx"}
    assert (spec.name, spec.fit, spec.labels.names) == ("mine", "letterbox", ("red", "green", "blue"))
    with caplog.at_level(logging.INFO):
        choices(EngineConfig(name="mine"))
    assert caplog.messages[0] == (
        "engine mine: gives class ids: its masks have no confidence, and the CRF and fusion are off"
    )

    again = streamseg("engine", "import", "net.onnx", "--as", "mine")
    assert again.last_line == (
        "streamseg: --as: engines/mine is there already; choose another name, or --replace it"
    )
    assert streamseg("engine", "import", "net.onnx", "--as", "mine", "--replace").code == 0
    said = streamseg("engine", "info", "mine").out
    assert "64x64, no other; pictures are placed between bars" in said
    assert "class ids at 1/1" in said


def test_another_folder_is_named_in_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamseg: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(graph_of(stride=4))
    ended = streamseg(
        "engine", "import", "net.onnx", "--as", "mine", "--out", "elsewhere", "--input-size", 96, 128
    )
    assert ended.code == 0
    assert "streamseg run --engine elsewhere/mine " in ended.out
    monkeypatch.setenv("STREAMSEG_ENGINES", str(tmp_path / "site"))
    assert streamseg("engine", "import", "net.onnx", "--as", "mine", "--input-size", 96, 128).code == 0
    assert find_engine("mine")[0] == tmp_path / "site/mine"


def test_a_picture_that_is_not_there_is_said_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamseg: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.onnx").write_bytes(graph_of())
    ended = streamseg("engine", "import", "net.onnx", "--as", "mine", "--picture", "no.png")
    assert ended.last_line == "streamseg: no.png: no such file; check the path"
    assert not Path("engines/mine").exists()


def test_a_name_with_a_space_can_be_copied_from_the_next_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, streamseg: Command
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mein netz.onnx").write_bytes(graph_of())
    ended = streamseg("engine", "import", "mein netz.onnx", "--as", "Straße 1", "--input-size", 96, 128)
    assert ended.code == 0
    assert "streamseg run --engine 'Straße 1' --source" in ended.out
    assert find_engine("Straße 1")[1].name == "Straße 1"
