"""A released network is fetched for a command only where nothing else is wrong with it."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from streamseg.cli import cli
from streamseg.errors import WeightsError
from streamseg.inference.engine_folders import RELEASED_ENGINES

NAME = RELEASED_ENGINES[0]


@pytest.fixture(autouse=True)
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str, *_: object, **__: object) -> Path:
        raise WeightsError(f"{name}: begun")

    monkeypatch.setattr("streamseg.models.released.fetch_engine", fetch)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.toml").write_text('[streams.gate]\nsource = "demo:"\n')
    (tmp_path / "a.png").touch()


def said(*words: str) -> str:
    """What a command that must fail says."""
    done = CliRunner().invoke(cli, words)
    assert done.exit_code != 0
    return str(done.exception) if done.exception is not None and not done.output else done.output


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("run", "own.toml"), "--engine: write it in own.toml instead"),
        (("run",), "give either CONFIG.toml or --source"),
        (("run", "--source", "demo:", "--loop", "--max-fps", "-1"), "streams.video.max_fps"),
        (("capacity", "own.toml"), "--engine: write it in own.toml instead"),
        (("segment", "nosuch.png"), "nosuch.png: no such file"),
        (("process", "demo:", "--out", "out", "--merge", "x"), "--merge: must be"),
        (("eval",), "--data: is missing"),
        (("bench", "pipeline", "--source", "demo:", "--max-fps", "-1"), "max_fps"),
        (("init",), "give --source NAME=ADDRESS"),
    ],
)
def test_nothing_is_fetched_for_a_wrong_command_line(words: tuple[str, ...], says: str) -> None:
    assert says in said(*words, "--engine", NAME)


@pytest.mark.parametrize(
    "words",
    [
        ("run", "--source", "demo:", "--engine", NAME),
        ("segment", "a.png", "--engine", NAME),
        ("process", "a.mp4", "--out", "out", "--engine", NAME),
        ("eval", "--data", "data", "--engine", NAME),
        ("eval", "--video", "demo:", "--teacher", NAME),
        ("bench", "pipeline", "--source", "demo:", "--also", NAME),
        ("bench", "streams", "--engine", NAME),
        ("init", "--source", "gate=nosuch.mp4", "--yes", "--engine", NAME),
    ],
)
def test_a_missing_one_is_fetched_and_where_no_bar_is_drawn_a_line_says_so(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, words)
    assert str(done.exception) == f"{NAME}: begun"
    assert f"fetching {NAME} from raw.githubusercontent.com\n" in done.stderr
