"""streamseg eval with the CRF and over a sequence, on a drawn clip with its truth."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from streamseg.cli.eval import command
from streamseg.errors import StreamsegError, UsageError
from tests.engines import write_tiny_engine
from tests.media import write_video

SIZE = (48, 64)
FRAMES = 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red disc that wanders over a noisy ground, frame by frame; engine/, data/ and the clip as a video."""
    root = tmp_path_factory.mktemp("sequence")
    write_tiny_engine(root / "engine")
    pictures = []
    ground = cv2.GaussianBlur(np.random.default_rng(0).integers(60, 200, (*SIZE, 3)).astype("u1"), (0, 0), 2)
    for name in ("images", "labels"):
        (root / "data" / name).mkdir(parents=True)
    for i in range(FRAMES):
        rgb, labels = ground.copy(), np.zeros(SIZE, np.uint8)
        cv2.circle(rgb, (16 + 2 * i, 24), 11, (255, 0, 0), -1)
        cv2.circle(labels, (16 + 2 * i, 24), 11, 1, -1)
        noise = np.random.default_rng(i + 1).normal(0, 30, rgb.shape)
        rgb = np.clip(rgb + noise, 0, 255).astype(np.uint8)
        pictures.append(rgb)
        cv2.imwrite(str(root / f"data/images/{i:03}.png"), rgb[..., ::-1])
        cv2.imwrite(str(root / f"data/labels/{i:03}.png"), labels)
    write_video(root / "clip.mkv", pictures)
    return root


def run(folder: Path, *options: str) -> dict[str, object]:
    arguments = ["--engine", str(folder / "engine"), "--data", str(folder / "data"), *options, "--json"]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    report: dict[str, object] = json.loads(result.output)
    return report


def test_the_crf_is_scored_beside_the_network_near_boundaries(folder: Path) -> None:
    report = run(folder, "--crf")
    scores = report["parts"]["all"]  # type: ignore[index]
    assert set(scores) == {"raw", "crf"}
    assert scores["crf"]["trimap"]["2"] > scores["raw"]["trimap"]["2"]
    assert scores["crf"]["frames"] == FRAMES
    assert scores["raw"]["consistency"] is None
    assert report["every"] is None


@pytest.mark.parametrize("source", ["images", "video"])
def test_a_sequence_is_scored_in_halves_without_its_keyframes_and_drawn(
    folder: Path, source: str, tmp_path: Path
) -> None:
    plot = tmp_path / "plot.png"
    video = ["--video", str(folder / "clip.mkv")] if source == "video" else []
    parts = run(folder, "--sequence", "--every", "4", "--delay", "1", "--plot", str(plot), *video)["parts"]
    assert list(parts) == ["all", "first half", "second half"]  # type: ignore[call-overload]
    whole = parts["all"]  # type: ignore[index]
    assert set(whole) == {"truth", "raw", "crf", "recursion", "fused", "smoothed"}
    assert whole["raw"]["frames"] == FRAMES - 3
    assert whole["smoothed"]["frames"] == FRAMES - 3
    assert whole["truth"]["miou"] == 100
    assert whole["fused"]["flicker"] <= whole["raw"]["flicker"]
    assert whole["truth"]["flicker"] < 10
    picture = cv2.imread(str(plot))
    assert picture is not None
    assert (picture < 250).any(axis=2).mean() > 0.005


def test_a_video_of_another_length_is_refused(folder: Path, tmp_path: Path) -> None:
    write_video(tmp_path / "short.mkv", [np.zeros((*SIZE, 3), np.uint8)] * 3)
    with pytest.raises(UsageError, match="3 frames for 12"):
        run(folder, "--video", str(tmp_path / "short.mkv"))


def test_the_same_evaluation_gives_the_same_scores(folder: Path) -> None:
    assert run(folder, "--sequence", "--every", "4") == run(folder, "--sequence", "--every", "4")


def test_tuning_writes_what_the_next_evaluation_uses(folder: Path) -> None:
    before = run(folder, "--crf")["crf"]
    report = run(folder, "--tune-crf", "--images", "4")
    after = run(folder, "--crf")["crf"]
    assert report["kept"]["params"]["appearance_sigma_xy"] == after["appearance_sigma_xy"]  # type: ignore[index]
    assert before != after


def drawn(folder: Path, sizes: list[tuple[int, int]], label: int | None = None) -> Path:
    """Pictures of these sizes, two classes in each; or `label` all over."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for i, (height, width) in enumerate(sizes):
        labels = np.full((height, width), 0 if label is None else label, np.uint8)
        if label is None:
            labels[:, width // 2 :] = 1
        cv2.imwrite(str(folder / f"images/{i}.png"), np.dstack([labels % 2 * 90 + 40] * 3))
        cv2.imwrite(str(folder / f"labels/{i}.png"), labels)
    return folder


@pytest.mark.parametrize(
    ("sizes", "options", "words"),
    [
        ([SIZE] * 3, ["--every", "1"], "--every: must be 2 or more"),
        ([SIZE], [], "has two frames or more; this has 1"),
        ([SIZE, (24, 32)], [], "have one size; 0 is 64x48, 1 32x24"),
        ([SIZE, SIZE, (64, 48)], ["--every", "3"], "have one size; 0 is 64x48, 2 48x64"),
        ([(6, 8)] * 3, [], "8x6 are too small"),
    ],
)
def test_a_sequence_of_which_nothing_can_be_scored_is_refused(
    folder: Path, tmp_path: Path, sizes: list[tuple[int, int]], options: list[str], words: str
) -> None:
    data = drawn(tmp_path / "data", sizes)
    arguments = ["--engine", str(folder / "engine"), "--data", str(data), "--sequence", *options]
    with pytest.raises(StreamsegError, match=words):
        CliRunner().invoke(command, arguments, catch_exceptions=False)


@pytest.mark.parametrize("label", [1, 255])
@pytest.mark.parametrize("options", [["--crf", "--plot", "plot.png"], ["--sequence"], []])
def test_what_is_not_there_has_a_dash_and_null(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, label: int, options: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    data = drawn(tmp_path / "data", [SIZE] * 2, label)
    arguments = ["--engine", str(folder / "engine"), "--data", str(data), *options]
    table = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert table.exit_code == 0
    assert "–" in table.output
    report = json.loads(CliRunner().invoke(command, [*arguments, "--json"], catch_exceptions=False).output)
    if not options:
        assert (report["miou"] is None) == (label == 255)
        return
    raw = report["parts"]["all"]["raw"]
    assert set(raw["trimap"].values()) == {None}
    assert (raw["miou"] is None) == (label == 255)
    if "--sequence" in options:
        assert report["parts"]["first half"]["raw"]["miou"] is None  # its one frame is a keyframe


@pytest.mark.parametrize("label", [1, 255])
def test_tuning_without_a_boundary_is_refused(folder: Path, tmp_path: Path, label: int) -> None:
    data = drawn(tmp_path / "data", [SIZE] * 2, label)
    before = (folder / "engine" / "engine.toml").read_text()
    with pytest.raises(StreamsegError, match="no two classes meet"):
        run(folder, "--data", str(data), "--tune-crf")
    assert (folder / "engine" / "engine.toml").read_text() == before
