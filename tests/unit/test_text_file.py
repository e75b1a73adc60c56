"""Texts that a person wrote are read as any editor saved them, by everything that reads one."""

from __future__ import annotations

import ast
import codecs
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import streamseg
from streamseg.config import WebConfig, load_config
from streamseg.config.text_file import decode_text, read_text
from streamseg.errors import StreamsegError
from streamseg.inference.labels import read_labels
from streamseg.inference.spec import read_spec
from streamseg.net.allow_list import AllowedClients
from streamseg.net.curve_keys import read_key
from streamseg.sources.target import read_password
from streamseg.training.recipe import load_recipe
from streamseg.web.setup import read_token
from tests.engines import write_tiny_engine

KEY = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
RECIPE = 'network = "lite0"\nlabel_set = "ground"\nbatch_size = 2\ninput_size = [288, 384]\n'
RECIPE += 'classes = [{ name = "a", colour = [1, 2, 3] }, { name = "b", colour = [4, 5, 6] }]\n'

AS_SAVED = {
    "UTF-8": lambda text: text.encode(),
    "with a byte order mark": lambda text: codecs.BOM_UTF8 + text.encode(),
    "with lines ended as on Windows": lambda text: text.replace("\n", "\r\n").encode(),
    "with both": lambda text: codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode(),
    "with lines ended as on old Macs": lambda text: text.replace("\n", "\r").encode(),
}
OTHER = {
    "UTF-16": lambda text: text.encode("utf-16"),
    "UTF-16, big end first": lambda text: codecs.BOM_UTF16_BE + text.encode("utf-16-be"),
    "UTF-16 without a mark": lambda text: text.encode("utf-16-le"),
    "UTF-16, big end first, without a mark": lambda text: text.encode("utf-16-be"),
    "UTF-32": lambda text: text.encode("utf-32"),
}


READERS: dict[str, tuple[str, str, Callable[[Path], Any]]] = {
    "configuration": ("site.toml", '# Tür\n[streams.gate]\nsource = "demo:"\n', load_config),
    "labels": ("labels.txt", "road #804080\nStraße\n", read_labels),
    "key": ("site.key", f"# a key\n{KEY}\n", lambda path: read_key(path, "key")),
    "token": (
        "token",
        "abcdefghijklmnopqrstuvwxyz\n",
        lambda path: read_token(WebConfig(token_file=str(path))),
    ),
    "password": (
        "passwords",
        "# ours\ngate geheim9\nyard x y\n",
        lambda path: read_password(str(path), "gate"),
    ),
    "recipe": ("recipe.toml", RECIPE, load_recipe),
}


@pytest.mark.parametrize("how", AS_SAVED)
@pytest.mark.parametrize("what", READERS)
def test_a_text_is_read_however_an_editor_saved_it(what: str, how: str, tmp_path: Path) -> None:
    name, text, read = READERS[what]
    path = tmp_path / name
    found = []
    for data in (text.encode(), AS_SAVED[how](text)):
        path.write_bytes(data)
        path.chmod(0o600)
        found.append(read(path))
    assert found[0] == found[1]


@pytest.mark.parametrize("how", OTHER)
@pytest.mark.parametrize("what", READERS)
def test_another_encoding_is_named_in_one_line(what: str, how: str, tmp_path: Path) -> None:
    name, text, read = READERS[what]
    path = tmp_path / name
    path.write_bytes(OTHER[how](text))
    path.chmod(0o600)
    with pytest.raises(StreamsegError) as caught:
        read(path)
    said = str(caught.value)
    assert str(path) in said
    assert f"is {how[:6]} text; save it as UTF-8" in said
    assert "\n" not in said


def test_an_engine_s_file_may_have_a_mark_too(tmp_path: Path) -> None:
    path = write_tiny_engine(tmp_path / "tiny") / "engine.toml"
    before, text = read_spec(path.parent), path.read_text()
    path.write_bytes(codecs.BOM_UTF8 + text.replace("\n", "\r\n").encode())
    assert read_spec(path.parent) == before
    path.write_bytes(text.encode("utf-16"))
    with pytest.raises(StreamsegError, match=r"engine\.toml is UTF-16 text; save it as UTF-8"):
        read_spec(path.parent)


def test_a_list_of_clients_may_have_a_mark_and_in_another_encoding_lets_nobody_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "clients"
    for data in (f"{KEY} Büro\r\n".encode("utf-8-sig"), f"{KEY} B\xfcro\n".encode("latin-1")):
        path.write_bytes(data)
        assert KEY.encode() in AllowedClients(str(path))
    path.write_bytes(f"{KEY} Buero\n".encode("utf-16"))
    with caplog.at_level(logging.WARNING):
        assert KEY.encode() not in AllowedClients(str(path))
    assert "is UTF-16 text; save it as UTF-8; left out" in caplog.text


def test_what_is_no_text_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(UnicodeError, match=r"is not UTF-8 text \(line 2\)"):
        decode_text(b"a\nB\xfcro\n")
    with pytest.raises(UnicodeError, match="holds NUL bytes"):
        decode_text(b"abc\0\0def")
    with pytest.raises(FileNotFoundError):
        read_text(tmp_path / "nowhere")
    assert decode_text(b"") == decode_text(codecs.BOM_UTF8) == ""


def test_no_text_is_read_another_way() -> None:
    """Path.read_text() is for files that the system or streamseg wrote."""
    ours = {"cli/conceal.py", "cli/doctor.py", "cli/keygen.py", "bench/summary.py", "daemon/install.py"}
    ours |= {"inference/backends/device.py", "bench/capacity.py", "bench/probe.py"}
    package = Path(streamseg.__file__).parent
    found = [
        str(path.relative_to(package))
        for path in sorted(package.rglob("*.py"))
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Attribute) and node.attr == "read_text"
    ]
    assert set(found) <= ours
