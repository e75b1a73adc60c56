"""Engines' folders: written, written again without losing what was chosen, and given an int8 form."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.crf import CrfParams
from streamseg.inference.plans.load import load_engine
from streamseg.inference.spec import kept_settings, read_spec, write_spec
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


def test_an_imported_network_gets_an_int8_form_from_pictures(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra torch")
    from streamseg.evaluation.dataset import pictures_of
    from streamseg.models.export import write_engine
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
    engine = load_engine(EngineConfig(name=str(folder), backend="onnx", precision="int8"))
    assert engine(np.zeros((1, 120, 160, 3), np.uint8)).shape == (1, 21, 15, 20)
    engine.close()
    write_engine(narrow_network(name, classes=21, seed=1), name, folder)
    assert list(read_spec(folder).weights) == ["fp32"], "int8 of other weights does not stay"


def test_only_convolutions_in_the_middle_are_quantised() -> None:
    onnx = pytest.importorskip("onnx", reason="needs the extra torch")
    from streamseg.models.quantise import outer_convolutions

    slim = onnx.load(Path("engines/camvid-slim/model.onnx")).graph
    convolutions = [node.name for node in slim.node if node.op_type == "Conv"]
    assert outer_convolutions(slim) == sorted({convolutions[0], convolutions[-1]})
