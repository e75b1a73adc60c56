"""streamseg eval --video without labels: what a video alone says of an engine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from streamseg.cli.eval import command
from streamseg.config import StreamConfig
from streamseg.errors import StreamsegError, UsageError
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.types import U8, Frame, Logits
from tests.engines import write_tiny_engine
from tests.media import write_video

SIZE = (48, 64)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two engines, a steady clip of a box that wanders and one whose colours come and go."""
    root = tmp_path_factory.mktemp("video")
    write_tiny_engine(root / "engine")
    write_tiny_engine(root / "other", name="other", gain=1 / 8)
    ground = cv2.GaussianBlur(np.random.default_rng(0).integers(60, 200, (*SIZE, 3)).astype("u1"), (0, 0), 2)
    steady, nervous = [], []
    for number in range(8):
        frame = ground.copy()
        frame[10:38, 8 + 2 * number : 30 + 2 * number] = (250, 10, 10)
        steady.append(frame)
        noise = np.random.default_rng(number).normal(0, 60, frame.shape)
        nervous.append(np.clip(frame + noise, 0, 255).astype(np.uint8))
    write_video(root / "steady.mkv", steady)
    write_video(root / "nervous.mkv", nervous)
    return root


def run(world: Path, clip: str, *options: str) -> dict[str, Any]:
    arguments = ["--engine", str(world / "engine"), "--video", str(world / clip), *options, "--json"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report: dict[str, Any] = json.loads(result.output)
    return report


def test_a_nervous_video_flickers_more_and_fusion_steadies_it(world: Path) -> None:
    steady, nervous = run(world, "steady.mkv"), run(world, "nervous.mkv", "--every", "3", "--delay", "1")
    assert steady["frames"] == 8
    assert steady["agreement"] is None
    assert nervous["raw"]["flicker"] > steady["raw"]["flicker"]
    assert nervous["raw"]["consistency"] < steady["raw"]["consistency"]
    assert nervous["fused"]["flicker"] < nervous["raw"]["flicker"]
    assert nervous["confidence"] < steady["confidence"]
    assert nervous["unsure"] >= steady["unsure"]
    assert run(world, "nervous.mkv", "--every", "3", "--delay", "1") == nervous


def test_the_network_sees_a_large_video_as_it_sees_a_camera(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scaled from the decoder's planes, and not from RGB: levels differ where colours are clipped."""
    noise = np.random.default_rng(0).integers(0, 256, (3, 240, 320, 3)).astype("u1")
    write_video(tmp_path / "large.mp4", list(noise), options={"qp": "1"})
    with open_source(StreamConfig(source=str(tmp_path / "large.mp4")), "video") as source:
        expected = [frame.scaled(SIZE) for frame in decode(source, "video")]
    seen: list[U8] = []

    def looked(engine: Engine, frames: list[Frame]) -> list[Logits]:
        seen.extend(frame.scaled(SIZE) for frame in frames)
        return infer(engine, frames)

    monkeypatch.setattr("streamseg.evaluation.unlabelled.infer", looked)
    run(world, str(tmp_path / "large.mp4"))
    for ours, theirs in zip(seen, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_two_engines_agree_by_the_names_of_their_classes(world: Path, tmp_path: Path) -> None:
    agreed = run(world, "steady.mkv", "--teacher", str(world / "other"))["agreement"]
    assert agreed["pixels"] == 100  # the same, but surer
    assert agreed["classes"] == ["other", "red", "green", "blue"]
    write_tiny_engine(tmp_path / "half")
    toml = tmp_path / "half/engine.toml"
    toml.write_text(toml.read_text().replace('"green"', '"GREEN"').replace('"red"', '"ruby"'))
    agreed = run(world, "steady.mkv", "--teacher", str(tmp_path / "half"))["agreement"]
    assert agreed["classes"] == ["other", "green", "blue"]
    assert agreed["pixels"] == 100
    for name in ("GREEN", "blue", "other"):
        toml.write_text(toml.read_text().replace(f'"{name}"', f'"x{name}"'))
    with pytest.raises(StreamsegError, match="--teacher: has 0 classes of the engine's"):
        run(world, "steady.mkv", "--teacher", str(tmp_path / "half"))


def test_people_read_a_table(world: Path) -> None:
    arguments = ["--engine", str(world / "engine"), "--video", str(world / "steady.mkv")]
    arguments += ["--teacher", str(world / "other")]
    lines = CliRunner().invoke(command, arguments, catch_exceptions=False).output.splitlines()
    assert lines[0].endswith("8 frames, in %")
    assert lines[1].split() == ["consistency", "flicker"]
    assert [line.split()[0] for line in lines[2:]] == ["network", "fused", "confidence", "as"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "--data: is missing; without labels there is --video alone"),
        (["--video", "x.mp4", "--crf"], "need labels: add --data"),
        (["--data", "x", "--teacher", "y"], "--teacher: is for --video without --data"),
    ],
)
def test_options_that_need_labels_say_so(options: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        CliRunner().invoke(command, options, catch_exceptions=False)


def test_one_frame_says_nothing_over_time(world: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "one.mkv", [np.zeros((*SIZE, 3), np.uint8)])
    with pytest.raises(StreamsegError, match=r"one\.mkv: has 1 frame; two or more"):
        run(world, str(tmp_path / "one.mkv"))
