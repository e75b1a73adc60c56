"""streamseg init: a first configuration, by options and by answers in a terminal."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from streamseg.config import load_config
from streamseg.config.draft import draft_stream, named_source
from streamseg.errors import UsageError
from streamseg.sources.target import target_of
from tests.cameras import RtspCamera, encoded
from tests.integration.children import ROOT
from tests.integration.command import Command, streamseg
from tests.integration.terminal import Terminal
from tests.media import draw_clip

__all__ = ["streamseg"]

AWAY = "rtsp://me:{}@127.0.0.1:1/h264"  # nobody listens at port 1


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_each_source_is_tried_and_what_it_sends_is_told(streamseg: Command, tmp_path: Path) -> None:
    draw_clip(tmp_path / "street.mp4", size=(96, 128))
    with RtspCamera(encoded()) as camera:
        ended = streamseg("init", "--source", "hall=street.mp4", "--source", f"gate={camera.url}", "--yes")
    assert ended.code == 0, ended.err
    assert "hall: 128x96 at " in ended.out
    assert "gate: 128x96" in ended.out
    assert "h264" in ended.out
    assert ended.out.endswith("next: streamseg check site.toml\n      streamseg run site.toml --watch\n")
    streams = load_config("site.toml").streams
    assert streams["hall"].source == str(tmp_path / "street.mp4")
    assert streams["gate"].source == camera.url
    assert _files(tmp_path) == {"street.mp4", "site.toml"}
    assert streamseg("check", "site.toml").code == 0


@pytest.mark.parametrize(
    ("written", "password"),
    [("secret99", "secret99"), ("p@ss w#rd/1", "p@ss w#rd/1"), ("p%40ss%23%C3%A9", "p@ss#é")],
)
def test_passwords_go_into_a_file_that_only_the_owner_may_read(
    streamseg: Command, tmp_path: Path, written: str, password: str
) -> None:
    ended = streamseg("init", "--source", f"gate={AWAY.format(written)}", "--yes", "--out", "my site.toml")
    assert ended.code == 0, ended.err
    assert "connection refused" in ended.out
    passwords = tmp_path / "my site.passwords"
    assert passwords.stat().st_mode & 0o777 == 0o600
    assert passwords.read_text("utf-8") == f"gate {password}\n"
    stream = load_config("my site.toml").streams["gate"]
    assert stream.source == "rtsp://me@127.0.0.1:1/h264"
    assert target_of(stream, "gate").name == draft_stream("gate", AWAY.format(written)).whole_source
    for shown in (written, password):
        assert shown not in ended.out + ended.err + Path("my site.toml").read_text("utf-8")
    assert "'my site.toml'" in ended.out


def test_a_password_that_only_an_address_can_hold_makes_the_configuration_private(
    streamseg: Command, tmp_path: Path
) -> None:
    address = "http://127.0.0.1:1/video?user=me&password=hidden77"
    ended = streamseg("init", "--source", f"gate={address}", "--yes")
    assert ended.code == 0, ended.err
    assert "hidden77" not in ended.out
    assert "site.toml: only you may read it" in ended.out
    assert (tmp_path / "site.toml").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("there", ["site.toml", "site.passwords"])
def test_no_file_is_overwritten(streamseg: Command, tmp_path: Path, there: str) -> None:
    (tmp_path / there).write_text("mine")
    ended = streamseg("init", "--source", f"gate={AWAY.format('secret99')}", "--yes")
    assert ended.code == 2
    assert ended.last_line == (
        f"streamseg: {there}: exists already and is not overwritten; choose another name with --out"
    )
    assert (tmp_path / there).read_text() == "mine"
    assert _files(tmp_path) == {there}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give --source NAME=ADDRESS for each stream"),
        (["--source", "gate=nothere.mp4"], "gate: nothing is written; --yes writes sources that"),
        (["--source", "a b=demo:", "--yes"], "a b: a stream's name must be letters"),
        (["--source", "gate=gopher://x/y", "--yes"], "gopher:// is not known"),
        (["--source", "gate=", "--yes"], "gate: the source is empty"),
        (["--source", "a=demo:", "--source", "a=demo:", "--yes"], "a: two sources have this name"),
        (["--source", "a=demo:", "--engine", "camvid-slin"], "did you mean 'camvid-slim'?"),
        (["--source", "a=demo:", "--out", "no/site.toml"], "no: is no folder"),
    ],
)
def test_what_cannot_be_is_one_line_and_writes_nothing(
    streamseg: Command, tmp_path: Path, words: list[str], said: str
) -> None:
    ended = streamseg("init", *words)
    assert ended.code in (1, 2)
    assert said in ended.last_line
    assert _files(tmp_path) == set()


def test_names_are_told_from_addresses_with_equals_signs() -> None:
    assert named_source("gate=demo:", "video") == ("gate", "demo:")
    assert named_source("http://h/v?channel=1", "video") == ("video", "http://h/v?channel=1")
    assert named_source("gate.2=http://h/v?a=1", "video") == ("gate.2", "http://h/v?a=1")
    with pytest.raises(UsageError, match="a stream's name"):
        named_source("=demo:", "video")


def test_a_terminal_is_asked_until_a_source_answers(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamseg", "init", "--out", "asked.toml"]
    with Terminal(command, columns=100, rows=50, PYTHONPATH=str(ROOT)) as terminal:
        terminal.wait(lambda text: "Source of stream 1 [demo:]:" in text)
        terminal.type("nothere.mp4\n")
        terminal.wait(lambda text: "Its name [video]:" in text)
        terminal.type("front door\n")
        terminal.wait(lambda text: "front door: a stream's name must be" in text)
        terminal.type("gate\n")
        terminal.wait(lambda text: "Write it anyhow? [y/N]:" in text)
        terminal.type("n\n")
        terminal.wait(lambda text: text.count("Source of stream 1 [demo:]:") == 2)
        terminal.type("\n")
        terminal.wait(lambda text: text.count("Its name [video]:") == 3)
        terminal.type("\n")
        terminal.wait(lambda text: "video: 480x360 at 30 fps, h264" in text)
        terminal.wait(lambda text: "Source of stream 2 (empty: no more)" in text)
        terminal.type("rtsp://me@127.0.0.1:1/h\n")
        terminal.wait(lambda text: "Its name [video1]:" in text)
        terminal.type("yard\n")
        terminal.wait(lambda text: "Password (not shown; empty: none):" in text)
        terminal.type("secret99\n")
        terminal.wait(lambda text: text.count("Write it anyhow? [y/N]:") == 2)
        terminal.type("y\n")
        terminal.wait(lambda text: "Source of stream 3 (empty: no more)" in text)
        terminal.type("\n")
        assert terminal.end() == 0, terminal.text
        assert b"secret99" not in terminal.raw
        assert "streamseg run asked.toml --watch" in terminal.text
    assert list(load_config("asked.toml").streams) == ["video", "yard"]
    assert (tmp_path / "asked.passwords").read_text() == "yard secret99\n"


def test_ctrl_c_writes_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "streamseg", "init"]
    with Terminal(command, columns=100, PYTHONPATH=str(ROOT)) as terminal:
        terminal.wait(lambda text: "Source of stream 1 [demo:]:" in text)
        # Python forgets a signal between the prompt and the reading: who sees nothing happen presses again.
        assert terminal.end(keys="\x03") == 130
        assert "Traceback" not in terminal.text
    assert _files(tmp_path) == set()


def test_a_missing_configuration_names_examples_that_exist(streamseg: Command) -> None:
    said = streamseg("run", "site.toml").last_line
    assert "write one with: streamseg init" in said
    assert Path(said.rpartition(" ")[2]).is_file()
    for name in ("webcam.toml", "rtsp.toml", "two-cameras.toml", "secure.toml", "reference.toml"):
        tomllib.loads((Path(said.rpartition(" ")[2]).parent / name).read_text())


@pytest.mark.soak
def test_the_wheel_holds_the_example_configurations(tmp_path: Path) -> None:
    # The build's own tool comes from the package index, where it is not installed.
    isolated = [] if find_spec("scikit_build_core") is None else ["--no-build-isolation"]
    built = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", *isolated, "-w", ".", ROOT],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if isolated == [] and "No matching distribution" in built.stderr:
        pytest.skip("scikit-build-core cannot be had here")
    assert built.returncode == 0, built.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    wanted = {f"streamseg/configs/{path.name}" for path in (ROOT / "configs").glob("*.toml")}
    assert wanted <= set(names)
    subprocess.run([sys.executable, "-m", "zipfile", "-e", str(wheel), "unpacked"], check=True)
    ended = subprocess.run(
        [sys.executable, "-m", "streamseg", "run", "site.toml"],
        cwd=tmp_path / "unpacked", env={"PATH": "/usr/bin", "PYTHONPATH": str(tmp_path / "unpacked")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert str(tmp_path / "unpacked/streamseg/configs/webcam.toml") in ended.stderr
