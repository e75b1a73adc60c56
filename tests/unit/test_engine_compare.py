"""streamseg engine compare: agreement, scores, speed and memory of two engines on the same pictures."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result

from streamseg.bench.compare import compare_engines
from streamseg.cli.engine_compare import command
from streamseg.config import EngineConfig
from streamseg.errors import StreamsegError, UsageError
from tests.engines import TINY_CLASSES, write_tiny_engine
from tests.media import draw_clip

SIZE = (48, 64)
OTHER, RED, GREEN, BLUE = range(4)


def renamed(folder: Path, **names: str) -> Path:
    """The tiny engine, with classes of other names."""
    write_tiny_engine(folder, name=folder.name)
    text = (folder / "engine.toml").read_text().replace('"tiny-4"', '"other-4"')
    text = re.sub(r'"(.+)"\ncolour', lambda m: f'"{names.get(m[1], m[1])}"\ncolour', text)
    (folder / "engine.toml").write_text(text)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Engines that share all, some and none of their names; four pictures, half red, half blue."""
    root = tmp_path_factory.mktemp("compare")
    write_tiny_engine(root / "a", name="a")
    renamed(root / "b")
    renamed(root / "shifted", red="green", green="red")
    renamed(root / "partly", blue="azure", other="rest")
    renamed(root / "strange", other="w", red="x", green="y", blue="z")
    (root / "data/images").mkdir(parents=True)
    (root / "data/labels").mkdir()
    for i in range(4):
        bgr = np.zeros((*SIZE, 3), np.uint8)
        bgr[:, :32, 2], bgr[:, 32:, 0] = 255, 255
        labels = np.full(SIZE, RED, np.uint8)
        labels[:, 32:] = BLUE
        labels[:12, 32:] = RED  # wrong for every engine
        (root / f"data/images/{i}.png").write_bytes(cv2.imencode(".png", bgr)[1].tobytes())
        (root / f"data/labels/{i}.png").write_bytes(cv2.imencode(".png", labels)[1].tobytes())
    (root / "names.txt").write_text("\n".join(TINY_CLASSES) + "\n")
    return root


