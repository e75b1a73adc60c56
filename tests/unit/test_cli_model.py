"""streamseg model: where fetched weights are kept."""

from __future__ import annotations

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
