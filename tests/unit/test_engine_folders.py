"""Engines are found by their names, whatever else lies where they are looked for."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from streamseg.cli.engine import command as engine_command
from streamseg.cli.model import command as model_command
from streamseg.config import EngineConfig, StreamConfig
from streamseg.daemon.remote import check_remote_engine
from streamseg.errors import EngineError
from streamseg.inference.engine_folders import RELEASED_ENGINES, engine_folder, found_engines
from streamseg.inference.spec import find_engine


def test_a_cache_that_cannot_be_looked_at_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "XDG_CACHE_HOME", f"/{'x' * 300}"
    )  # every look at it fails, as where one may not enter
    find_engine(EngineConfig().name)
    assert engine_folder("x" * 300) is None
    with pytest.raises(EngineError, match="did you mean 'camvid-lite'"):
        find_engine("camvid-lit")
    assert CliRunner().invoke(model_command, ["list"], catch_exceptions=False).exit_code == 0


def test_an_engine_that_cannot_be_read_spoils_no_other_and_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "engine.toml").write_text("future_key = 1\n")
    monkeypatch.setenv("STREAMSEG_ENGINES", str(tmp_path))
    assert found_engines()["newer"] == tmp_path / "newer"
    with pytest.raises(EngineError, match="did you mean 'camvid-lite'"):
        find_engine("camvid-lit")
    check_remote_engine("gate", "camvid-lite", ())
    listed = CliRunner().invoke(engine_command, ["list"], catch_exceptions=False)
    assert "camvid-lite" in listed.stdout
    (line,) = listed.stderr.splitlines()
    assert line.startswith(f"left out: engine {tmp_path / 'newer'}: engine.toml: future_key: unknown setting")
    assert line.endswith("; repair or remove that folder")


def test_who_fetches_for_a_service_is_told_a_folder_that_it_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from streamseg.daemon.wanted import engine_problem

    monkeypatch.setenv("CACHE_DIRECTORY", str(tmp_path))
    name = RELEASED_ENGINES[0]
    folder = f"/var/lib/engines/{name}"
    told = f'get it with: streamseg model fetch {name} --out {folder}, and name = "{folder}"'
    with pytest.raises(EngineError, match=told):
        find_engine(name)
    assert told in engine_problem(StreamConfig(source="demo:", engine=name).engine, {})
