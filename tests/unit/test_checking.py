"""`streamseg check` names all that keeps a configuration from running here, and passes what can run."""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from streamseg.cli import cli
from streamseg.config import parse_config
from streamseg.daemon.checking import config_notes, config_problems
from streamseg.inference.engine_folders import RELEASED_ENGINES


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    (tmp_path / "clip.mp4").write_bytes(b"x")
    return tmp_path


def problems(engine: Path, text: str) -> list[str]:
    return list(config_problems(parse_config(f'engine.name = "{engine}"\n{text}')))


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("127.0.0.1:8551/h264", "is no file, and an address begins with its scheme"),
        ("admin:geheim7@cam/h264", "admin:***@cam/h264: is no file, and an address begins with its scheme"),
        ("rtsp:/10.0.0.7/h264", "an address begins with its scheme"),
        ("nothere.mp4", "nothere.mp4: no such file; check the path"),
        (".", "is a directory"),
        ("rtsp://admin:p#geheim7@10.0.0.7/", "admin:***@10.0.0.7/: has / or ? or # in front of its @"),
        ("rtsp://admin:12/34@10.0.0.7/", "write special letters of the password as %XX"),
        ("rtsp://10.0.0.7:99999/", "a port is a number up to 65535"),
        ("http:///video", "has no host"),
        ("rtps://10.0.0.7/h264", "rtps:// is not known"),
    ],
)
def test_a_source_that_cannot_work_is_named(place: Path, tiny_engine: Path, source: str, says: str) -> None:
    (line,) = problems(tiny_engine, f'[streams.gate]\nsource = "{source}"\n')
    assert line.startswith("streams.gate.source: ")
    assert says in line
    assert "geheim7" not in line


def test_a_large_stream_that_cannot_work_is_named_beside_the_small_one(
    place: Path, tiny_engine: Path
) -> None:
    text = '[streams.gate]\nsource = "rtps://cam/2"\ndetail_source = "rtsp://admin:p#geheim7@10.0.0.7/"\n'
    small, large = problems(tiny_engine, text)
    assert small.startswith("streams.gate.source: rtps://cam/2: rtps:// is not known")
    assert large.startswith(
        "streams.gate.detail_source: rtsp://admin:***@10.0.0.7/: has / or ? or # in front"
    )
    missing = '[streams.gate]\nsource = "demo:"\ndetail_source = "large.jpg"\n'
    assert problems(tiny_engine, missing) == [
        "streams.gate.detail_source: large.jpg: no such file; check the path"
    ]


@pytest.mark.parametrize(
    "source",
    ["demo:", "clip.mp4", "RTSP://10.0.0.7/h264", "rtsp://admin:a@b:c%23@10.0.0.7/h264", "udp://@239.0.0.1:1234",
     "rtsp://home cam:my pass@10.0.0.7/h264", "http://cam:8080/snap@2x.jpg", "http://[::1]:8080/a:b@c"],
)  # fmt: skip
def test_a_source_that_may_work_passes(place: Path, tiny_engine: Path, source: str) -> None:
    assert problems(tiny_engine, f'[streams.gate]\nsource = "{source}"\n') == []


def test_a_password_file_is_looked_at_unless_systemd_hands_it_over(place: Path, tiny_engine: Path) -> None:
    stream = '[streams.gate]\nsource = "rtsp://admin@10.0.0.7/"\npassword_file = "{}"\n'
    assert "cannot be read" in problems(tiny_engine, stream.format("missing"))[0]
    (place / "open").write_text("geheim7\n")
    (place / "open").chmod(0o640)
    assert "chmod 600" in problems(tiny_engine, stream.format("open"))[0]
    (place / "open").chmod(0o600)
    assert problems(tiny_engine, stream.format("open")) == []
    text = stream.format("$CREDENTIALS_DIRECTORY/passwords")
    assert problems(tiny_engine, text) == []
    assert "is set by systemd" in next(iter(config_notes(parse_config(text))))


def test_keys_tokens_and_extras_are_looked_at(
    place: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        "streamseg.web.setup.importlib.util.find_spec", lambda n: None if n == "aiohttp" else find_spec(n)
    )
    found = problems(
        tiny_engine,
        '[streams.gate]\nsource = "demo:"\n[web]\nlisten = "127.0.0.1:0"\ntoken_file = "token"\n'
        '[publish]\ncurve_secret_key_file = "site.key"\nallowed_clients = "clients"\n',
    )
    assert [line.partition(":")[0] for line in found] == [
        "publish.curve_secret_key_file", "publish.allowed_clients", "web.listen", "web.token_file"
    ]  # fmt: skip
    assert found[2] == "web.listen: aiohttp not installed; pip install 'streamseg[web]'"


@pytest.mark.parametrize(
    ("engine", "says"),
    [
        ('precision = "int8"', "has no int8 weights"),
        ('precision = "fp16"\nbackend = "onnx"', "no backend can run it on this machine"),
        ('backend = "tensorrt"', "no backend can run it on this machine"),
    ],
)
def test_what_the_engine_needs_and_is_not_here_is_named(tiny_engine: Path, engine: str, says: str) -> None:
    text = f'[streams.gate]\nsource = "demo:"\n[engine]\nname = "{tiny_engine}"\n{engine}\n'
    (line,) = config_problems(parse_config(text))
    assert says in line


def test_the_command_lists_every_problem_and_passes_what_runs(place: Path, tiny_engine: Path) -> None:
    site = place / "site.toml"
    site.write_text(
        f'[engine]\nname = "{tiny_engine}"\n[streams.a]\nsource = "x.mp4"\n[streams.b]\nsource = "1.2.3.4"\n'
    )
    done = CliRunner().invoke(cli, ["check", str(site)])
    assert str(done.exception).count("\n") == 1
    site.write_text(f'[engine]\nname = "{tiny_engine}"\n[streams.a]\nsource = "/dev/video99"\n')
    done = CliRunner().invoke(cli, ["check", str(site)])
    assert done.exit_code == 0, done.output
    assert "note: streams.a.source: /dev/video99: no such camera" in done.output
    assert "1 stream, engine tiny" in done.output


def test_an_engine_in_this_users_cache_is_noted_as_no_service_sees_it(
    place: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(place))
    name = RELEASED_ENGINES[0]
    shutil.copytree(tiny_engine, place / "streamseg" / "engines" / name)
    (note,) = config_notes(parse_config(f'engine.name = "{name}"\n[streams.gate]\nsource = "demo:"\n'))
    assert note == (
        f"engine {name}: lies in this user's cache; a service has its own, and needs: streamseg model fetch "
        f'{name} --out /var/lib/engines/{name}, and name = "/var/lib/engines/{name}"'
    )
