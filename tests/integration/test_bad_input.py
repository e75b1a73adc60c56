"""Wrong input ends in one clear line that names the thing, with exit code 1 or 2, and no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from streamseg.cli import COMMANDS
from tests.integration.children import ROOT
from tests.integration.command import Command, streamseg
from tests.waiting import LIMIT_S

__all__ = ["streamseg"]

CASES = {
    "missing.mp4": "no such file",
    "folder": "folder",
    "text.mp4": "text.mp4",
    "empty.mp4": "empty",
    "/dev/video99": "/dev/video99",
    "gopher://host/x": "gopher:// is not known",
    "srt://host:1": "SRT",
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    (tmp_path / "empty.mp4").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["run", "--source", "missing.mp4", "--endpoint", "tcp://127.0.0.1:0"], 1, CASES["missing.mp4"]),
        (["run"], 2, "--source"),
    ],
    ids=["what lies outside", "wrong use"],
)
def test_as_a_process_it_says_one_line_and_exits_with_its_code(
    words: list[str], code: int, said: str, place: Path, tiny_engine: Path
) -> None:
    """With next to nothing in its environment; the tests below run the same main() in this process."""
    engine = ["--engine", str(tiny_engine)] if "--source" in words else []
    done = subprocess.run(
        [sys.executable, "-m", "streamseg", *words, *engine],
        capture_output=True, text=True, timeout=LIMIT_S, cwd=place, check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(place), "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert line.startswith("streamseg: ")
    assert said in line


@pytest.mark.parametrize("source", CASES)
@pytest.mark.usefixtures("place")
def test_a_source_that_cannot_be_had_is_named(source: str, streamseg: Command, tiny_engine: Path) -> None:
    ended = streamseg("run", "--source", source, "--engine", tiny_engine, "--endpoint", "tcp://127.0.0.1:0")
    assert CASES[source] in ended.last_line
    assert ended.code == 1


def test_a_port_in_use_is_named(streamseg: Command, tiny_engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        ended = streamseg("run", "--source", "demo:", "--engine", tiny_engine, "--endpoint", endpoint)
    assert endpoint in ended.last_line
    assert ended.code == 1


def test_an_unknown_engine_is_refused_with_the_nearest_name(streamseg: Command) -> None:
    ended = streamseg("run", "--source", "demo:", "--engine", "camvid-slin")
    assert "did you mean 'camvid-slim'" in ended.last_line
    assert ended.code == 2


def test_neither_config_nor_source_is_wrong_use(streamseg: Command) -> None:
    ended = streamseg("run")
    assert "--source" in ended.last_line
    assert ended.code == 2


def test_every_problem_of_a_config_is_a_line(place: Path, streamseg: Command) -> None:
    (place / "bad.toml").write_text('[streams.gate]\nsorce = "x"\nmax_fps = 0\n')
    ended = streamseg("check", "bad.toml")
    assert ended.code == 2
    assert [line.split(":")[1].strip() for line in ended.err.splitlines()] == [
        "streams.gate.sorce",
        "streams.gate.source",
        "streams.gate.max_fps",
    ]


def test_an_option_beside_a_config_is_refused(place: Path, streamseg: Command) -> None:
    (place / "good.toml").write_text('[streams.gate]\nsource = "x.mp4"\n')
    ended = streamseg("run", "good.toml", "--precision", "int8")
    assert "write it in good.toml" in ended.last_line
    assert ended.code == 2


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_every_command_works(name: str, streamseg: Command) -> None:
    ended = streamseg(name, "--help")
    assert (ended.code, ended.err) == (0, "")
    assert f"Usage: streamseg {name}" in ended.out


def test_the_help_lists_every_command(streamseg: Command) -> None:
    listed = streamseg("--help").out
    assert all(name in listed for name in COMMANDS)
