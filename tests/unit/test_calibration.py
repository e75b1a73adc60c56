"""Confidence against truth, and the temperature that puts it right."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from streamseg.cli.engine import command as engine_command
from streamseg.cli.eval import command as eval_command
from streamseg.config import EngineConfig
from streamseg.errors import EngineError, StreamsegError
from streamseg.evaluation.calibration import (
    _Sample,
    fit_temperature,
    measure_calibration,
    reliability,
    write_temperature,
)
from streamseg.evaluation.engines import picture_frame
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.inference.spec import read_spec
from tests.engines import write_tiny_engine

SIZE = (48, 64)


def drawn(logits: np.ndarray, temperature: float, seed: int = 0) -> _Sample:
    """Labels drawn from softmax(logits / temperature): what a network would say that is wrong by that."""
    rng = np.random.default_rng(seed)
    scores = logits / temperature
    probabilities = np.exp(scores - scores.max(1, keepdims=True))
    probabilities /= probabilities.sum(1, keepdims=True)
    truth = (probabilities.cumsum(1) < rng.random((len(logits), 1))).sum(1).clip(max=logits.shape[1] - 1)
    below = (logits - logits.max(1, keepdims=True)).astype(np.float32)
    return _Sample(below, truth.astype(np.intp), logits.argmax(1) == truth)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_the_labels_were_drawn_with_is_found(temperature: float) -> None:
    sample = drawn(np.random.default_rng(1).normal(0, 3, (40_000, 5)), temperature)
    assert fit_temperature(sample) == pytest.approx(temperature, rel=0.04)
    assert reliability(sample, temperature).ece < 1.2
    assert temperature == 1 or reliability(sample, 1.0).ece > 5


def test_expected_calibration_error_is_the_mean_distance() -> None:
    below = np.log(np.array([[0.8, 0.2]] * 100, np.float32) / np.float32(0.8))
    right = np.arange(100) < 60
    sample = _Sample(below, (~right).astype(np.intp), right)
    told = reliability(sample, 1.0)
    assert (told.confidence, told.ece) == (80.0, 20.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tiny engine that is too sure, and noisy pictures whose labels are as often another class."""
    write_tiny_engine(tmp_path / "engine", gain=1 / 8)
    rng = np.random.default_rng(0)
    for name in ("images", "labels"):
        (tmp_path / "data" / name).mkdir(parents=True)
    for number in range(3):
        cells = rng.integers(0, 4, (6, 8))
        colours = np.array([(90, 90, 90), (235, 20, 20), (20, 235, 20), (20, 20, 235)], np.uint8)
        wrong = rng.random((6, 8)) < 0.2
        labels = np.where(wrong, rng.integers(0, 4, (6, 8)), cells).astype(np.uint8)
        for name, cell in (("images", colours[cells][..., ::-1]), ("labels", labels)):
            whole = cell.repeat(8, 0).repeat(8, 1)
            cv2.imwrite(str(tmp_path / "data" / name / f"{number}.png"), whole)
    return tmp_path


def published(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    engine = load_engine(EngineConfig(name=str(folder / "engine")))
    picture = cv2.imread(str(folder / "data/images/0.png"))
    (logits,) = infer(engine, [picture_frame(np.ascontiguousarray(picture[..., ::-1]))])
    labels, confidence = labels_of(logits, SIZE, confidence=True)
    engine.close()
    assert confidence is not None
    return labels, confidence


def test_calibrating_makes_the_published_confidence_true_and_leaves_the_labels(folder: Path) -> None:
    data = str(folder / "data")
    before = published(folder)
    told = CliRunner().invoke(
        eval_command, ["--engine", str(folder / "engine"), "--data", data, "--confidence", "--json"]
    )
    report = json.loads(told.output)
    assert report["now"] == report["plain"]
    assert report["now"]["confidence"] > report["accuracy"] + 5
    assert report["best"]["ece"] < report["now"]["ece"] - 2
    toml = (folder / "engine/engine.toml").read_text()
    done = CliRunner().invoke(engine_command, ["calibrate", str(folder / "engine"), "--data", data])
    assert done.exit_code == 0, done.output
    temperature = read_spec(folder / "engine").temperature
    assert temperature == report["best"]["temperature"]
    assert temperature > 1
    after = published(folder)
    np.testing.assert_array_equal(after[0], before[0])
    assert after[1].mean() < before[1].mean() - 10
    lines = (folder / "engine/engine.toml").read_text().splitlines()
    assert [line for line in lines if not line.startswith("temperature")] == toml.splitlines()
    again = measure_calibration(EngineConfig(name=str(folder / "engine")), folder / "data")
    assert again.now == again.best
    write_temperature(folder / "engine", 1.5)
    assert (folder / "engine/engine.toml").read_text().count("temperature") == 1


def test_what_cannot_be_calibrated_is_refused(folder: Path) -> None:
    for label in sorted((folder / "data/labels").iterdir()):
        cv2.imwrite(str(label), np.full(SIZE, 255, np.uint8))
    with pytest.raises(StreamsegError, match="has no labelled pixel to measure confidence on"):
        measure_calibration(EngineConfig(name=str(folder / "engine")), folder / "data")
    toml = folder / "engine/engine.toml"
    text = toml.read_text()
    toml.write_text(f'output = "probabilities"\n{text}')
    with pytest.raises(EngineError, match="gives probabilities, which no temperature can calibrate"):
        measure_calibration(EngineConfig(name=str(folder / "engine")), folder / "data")
    toml.write_text(f'output = "probabilities"\ntemperature = 2.0\n{text}')
    with pytest.raises(EngineError, match="temperature: is for logits; the output is probabilities"):
        read_spec(folder / "engine")
    toml.write_text(f"temperature = 0\n{text}")
    with pytest.raises(EngineError, match="temperature: must be"):
        read_spec(folder / "engine")
