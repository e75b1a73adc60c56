"""Each row of operating.md's tables of mistakes is what is really said when the mistake is made."""

from __future__ import annotations

import logging
import re
import sys
import threading
from pathlib import Path

import pytest

from streamseg.cli import main
from streamseg.client import subscribe
from tests.integration.children import ROOT
from tests.integration.mistakes import HEARD, MACHINE, MISTAKES, SAID, Place, full_disk

OPERATING = (ROOT / "docs/operating.md").read_text("utf-8").partition("## When something is wrong")[2]
ROWS = {
    name: (said, code)
    for name, said, code in re.findall(r"^\| ([^|`]+) \| `(.+)` \| (1|2|goes on) \|$", OPERATING, re.M)
}
HEARD_S = 30.0


def expected(name: str) -> re.Pattern[str]:
    """What the table says, with … for anything."""
    return re.compile(".*?".join(map(re.escape, ROWS[name][0].split("…"))))


@pytest.fixture
def place(tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, tiny_engine)


def said(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[str, int]:
    """What a command line says in the end, and its exit code: the same main() as the command's."""
    monkeypatch.setattr(sys, "argv", ["streamseg", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("streamseg: ")]
    assert len(lines) == 1, lines
    assert isinstance(ended.value.code, int)
    return lines[0].removeprefix("streamseg: "), ended.value.code


def test_the_tables_have_a_row_for_each_mistake() -> None:
    assert set(ROWS) == {*MISTAKES, *SAID, *HEARD, *MACHINE, "a full disk", "no torch"}
    assert len(ROWS) >= 30


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_as_the_table_says(
    name: str, place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with place.owned:
        text, code = said(MISTAKES[name](place), capsys, monkeypatch)
    assert expected(name).fullmatch(text), text
    assert str(code) == ROWS[name][1]


@pytest.mark.parametrize("name", SAID)
def test_what_no_machine_here_can_show_has_the_words_of_the_table(name: str, place: Place) -> None:
    assert expected(name).fullmatch(SAID[name](place))


@pytest.mark.parametrize("name", HEARD)
def test_a_subscriber_that_cannot_be_served_is_told_why(
    name: str, place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.client.receiver.TELL_S", 0.5)
    told = threading.Event()

    class Heard(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if expected(name).fullmatch(record.getMessage()):
                told.set()

    heard = Heard()
    logging.getLogger("streamseg.client").addHandler(heard)
    try:
        with place.owned:
            endpoint, *keys = HEARD[name](place)
            server, client = (keys[1], keys[3]) if keys else (None, None)
            with subscribe(endpoint, server_key=server, client_key_file=client):
                assert told.wait(HEARD_S), caplog.messages
    finally:
        logging.getLogger("streamseg.client").removeHandler(heard)


def test_a_full_disk_is_told(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with full_disk(place) as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        (disk / "filler").write_bytes(bytes(60 << 10))
        words = ["process", str(place.clip()), "--out", str(disk / "out"), "--engine", str(place.engine)]
        text, code = said(words, capsys, monkeypatch)
    assert expected("a full disk").fullmatch(text), text
    assert str(code) == ROWS["a full disk"][1]


def test_missing_torch_is_told(
    place: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    text, code = said(["train", "--data", "x", "--out", "y"], capsys, monkeypatch)
    assert expected("no torch").fullmatch(text), text
    assert str(code) == ROWS["no torch"][1]
