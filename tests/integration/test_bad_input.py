"""Wrong input ends in one clear line that names the thing, with exit code 1 or 2, and no traceback."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

CASES = {
    "missing.mp4": "there is no such file",
    "folder": "folder",
    "text.mp4": "text.mp4",
    "empty.mp4": "empty",
    "/dev/video99": "/dev/video99",
    "gopher://host/x": "gopher:// is not known",
    "srt://host:1": "SRT",
}


def streamseg(*arguments: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(__file__).resolve().parents[2])
    return subprocess.run(
        [sys.executable, "-m", "streamseg", *arguments],
        capture_output=True, text=True, timeout=60, cwd=cwd,
        env={"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": root},
    )  # fmt: skip


def last_line(done: subprocess.CompletedProcess[str], code: int) -> str:
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("INFO")]
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("streamseg: ")
    return lines[0]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.mp4").write_text("this is not a video\n" * 50)
    (tmp_path / "empty.mp4").touch()
    return tmp_path


@pytest.mark.parametrize("source", CASES)
def test_a_source_that_cannot_be_had_is_named(source: str, place: Path, tiny_engine: Path) -> None:
    done = streamseg(
        "run", "--source", source, "--engine", str(tiny_engine), "--endpoint", "tcp://127.0.0.1:0",
        cwd=place, home=place,
    )  # fmt: skip
    assert CASES[source] in last_line(done, 1)


def test_a_port_in_use_is_named(place: Path, tiny_engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        done = streamseg("run", "--source", "demo:", "--engine", str(tiny_engine), "--endpoint", endpoint,
                         cwd=place, home=place)  # fmt: skip
    assert endpoint in last_line(done, 1)


def test_an_unknown_engine_is_refused_with_the_nearest_name(place: Path) -> None:
    done = streamseg("run", "--source", "demo:", "--engine", "camvid-slin", cwd=place, home=place)
    assert "did you mean 'camvid-slim'" in last_line(done, 1)


def test_neither_config_nor_source_is_wrong_use(place: Path) -> None:
    assert "--source" in last_line(streamseg("run", cwd=place, home=place), 2)


def test_every_problem_of_a_config_is_a_line(place: Path) -> None:
    (place / "bad.toml").write_text('[streams.gate]\nsorce = "x"\nmax_fps = 0\n')
    done = streamseg("check", "bad.toml", cwd=place, home=place)
    assert done.returncode == 2
    assert [line.split(":")[1].strip() for line in done.stderr.splitlines()] == [
        "streams.gate.sorce",
        "streams.gate.source",
        "streams.gate.max_fps",
    ]


def test_an_option_beside_a_config_is_refused(place: Path) -> None:
    (place / "good.toml").write_text('[streams.gate]\nsource = "x.mp4"\n')
    done = streamseg("run", "good.toml", "--precision", "int8", cwd=place, home=place)
    assert "write it in good.toml" in last_line(done, 2)


def test_help_of_every_command_works(place: Path) -> None:
    from streamseg.cli import COMMANDS

    for name in ["run", "subscribe"]:
        assert streamseg(name, "--help", cwd=place, home=place).returncode == 0
    listed = streamseg("--help", cwd=place, home=place).stdout
    assert all(name in listed for name in COMMANDS)
