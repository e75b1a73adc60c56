"""torch's and safetensors' files load key for key, and nothing else loads."""

from __future__ import annotations

import argparse
import functools
import os
import pickle
import stat
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from streamseg.errors import WeightsError

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors.torch")

import safetensors.torch  # noqa: E402
from torch import Tensor  # noqa: E402

from streamseg.errors import UsageError  # noqa: E402
from streamseg.models.weights import import_weights  # noqa: E402
from streamseg.models.weights.torch_file import load_tensors  # noqa: E402
from streamseg.models.zoo import NETWORKS  # noqa: E402
from tests.narrow import NARROW, narrow_network  # noqa: E402

OTHERS = ("deeplab-v1", "deeplab-v2", "deeplabv3-mobilenet-v2")  # Caffe's and TensorFlow Lite's
TORCHVISION = [name for name in NARROW if not name.startswith(OTHERS)]


def answer(network: torch.nn.Module) -> Tensor:
    with torch.no_grad():
        logits: Tensor = network(torch.ones(1, 3, 64, 80))
    return logits


@pytest.mark.parametrize("name", TORCHVISION)
def test_a_torchvision_file_loads_key_for_key(name: str, tmp_path: Path) -> None:
    changes = {} if name.startswith("lraspp") else {"auxiliary": True}
    released = narrow_network(name, **changes)
    file = tmp_path / f"{name}.pth"
    torch.save(released.state_dict(), file)
    torch.testing.assert_close(answer(import_weights(file, name, **NARROW[name])), answer(released))


@pytest.mark.parametrize("name", ["deeplab-v1-msc", "deeplab-v2-resnet101", "deeplabv3-resnet50"])
def test_a_safetensors_file_loads_key_for_key(name: str, tmp_path: Path) -> None:
    network = narrow_network(name)
    file = tmp_path / "x.safetensors"
    safetensors.torch.save_file(network.state_dict(), file)
    torch.testing.assert_close(answer(import_weights(file, name, **NARROW[name])), answer(network))


def test_a_checkpoint_that_wraps_its_state_dict_loads(tmp_path: Path) -> None:
    network = narrow_network("lraspp-mobilenet-v3-large")
    file = tmp_path / "x.pt"
    torch.save({"epoch": 3, "model": network.state_dict()}, file)
    loaded = import_weights(file, "lraspp-mobilenet-v3-large", **NARROW["lraspp-mobilenet-v3-large"])
    torch.testing.assert_close(answer(loaded), answer(network))


# Each with its shape in torchvision's file of 21 classes: names that a rewrite would get wrong first.
KEYS = {
    "deeplabv3-resnet50": {
        "backbone.conv1.weight": (64, 3, 7, 7),
        "backbone.layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "backbone.layer3.5.bn3.running_var": (1024,),
        "backbone.layer4.2.conv2.weight": (512, 512, 3, 3),
        "classifier.0.convs.0.0.weight": (256, 2048, 1, 1),
        "classifier.0.convs.3.1.num_batches_tracked": (),
        "classifier.0.convs.4.1.weight": (256, 2048, 1, 1),
        "classifier.0.convs.4.2.bias": (256,),
        "classifier.0.project.0.weight": (256, 1280, 1, 1),
        "classifier.0.project.1.weight": (256,),
        "classifier.1.weight": (256, 256, 3, 3),
        "classifier.2.running_mean": (256,),
        "classifier.4.bias": (21,),
    },
    "deeplabv3-mobilenet-v3-large": {
        "backbone.0.0.weight": (16, 3, 3, 3),
        "backbone.1.block.0.0.weight": (16, 1, 3, 3),
        "backbone.4.block.1.0.weight": (72, 1, 5, 5),
        "backbone.4.block.2.fc1.bias": (24,),
        "backbone.11.block.2.fc2.weight": (480, 120, 1, 1),
        "backbone.15.block.3.1.weight": (160,),
        "backbone.16.1.running_mean": (960,),
        "classifier.4.weight": (21, 256, 1, 1),
    },
    "lraspp-mobilenet-v3-large": {
        "classifier.cbr.0.weight": (128, 960, 1, 1),
        "classifier.cbr.1.running_var": (128,),
        "classifier.scale.1.weight": (128, 960, 1, 1),
        "classifier.low_classifier.weight": (21, 40, 1, 1),
        "classifier.high_classifier.bias": (21,),
    },
}


