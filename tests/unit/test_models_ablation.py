"""The four heads of the first paper on slim's backbone: what they share, and in what they differ."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from streamseg.errors import TrainingError  # noqa: E402
from streamseg.inference.spec import read_spec  # noqa: E402
from streamseg.models.ablation import Ablation  # noqa: E402
from streamseg.training.networks import build_network  # noqa: E402
from streamseg.training.recipe import CAMVID_CLASSES, AugmentRecipe, TrainRecipe, load_recipe  # noqa: E402

CONFIGS = Path(__file__).parents[2] / "configs"
VARIANTS = ("deeplab", "deeplab-msc", "deeplab-largefov", "deeplab-msc-largefov")


@pytest.mark.parametrize("name", VARIANTS)
def test_each_variant_has_a_recipe_that_differs_in_the_network_alone(name: str) -> None:
    recipe = load_recipe(CONFIGS / f"train-ablation-{name}.toml")
    plain = load_recipe(CONFIGS / "train-ablation-deeplab.toml")
    assert recipe.network == name
    for key in set(recipe.__struct_fields__) - {"network"}:
        assert getattr(recipe, key) == getattr(plain, key)


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("size", [(64, 96), (72, 104)])
def test_logits_come_at_a_quarter_and_those_of_fc8_at_an_eighth(name: str, size: tuple[int, int]) -> None:
    network = build_network(TrainRecipe(network=name, width=12)).eval()
    height, width = size
    with torch.no_grad():
        logits, fc8 = network.supervised(torch.zeros(2, 3, height, width))
    assert logits.shape == (2, len(CAMVID_CLASSES), height // 4, width // 4)
    assert fc8.shape == (2, len(CAMVID_CLASSES), height // 8, width // 8)


@pytest.mark.parametrize(("large_fov", "cells"), [(False, 13), (True, 25)])
def test_fc6_sees_as_many_cells_as_in_the_paper(large_fov: bool, cells: int) -> None:
    fc6 = Ablation(2, 12, large_fov=large_fov, multi_scale=False).eval().fc6[0]
    torch.nn.init.constant_(fc6.weight, 1.0)
    features = torch.rand(1, 12, 65, 65).requires_grad_()
    fc6(features)[0, 0, 32, 32].backward()
    rows = features.grad[0].abs().sum((0, 2)).nonzero().flatten()
    assert (rows.max() - rows.min() + 1).item() == cells


def test_branches_add_to_the_scores_of_fc8() -> None:
    network = Ablation(3, 12, large_fov=True, multi_scale=True).eval()
    image = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        with_all, fc8 = network.supervised(image)
        for branch in network.branches:
            torch.nn.init.zeros_(branch[-1].weight)
            torch.nn.init.zeros_(branch[-1].bias)
        without, same = network.supervised(image)
    assert torch.equal(fc8, same)
    assert not torch.allclose(with_all, without)
    up = torch.nn.functional.interpolate(fc8, scale_factor=2.0, mode="bilinear", align_corners=False)
    assert torch.equal(without, up)


@pytest.mark.slow
def test_a_variant_becomes_an_engine_and_has_no_form_at_an_eighth(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    from streamseg.config import EngineConfig
    from streamseg.inference.plans.load import load_engine
    from streamseg.training.checkpoint import save_checkpoint
    from streamseg.training.export import export_engine

    recipe = TrainRecipe(
        network="deeplab-msc", width=12, input_size=(64, 96), augment=AugmentRecipe(crop_size=(64, 96))
    )
    network = build_network(recipe).eval()
    checkpoint = {"recipe": msgspec.to_builtins(recipe), "epoch": 1, "ema": network.state_dict()}
    save_checkpoint(tmp_path / "best.pt", checkpoint)
    folder = export_engine(tmp_path / "best.pt", tmp_path / "small")
    assert read_spec(folder).network == "deeplab-msc"
    with closing(load_engine(EngineConfig(name=f"{folder}/"))) as engine:
        assert engine(np.zeros((1, 64, 96, 3), np.uint8)).shape == (1, len(CAMVID_CLASSES), 16, 24)
    with pytest.raises(TrainingError, match="has no logits at 1/8"):
        export_engine(tmp_path / "best.pt", tmp_path / "eighth", stride8=True)
