"""streamseg model: where fetched weights are kept."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamseg.cli.model import command
from streamseg.models.weights import SOURCES


@pytest.mark.parametrize(("variable", "below"), [("CACHE_DIRECTORY", ""), ("XDG_CACHE_HOME", "streamseg")])
def test_weights_lie_in_systemds_cache_else_the_users(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, below: str
) -> None:
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other"))
    monkeypatch.setenv(variable, str(tmp_path))
    name, source = next(iter(SOURCES.items()))
    folder = tmp_path / below / "weights"
    folder.mkdir(parents=True)
    assert ", in the cache" not in CliRunner().invoke(command, ["list"]).output
    (folder / source.file).touch()
    (line,) = [x for x in CliRunner().invoke(command, ["list"]).output.splitlines() if "in the cache" in x]
    assert line.startswith(name)


def test_weights_trained_on_ones_own_classes_become_an_engine_with_their_names(
    tiny_engine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    from streamseg.inference.spec import read_spec
    from streamseg.models.zoo import NETWORKS
    from tests.narrow import NARROW, narrow_network

    name = "lraspp-mobilenet-v3-large"
    narrow = {key: value for key, value in NARROW[name].items() if key != "classes"}
    build = type(NETWORKS[name]).build
    monkeypatch.setattr(
        "streamseg.models.zoo.Network.build", lambda self, **changes: build(self, **{**narrow, **changes})
    )
    graph = tiny_engine / "tiny.onnx"  # any: exporting takes seconds, and is shown in test_models_served.py
    monkeypatch.setattr(
        "streamseg.models.export.export_onnx", lambda served, path, **_: shutil.copy(graph, path)
    )
    torch.save(narrow_network(name, classes=3).state_dict(), tmp_path / "x.pth")
    asked = ["import", str(tmp_path / "x.pth"), "--as", name, "--out", str(tmp_path / "mine")]
    without = CliRunner().invoke(command, asked)
    assert "the network has 3 classes, but no names are given; --labels FILE" in str(without.exception)
    (tmp_path / "labels.txt").write_text("water\nland\nice #ffffff\n")
    assert CliRunner().invoke(command, [*asked, "--labels", str(tmp_path / "labels.txt")]).exit_code == 0
    spec = read_spec(tmp_path / "mine")
    assert [entry.name for entry in spec.classes] == ["water", "land", "ice"]
    assert spec.label_set == "mine-3"