@pytest.mark.parametrize("name", KEYS)
def test_keys_and_shapes_are_torchvisions(name: str) -> None:
    with torch.device("meta"):
        state = NETWORKS[name].build().state_dict()
    assert {key: tuple(state[key].shape) for key in KEYS[name]} == KEYS[name]
    assert all(key.startswith(("backbone.", "classifier.")) for key in state)


def test_what_does_not_fit_is_listed_and_long_lists_are_counted(tmp_path: Path) -> None:
    name = "deeplabv3-resnet50"
    state = narrow_network(name).state_dict()
    state["head.weight"] = state.pop("classifier.4.weight")
    state["classifier.4.bias"] = torch.zeros(3)
    file = tmp_path / "x.pth"
    torch.save(state, file)
    with pytest.raises(WeightsError) as caught:
        import_weights(file, name, **NARROW[name])
    assert str(caught.value).split("; ")[1:] == [
        "missing: classifier.4.weight",
        "surplus: head.weight",
        "of another shape: classifier.4.bias (3,) instead of (5,)",
    ]
    torch.save({"classifier.4.bias": torch.zeros(5)}, file)
    with pytest.raises(WeightsError, match=r"backbone\.bn1\.weight, .* and \d+ more"):
        import_weights(file, name, **NARROW[name])


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("this file ran code",))


def test_a_file_that_would_run_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, save in (("zip.pth", torch.save), ("plain.pth", lambda e, f: f.write_bytes(pickle.dumps(e)))):
        save({"classifier.4.bias": Evil()}, tmp_path / name)
        with pytest.raises(WeightsError, match=r"holds Python objects \((print|a pickle)\)"):
            import_weights(tmp_path / name, "deeplabv3-resnet50")
    assert "ran code" not in capsys.readouterr().out


def test_a_tensor_that_claims_terabytes_is_misshapen_and_not_allocated(tmp_path: Path) -> None:
    name = "deeplabv3-resnet50"
    state = narrow_network(name).state_dict()
    state["classifier.4.bias"] = torch.zeros(1).expand(1 << 42)
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=r"of another shape: classifier\.4\.bias \(4398046511104,\)"):
        import_weights(tmp_path / "x.pth", name, **NARROW[name])


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".caffemodel"])
@pytest.mark.parametrize("content", [b"", b"garbage that is no file of weights at all", bytes(4096)])
def test_garbage_is_refused_by_name(suffix: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / f"x{suffix}"
    file.write_bytes(content)
    with pytest.raises(WeightsError, match=rf"x\{suffix}: "):
        import_weights(file, "deeplabv3-resnet50")


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".caffemodel"])
def test_a_file_that_is_not_there_is_named(suffix: str, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"cannot be read|No such file"):
        import_weights(tmp_path / f"x{suffix}", "deeplabv3-resnet50")


def test_tables_of_other_things_other_suffixes_and_unknown_names_are_refused(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "x.pth")
    with pytest.raises(
        WeightsError, match="has no tensors, but epoch; they must be in one of model, state_dict"
    ):
        import_weights(tmp_path / "x.pth", "deeplabv3-resnet50")
    torch.save([1], tmp_path / "x.pth")
    with pytest.raises(WeightsError, match="has no table of tensors"):
        import_weights(tmp_path / "x.pth", "deeplabv3-resnet50")
    with pytest.raises(WeightsError, match=r"must be a \.caffemodel"):
        import_weights(tmp_path / "x.h5", "deeplabv3-resnet50")
    with pytest.raises(UsageError, match="did you mean 'deeplabv3-resnet50'"):
        import_weights(tmp_path / "x.pth", "deeplabv3-resnet5")


NAME = "lraspp-mobilenet-v3-large"
FIRST = "backbone.0.0.weight"


