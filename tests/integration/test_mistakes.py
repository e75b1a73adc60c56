"""Each row of operating.md's tables of mistakes is what is really said when the mistake is made."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path

import pytest

from streamseg.client import subscribe
from tests.integration import forward_mistakes, import_mistakes, label_mistakes, teacher_mistakes  # MISTAKES
from tests.integration.children import ROOT
from tests.integration.command import Command, Ended, streamseg
from tests.integration.forward_mistakes import FORWARD_HEARD
from tests.integration.mistakes import HEARD, MACHINE, MISTAKES, SAID, Place, full_disk
from tests.waiting import LIMIT_S, until

__all__ = ["forward_mistakes", "import_mistakes", "label_mistakes", "streamseg", "teacher_mistakes"]

OPERATING = (ROOT / "docs/operating.md").read_text("utf-8").partition("## When something is wrong")[2]
ROWS = {
    name: (said, code)
    for name, said, code in re.findall(r"^\| ([^|`]+) \| `(.+)` \| (1|2|goes on) \|$", OPERATING, re.M)
}


def expected(name: str) -> re.Pattern[str]:
    """What the table says, with … for anything."""
    return re.compile(".*?".join(map(re.escape, ROWS[name][0].split("…"))))


@pytest.fixture
def place(tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path, tiny_engine)


def assert_told(name: str, ended: Ended) -> None:
    """The line on standard error and the exit code are those of the table's row."""
    (line,) = [line for line in ended.err.splitlines() if line.startswith("streamseg: ")]
    assert expected(name).fullmatch(line.removeprefix("streamseg: ")), line
    assert str(ended.code) == ROWS[name][1]


def test_the_tables_have_a_row_for_each_mistake() -> None:
    assert set(ROWS) == {*MISTAKES, *SAID, *HEARD, *FORWARD_HEARD, *MACHINE, "a full disk", "no torch"}
    assert len(ROWS) >= 30


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_as_the_table_says(name: str, place: Place, streamseg: Command) -> None:
    with place.owned:
        assert_told(name, streamseg(*MISTAKES[name](place)))


@pytest.mark.parametrize("name", SAID)
def test_what_no_machine_here_can_show_has_the_words_of_the_table(name: str, place: Place) -> None:
    assert expected(name).fullmatch(SAID[name](place))


@pytest.mark.parametrize("name", HEARD)
def test_a_subscriber_that_cannot_be_served_is_told_why(
    name: str, place: Place, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.client.receiver.LOG_AFTER_S", 0.5)
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
                assert told.wait(LIMIT_S), caplog.messages
    finally:
        logging.getLogger("streamseg.client").removeHandler(heard)


@pytest.mark.parametrize("name", FORWARD_HEARD)
def test_a_place_that_cannot_be_reached_is_told_once_and_tried_again(
    name: str, place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    from streamseg.forward import Forwarder
    from streamseg.forward.settings import load_forward_config

    def told() -> list[str]:
        return [text for text in caplog.messages if expected(name).fullmatch(text)]

    with place.owned:
        words = FORWARD_HEARD[name](place)
        forwarder = Forwarder(load_forward_config(place.folder / words[-1]))
        thread = threading.Thread(target=forwarder.run, daemon=True)
        thread.start()
        until(told, lambda: caplog.messages)
        forwarder.stop()
        thread.join(LIMIT_S)
    assert len(told()) == 1


def test_a_full_disk_is_told(place: Place, streamseg: Command) -> None:
    with full_disk(place) as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        (disk / "filler").write_bytes(bytes(60 << 10))
        words = ["process", str(place.clip()), "--out", str(disk / "out"), "--engine", str(place.engine)]
        assert_told("a full disk", streamseg(*words))


def test_missing_torch_is_told(streamseg: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *a: None if name == "torch" else find(name, *a)
    )
    assert_told("no torch", streamseg("train", "--data", "x", "--out", "y"))
