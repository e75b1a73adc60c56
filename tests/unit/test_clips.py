"""Neighbouring frames: their motion goes through the crop's view, and a network learns not to flicker."""

from __future__ import annotations

from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

torch = pytest.importorskip("torch")

from streamseg.cli.train import command  # noqa: E402
from streamseg.errors import ConfigError, TrainingError, UsageError  # noqa: E402
from streamseg.evaluation.dataset import LabelledFolder  # noqa: E402
from streamseg.training.checkpoint import load_checkpoint, trained_network  # noqa: E402
from streamseg.training.clips import Clips, Pairs, temporal_loss  # noqa: E402
from streamseg.training.data import TrainingImages  # noqa: E402
from streamseg.training.loop import Inputs, train  # noqa: E402
from streamseg.training.networks import normalise  # noqa: E402
from streamseg.training.recipe import CAMVID_CLASSES, AugmentRecipe, TrainRecipe  # noqa: E402
from tests.media import write_video  # noqa: E402

SIZE = (96, 128)
CPU = torch.device("cpu")
PLAIN = AugmentRecipe(
    crop_size=(48, 64), scale_min=0.8, scale_max=1.5, rotate_deg=20, colour=0, light=0, shadow=0, blur=0,
    noise=0, jpeg=0, paste=0,
)  # fmt: skip
RECIPE = TrainRecipe(
    width=12,
    classes=CAMVID_CLASSES[:3],
    input_size=SIZE,
    epochs=8,
    batch_size=2,
    learning_rate=0.03,
    lovasz_weight=0.0,
    ema=0.5,
    augment=PLAIN,
    temporal_weight=30.0,
    temporal_every=2,
    device="cpu",
    threads=1,
    arithmetic="fp32",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A texture that glides under the camera, the same standing still, and labelled pictures of it."""
    root = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    ground = cv2.GaussianBlur(rng.integers(0, 256, (140, 220, 3)).astype(np.uint8), (0, 0), 3)
    ground = cv2.normalize(ground, None, 0, 255, cv2.NORM_MINMAX)
    glide = [np.ascontiguousarray(ground[3 * i : 3 * i + 96, 5 * i : 5 * i + 128]) for i in range(8)]
    write_video(root / "glide.mkv", glide)
    write_video(root / "still.mkv", [glide[0]] * 6)
    for sub in ("images", "labels"):
        (root / "data" / sub).mkdir(parents=True)
    for number, rgb in enumerate(glide[:4]):
        labels = (rgb[..., 0] // 86).clip(max=2)
        cv2.imwrite(str(root / f"data/images/{number}.png"), rgb[..., ::-1])
        cv2.imwrite(str(root / f"data/labels/{number}.png"), labels)
    return root


def _unsteady(run: Path, pairs: Pairs) -> float:
    network = trained_network(load_checkpoint(run / "last.pt"))
    with torch.no_grad():
        now, before = (network(normalise(rgb, network, CPU)) for rgb in (pairs.now, pairs.before))
    return temporal_loss(now, before, pairs.where, pairs.trust).item()


def test_motion_goes_through_the_view_of_its_crop(world: Path) -> None:
    clips = Clips([str(world / "glide.mkv")], msgspec.structs.replace(RECIPE, temporal_pairs=4))
    moved_error, still_error = [], []
    for step in range(4):
        pairs = clips.draw(0, step)
        assert pairs.where.shape == (4, 12, 16, 2)
        for now, before, where, trust in zip(*pairs, strict=True):
            small_now, small_before = (
                cv2.resize(rgb, (16, 12), interpolation=cv2.INTER_AREA).astype(np.float32)
                for rgb in (now, before)
            )
            moved = cv2.remap(small_before, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            inner = (trust > 0.5) & (where > 0).all(-1) & (where[..., 0] < 15) & (where[..., 1] < 11)
            assert inner.mean() > 0.3
            moved_error.append(np.abs(moved - small_now)[inner].mean())
            still_error.append(np.abs(small_before - small_now)[inner].mean())
    assert np.mean(moved_error) < 0.5 * np.mean(still_error)
    again = Clips([str(world / "glide.mkv")], msgspec.structs.replace(RECIPE, temporal_pairs=4))
    for one, two in zip(clips.draw(3, 1), again.draw(3, 1), strict=True):
        np.testing.assert_array_equal(one, two)


def test_what_moves_with_the_picture_costs_nothing() -> None:
    x = np.arange(24, dtype=np.float32)[None, :].repeat(16, 0)
    y = np.arange(16, dtype=np.float32)[:, None].repeat(24, 1)
    where = np.stack([x + 3, y], axis=-1)[None]
    before = torch.randn(1, 3, 16, 24, generator=torch.Generator().manual_seed(0))
    now = torch.roll(before, -3, dims=3)
    assert temporal_loss(now, before, where).item() < 1e-6
    assert temporal_loss(before, before, where).item() > 0.05
    assert temporal_loss(before, before, where, np.zeros((1, 16, 24), np.float32)).item() == 0


def test_a_network_learns_to_stay_with_itself_and_goes_on_exactly(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = Inputs(world / "data", clips=(str(world / "glide.mkv"),))
    train(RECIPE, inputs, tmp_path / "whole", resume=False)
    parts, draw = tmp_path / "parts", Clips.draw

    def interrupted(self: Clips, epoch: int, step: int) -> Pairs:
        if epoch == 2:
            raise KeyboardInterrupt
        return draw(self, epoch, step)

    monkeypatch.setattr(Clips, "draw", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, inputs, parts, resume=False)
    monkeypatch.setattr(Clips, "draw", draw)
    with pytest.raises(TrainingError, match="another recipe or data: the clips; --resume"):
        train(RECIPE, inputs._replace(clips=()), parts, resume=True)
    with pytest.raises(TrainingError, match=r"temporal_weight \(30.0, now 2.0\)"):
        train(msgspec.structs.replace(RECIPE, temporal_weight=2.0), inputs, parts, resume=True)
    train(RECIPE, inputs, parts, resume=True)
    one, two = (load_checkpoint(run / "last.pt")["network"] for run in (tmp_path / "whole", parts))
    assert all(torch.equal(one[name], two[name]) for name in one)
    plain = msgspec.structs.replace(RECIPE, temporal_weight=0.0)
    train(plain, Inputs(world / "data"), tmp_path / "plain", resume=False)
    pairs = Clips(inputs.clips, msgspec.structs.replace(RECIPE, temporal_pairs=6)).draw(0, 0)
    losses = {run: _unsteady(tmp_path / run, pairs) for run in ("whole", "plain")}
    assert losses["whole"] < 0.93 * losses["plain"], losses


def test_moved_crops_show_what_the_first_ones_show_elsewhere(world: Path) -> None:
    folder = LabelledFolder(world / "data", 3)
    recipe = msgspec.structs.replace(RECIPE, temporal_moved=2, batch_size=4)
    images = TrainingImages(folder, recipe)
    assert images.steps == 2
    moved_error, still_error = [], []
    for batch in [*images.batches(0), *images.batches(1)]:
        assert batch.rgb.shape == (4, 48, 64, 3)
        assert batch.where is not None
        assert batch.where.shape == (2, 12, 16, 2)
        for now, moved, where in zip(batch.rgb[:2], batch.rgb[2:], batch.where, strict=True):
            small_now, small_moved = (
                cv2.resize(rgb, (16, 12), interpolation=cv2.INTER_AREA).astype(np.float32)
                for rgb in (now, moved)
            )
            there = cv2.remap(small_moved, where, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
            inner = (where > 0).all(-1) & (where[..., 0] < 15) & (where[..., 1] < 11)
            assert inner.mean() > 0.3
            moved_error.append(np.abs(there - small_now)[inner].mean())
            still_error.append(np.abs(small_moved - small_now)[inner].mean())
    assert np.mean(moved_error) < 0.25 * np.mean(still_error)
    for one, two in zip(images.batches(1), TrainingImages(folder, recipe).batches(1), strict=True):
        np.testing.assert_array_equal(one.rgb, two.rgb)
        np.testing.assert_array_equal(one.where, two.where)


def test_moved_crops_make_a_network_steady(world: Path, tmp_path: Path) -> None:
    moved = msgspec.structs.replace(RECIPE, temporal_moved=2, batch_size=4)
    for name, recipe in (("moved", moved), ("plain", msgspec.structs.replace(moved, temporal_weight=1e-9))):
        train(recipe, Inputs(world / "data"), tmp_path / name, resume=False)
    pairs = Clips([str(world / "glide.mkv")], msgspec.structs.replace(RECIPE, temporal_pairs=6)).draw(0, 0)
    losses = {name: _unsteady(tmp_path / name, pairs) for name in ("moved", "plain")}
    assert losses["moved"] < 0.93 * losses["plain"], losses


def test_a_clip_that_stands_still_is_refused_and_so_is_one_without_its_weight(
    world: Path, tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=r"--clip .*still\.mkv: has no two neighbouring frames"):
        Clips([str(world / "still.mkv")], RECIPE)
    words = ["--data", str(world / "data"), "--out", str(tmp_path / "run"), "--clip", "street.mp4"]
    with pytest.raises(UsageError, match="--clip: goes with a temporal_weight above 0"):
        CliRunner().invoke(command, words, catch_exceptions=False)
    with pytest.raises(ConfigError, match=r"temporal_moved: must be at most half of batch_size \(2\); is 2"):
        msgspec.structs.replace(RECIPE, temporal_moved=2)
    with pytest.raises(ConfigError, match="temporal_moved: goes with a temporal_weight above 0"):
        msgspec.structs.replace(RECIPE, temporal_moved=1, temporal_weight=0.0)
    (tmp_path / "moved.toml").write_text("temporal_weight = 1.0\ntemporal_moved = 2\n")
    with pytest.raises(UsageError, match="--clip: does not go with temporal_moved"):
        CliRunner().invoke(
            command, [*words, "--recipe", str(tmp_path / "moved.toml")], catch_exceptions=False
        )