def before(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


WRAPPED: dict[str, Callable[[dict[str, Tensor]], object]] = {
    "DataParallel": lambda s: before("module.", s),
    "Lightning": lambda s: {"state_dict": {**before("model.", s), "loss.weight": torch.ones(3)}, "epoch": 1},
    "compiled and distributed": lambda s: {"model": before("module._orig_mod.", s)},
    "an averaged model of torch": lambda s: {"ema": {"n_averaged": torch.tensor(3), **before("module.", s)}},
    "a table in a table": lambda s: {"checkpoint": 1, "model_state_dict": {"state_dict": s}},
    "DeepSpeed": lambda s: {"module": s, "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}}},
    "options and NumPy's numbers": lambda s: {
        "model": s,
        "args": argparse.Namespace(lr=0.1),
        "best": np.float64(71.2),
    },
    "float64": lambda s: {k: v.double() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_what_training_code_puts_round_a_state_dict_is_taken_off(kind: str, tmp_path: Path) -> None:
    state = written()
    torch.save(WRAPPED[kind](state), tmp_path / "x.ckpt")
    loaded = import_weights(tmp_path / "x.ckpt", NAME, **NARROW[NAME]).state_dict()
    assert list(loaded) == list(state)
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@functools.cache
def written() -> dict[str, Tensor]:
    """The weights of one network, for all the ways to wrap them."""
    state: dict[str, Tensor] = narrow_network(NAME).state_dict()
    return state


def test_the_number_of_classes_is_that_of_the_file(tmp_path: Path) -> None:
    narrow = {key: value for key, value in NARROW[NAME].items() if key != "classes"}
    for classes in (2, 21):
        network = narrow_network(NAME, classes=classes)
        torch.save({"model": network.state_dict()}, tmp_path / "x.pth")
        torch.testing.assert_close(
            answer(import_weights(tmp_path / "x.pth", NAME, **narrow)), answer(network)
        )
    with pytest.raises(WeightsError, match=r"of another shape: .*21.* instead of .*5"):
        import_weights(tmp_path / "x.pth", NAME, **NARROW[NAME])


SPOILT: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "quantised": (
        lambda t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8),
        r"is quantised \(torch.qint8\)",
    ),
    "without values": (lambda t: t.to("meta"), "has no values"),
    "complex": (lambda t: t.to(torch.complex64), "is torch.complex64, not floating point"),
    "sparse": (lambda t: t.to_sparse(), "is sparse"),
    "bytes": (lambda t: t.to(torch.uint8), "is torch.uint8, not floating point"),
    "flags": (lambda t: t > 0, "is torch.bool, not floating point"),
    "not a number": (lambda t: t * float("nan"), "has NaN or infinite values"),
    "too large for float32": (lambda t: t.double() * 1e300, "has NaN or infinite values"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", SPOILT)
def test_tensors_that_are_no_weights_are_refused_with_what_they_are(kind: str, tmp_path: Path) -> None:
    spoil, said = SPOILT[kind]
    state = narrow_network(NAME).state_dict()
    torch.save({**state, FIRST: spoil(state[FIRST])}, tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"x\.pth: does not fit .*not usable: {FIRST} {said}") as caught:
        import_weights(tmp_path / "x.pth", NAME, **NARROW[NAME])
    assert "\n" not in str(caught.value)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:3000])


def packed(file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(50_000_000))


OTHER_FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a whole network": (
        lambda f: torch.save(narrow_network(NAME), f),
        "holds Python objects .streamseg.models",
    ),
    "a command": (lambda f: f.write_bytes(pickle.dumps(Evil())), "holds Python objects"),
    "a web page": (lambda f: f.write_bytes(b"<html>404</html>"), "is a web page"),
    "a pointer": (
        lambda f: f.write_bytes(b"version https://git-lfs.github.com/spec/v1\n"),
        "is a Git LFS pointer",
    ),
    "nothing": (lambda f: f.write_bytes(b""), "is empty"),
    "a part": (
        lambda f: (torch.save(narrow_network(NAME).state_dict(), f), cut(f)),
        "is damaged, or not written",
    ),
    "a program": (
        lambda f: torch.jit.save(torch.jit.script(torch.nn.ReLU()), f),  # type: ignore[no-untyped-call]
        "is a TorchScript program",
    ),
    "a small archive of much": (packed, "unpacks to 50 MB"),
    "a folder": (lambda f: f.mkdir(), "cannot be read"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OTHER_FILES)
def test_other_files_are_called_what_they_are_without_torchs_advice(kind: str, tmp_path: Path) -> None:
    make, said = OTHER_FILES[kind]
    make(tmp_path / "x.pth")
    with pytest.raises(WeightsError, match=rf"x\.pth: {said}") as caught:
        import_weights(tmp_path / "x.pth", NAME)
    text = str(caught.value)
    assert "\n" not in text
    assert not any(word in text for word in ("weights_only", "trust", "torch.load"))


@pytest.mark.parametrize("what", ["pipe", "/dev/zero", "socket", "folder"])
def test_what_is_no_file_is_refused_and_not_waited_for(what: str, tmp_path: Path) -> None:
    path = tmp_path / what  # which is /dev/zero itself for that
    if what == "pipe":
        os.mkfifo(path)
    elif what == "folder":
        path.mkdir()
    elif what == "socket":
        os.mknod(path, stat.S_IFSOCK | 0o600)
    with pytest.raises(WeightsError, match=r": cannot be read \((not a regular file|Is a directory)\)"):
        load_tensors(path)
