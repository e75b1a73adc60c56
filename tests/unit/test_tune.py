"""The search for CRF parameters, and the table it writes."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.crf import CrfParams
from streamseg.errors import EngineError
from streamseg.evaluation.tune import between, tune_crf, write_crf
from streamseg.inference.spec import read_spec
from tests.engines import write_tiny_engine

PARAMS = CrfParams(
    smoothness_weight=2.5,
    smoothness_sigma=1.2,
    appearance_weight=3,
    appearance_sigma_xy=17,
    appearance_sigma_rgb=4,
    iterations=5,
)


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    return write_tiny_engine(tmp_path / "tiny")


def test_the_parameters_and_the_thin_classes_are_written_and_the_rest_stays(engine: Path) -> None:
    before = read_spec(engine)
    write_crf(engine, PARAMS, ["green", "blue"])
    write_crf(engine, PARAMS, ["green"])  # what is there already is replaced
    after = read_spec(engine)
    assert after.crf.appearance_sigma_xy == 17
    assert after.crf.smoothness_sigma == 1.2
    assert after.crf.iterations == 5
    assert [c.name for c in after.classes if c.thin] == ["green"]
    assert (after.weights, after.normalisation, after.size_multiple) == (
        before.weights,
        before.normalisation,
        before.size_multiple,
    )
    assert [c.colour for c in after.classes] == [c.colour for c in before.classes]
    assert (engine / "engine.toml").read_text().count("[crf]") == 1


def test_a_file_of_another_layout_is_left_as_it_was(engine: Path) -> None:
    path = engine / "engine.toml"
    text = path.read_text()
    classes = text.index("[[classes]]")
    pair = '{name = "red", colour = [1, 2, 3]}, {name = "blue", colour = [1, 2, 3]}'
    inline = f"classes = [{pair}]\n" + text[:classes]
    path.write_text(inline)
    with pytest.raises(EngineError, match="laid out"):
        write_crf(engine, PARAMS, ["red"])
    assert path.read_text() == inline


def test_a_second_round_looks_between_a_value_and_its_neighbours() -> None:
    assert between((10, 20, 40), CrfParams(appearance_sigma_xy=20), "appearance_sigma_xy") == (14, 28)
    assert between((10, 20, 40), CrfParams(appearance_sigma_xy=40), "appearance_sigma_xy") == (28, 57)


def test_the_search_finds_parameters_that_help_on_the_images_it_was_given(
    engine: Path, tmp_path: Path
) -> None:
    """Pictures in which the stride of the network cuts off what the colours show."""
    for folder in ("images", "labels"):
        (tmp_path / "data" / folder).mkdir(parents=True)
    for number in range(3):
        rng = np.random.default_rng(number)
        rgb = np.full((48, 64, 3), 128, np.uint8)
        labels = np.zeros((48, 64), np.uint8)
        cv2.circle(rgb, (20 + 5 * number, 24), 13, (255, 0, 0), -1)
        cv2.circle(labels, (20 + 5 * number, 24), 13, 1, -1)
        noisy = np.clip(rgb + rng.normal(0, 25, rgb.shape), 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / f"data/images/{number}.png"), noisy[..., ::-1])
        cv2.imwrite(str(tmp_path / f"data/labels/{number}.png"), labels)
    report = tune_crf(EngineConfig(name=str(engine)), tmp_path / "data", images=3)
    assert report.images == ["0", "1", "2"]
    assert report.best.merit > report.raw.merit
    assert report.kept.merit == max(t.merit for t in report.trials)
    assert report.best in report.trials
    assert len({(t.params, t.merit) for t in report.trials}) > 20