def invoke(*words: object) -> Result:
    return CliRunner().invoke(command, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the processes that measure memory, which take seconds."""
    monkeypatch.setattr("streamseg.bench.compare._memory_of", lambda _: None)


def compared(world: Path, a: str, b: str, *options: object) -> dict[str, Any]:
    result = invoke(world / a, world / b, *options, "--json")
    assert result.exit_code == 0
    report: dict[str, Any] = json.loads(result.output)
    return report


def compare(world: Path, a: str, b: str, **options: Any) -> Any:
    configs = [EngineConfig(name=str(world / name)) for name in (a, b)]
    return compare_engines(configs[0], configs[1], world / "data", None, measure_memory=False, **options)


@pytest.mark.usefixtures("no_memory")
def test_engines_with_the_same_classes_are_scored_on_their_labels(world: Path) -> None:
    report = compared(world, "a", "b", "--data", world / "data")
    assert (report["pictures"], report["labelled"], report["note"]) == (4, 4, "")
    assert (report["compared"], report["agreement"]) == (100.0, 100.0)
    assert report["scored"] == list(TINY_CLASSES)
    assert report["a"]["miou"] == report["b"]["miou"]
    rows = {row["name"]: row for row in report["per_class"]}
    assert rows["red"]["iou_a"] == pytest.approx(100 * 32 / (32 + 8), abs=5)
    assert rows["green"]["iou_a"] is None
    assert rows["red"]["agreement"] == 100.0
    assert rows["red"]["share_a"] == pytest.approx(50, abs=4)
    for side in (report["a"], report["b"]):
        assert side["time"]["count"] == 4
        assert side["time"]["p50_ms"] > 0
        assert side["input_size"] == list(SIZE)


@pytest.mark.usefixtures("no_memory")
def test_the_table_says_the_same_in_words(world: Path) -> None:
    result = invoke(world / "a", world / "partly", "--data", world / "data")
    assert result.exit_code == 0
    text = result.output
    assert "B  partly/fp32/onnx, 4 classes (other-4); only here: rest, azure" in text.replace(
        "openvino", "onnx"
    )
    assert "compared by name: 2 classes that both have" in text
    assert "labels is not used: A and B have other classes" in text
    assert "ms a picture" in text
    assert "IoU A" not in text


@pytest.mark.slow  # starts two processes that load an engine
def test_each_engine_has_its_memory_measured_in_a_process_of_its_own(world: Path) -> None:
    report = compared(world, "a", "b", "--data", world / "data")
    assert 1 < report["a"]["memory_mb"] < 2000
    assert report["b"]["memory_mb"] == pytest.approx(report["a"]["memory_mb"], rel=0.3)


def test_engines_that_disagree_are_told_where(world: Path) -> None:
    found = compare(world, "a", "shifted")
    assert "labels is not used" in found.note  # the same names with other numbers
    assert found.agreement < 55
    assert (found.confused[0].a, found.confused[0].b) == ("red", "green")
    assert found.confused[0].pixels == pytest.approx(50, abs=4)
    red, green = (found.per_class[k] for k in (RED, GREEN))
    assert (red.agreement, green.agreement) == (0.0, 0.0)
    matrix = np.array(found.confusion)
    assert matrix.sum() == 4 * SIZE[0] * SIZE[1]
    assert matrix[RED, GREEN] == matrix.max() or matrix[BLUE, BLUE] == matrix.max()


def test_with_other_classes_those_of_the_same_name_are_compared(world: Path) -> None:
    found = compare(world, "a", "partly")
    assert [row.name for row in found.per_class] == ["red", "green"]
    assert (found.only_a, found.only_b) == (("other", "blue"), ("rest", "azure"))
    assert found.compared == pytest.approx(50, abs=4)
    assert (found.labelled, found.a.miou) == (0, None)
    assert "say whose they are with --dataset or --labels" in found.note
    named = compare(world, "a", "partly", names=tuple(TINY_CLASSES))
    assert (named.labelled, named.note, named.scored) == (4, "", ("red", "green"))
    assert named.a.miou == named.b.miou
    alike = compare(world, "a", "partly", same={"azure": "Blue", "rest": "other"})
    assert [row.name for row in alike.per_class] == list(TINY_CLASSES)
    assert alike.agreement == 100.0


@pytest.mark.usefixtures("no_memory")
def test_names_of_labels_come_from_a_file_or_a_data_set(world: Path) -> None:
    report = compared(
        world,
        "a",
        "partly",
        "--data",
        world / "data",
        "--labels",
        world / "names.txt",
        "--same",
        "blue=azure",
    )
    assert report["scored"] == ["red", "green", "blue"]


@pytest.mark.usefixtures("no_memory")
def test_a_video_and_a_folder_without_labels_are_compared_alone(world: Path, tmp_path: Path) -> None:
    report = compared(world, "a", "b", "--video", draw_clip(tmp_path / "clip.mp4"), "--pictures", 2)
    assert report["pictures"] >= 1
    assert report["labelled"] == 0
    plain = compared(world, "a", "b", "--data", world / "data/images", "--pictures", 3)
    assert (plain["pictures"], plain["labelled"]) == (3, 0)


@pytest.mark.usefixtures("no_memory")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("a", "strange", "--data", "data"), "the two have 0 of their classes in common"),
        (("a", "b"), "--data: is missing; give a folder of pictures, or a --video"),
        (("a", "nothing", "--data", "data"), "unknown engine"),
        (("a", "b", "--data", "nowhere"), "nowhere: no such folder"),
        (("a", "b", "--data", "data/images", "--dataset", "voc"), "holds no labels/ whose classes"),
        (("a", "b", "--data", "data", "--dataset", "voc", "--labels", "names.txt"), "say the same twice"),
        (("a", "b", "--data", "data", "--dataset", "voc"), "no class of the labels (background"),
        (("a", "b", "--data", "data", "--same", "red"), "--same: must be NAME=OTHER"),
    ],
)
def test_a_mistake_is_one_line(
    words: tuple[str, ...], said: str, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world)
    with pytest.raises(StreamsegError) as refused:
        invoke(*words)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)
    if words[1] == "strange":
        assert isinstance(refused.value, UsageError)
