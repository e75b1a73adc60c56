"""Zones that were set while the daemon ran: what is kept of them, and when the configuration counts."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from streamseg.config import Config, StreamConfig, build_settings
from streamseg.config.tables import AnswerTables, tables_of
from streamseg.daemon.kept_zones import FILE, KeptZones
from streamseg.daemon.state import StateFolder
from streamseg.errors import ControlError, OutputError

DRAWN = AnswerTables({"drawn": {"polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]}}, {})
OTHER = AnswerTables({"other": {"polygon": [[0.0, 0.0], [0.5, 0.0], [1.0, 1.0]]}}, {})


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "streamseg"


def configured(tables: AnswerTables | None = None) -> dict[str, StreamConfig]:
    more: dict[str, Any] = {} if tables is None else {"zones": tables.zones, "events": tables.events}
    return build_settings(Config, {"streams": {"gate": {"source": "demo:", **more}}}).streams


@contextmanager
def a_run(tables: AnswerTables | None = None) -> Iterator[tuple[KeptZones, AnswerTables]]:
    """A daemon's life: what it keeps, and the zones that it begins with."""
    state = StateFolder(Path("/etc/site.toml"), [])
    kept = KeptZones(state)
    begun = tables_of(kept.over(configured(tables))["gate"])
    yield kept, begun
    state.close()


def test_what_was_set_is_there_after_a_restart_until_the_configuration_changes(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    with a_run() as (kept, begun):
        assert begun == AnswerTables()
        kept.keep("gate", DRAWN)
    for _ in range(2):
        with a_run() as (kept, begun):
            assert begun == DRAWN
            assert kept.kept("gate")
    assert "streamseg ctl zones gate --export" in caplog.text
    with a_run(OTHER) as (kept, begun):  # somebody wrote others into the file
        assert begun == OTHER
        assert not kept.kept("gate")
    assert "the configuration's count" in caplog.text
    with a_run() as (_, begun):
        assert begun == AnswerTables()


def test_what_was_exported_into_the_configuration_is_its_own_from_then_on() -> None:
    with a_run() as (kept, _):
        kept.keep("gate", DRAWN)
    with a_run(DRAWN) as (kept, begun):
        assert begun == DRAWN
        assert not kept.kept("gate")
    with a_run() as (_, begun):  # and goes when it is taken out of it
        assert begun == AnswerTables()


def test_that_all_zones_were_removed_is_kept_too() -> None:
    with a_run(OTHER) as (kept, _):
        kept.keep("gate", AnswerTables())
    with a_run(OTHER) as (kept, begun):
        assert begun == AnswerTables()
        assert kept.kept("gate")
        kept.keep("gate", OTHER)  # as in the configuration: nothing is to be kept
        assert not kept.kept("gate")


def test_a_removed_stream_takes_its_zones_along() -> None:
    with a_run() as (kept, _):
        kept.keep("gate", DRAWN)
        kept.forget("gate")
    with a_run() as (_, begun):
        assert begun == AnswerTables()


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"version": 2}', b"\xff", b"[" * 5000, b'{"streams": {"gate": 1}}']
)
def test_a_damaged_file_costs_the_drawn_zones_and_a_line_in_the_log(
    content: bytes, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with a_run() as (kept, _):
        kept.keep("gate", DRAWN)
    (path,) = place.glob(f"*/{FILE}")
    path.write_bytes(content)
    with a_run() as (kept, begun):
        assert begun == AnswerTables()
        kept.keep("gate", OTHER)
    assert caplog.text.count("cannot be read") == (0 if content == b'{"version": 1}' else 1)
    with a_run() as (_, begun):
        assert begun == OTHER


def test_kept_zones_that_are_wrong_now_are_named_and_left_out(
    place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with a_run() as (kept, _):
        kept.keep("gate", AnswerTables({"drawn": {"polygon": [[0.0, 7.0]]}}, {}))
    with a_run() as (_, begun):
        assert begun == AnswerTables()
    assert "gate: kept zones and events cannot be used: streams.gate.zones.drawn.polygon" in caplog.text


def test_where_nothing_can_be_kept_the_request_fails_and_nothing_has_changed(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.parent.mkdir()
    place.write_text("a file in the way")
    with a_run() as (kept, _):
        with pytest.raises(ControlError, match=r"zones cannot be kept: .*site-.*cannot be written"):
            kept.keep("gate", DRAWN)
        assert not kept.kept("gate")
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setattr(Path, "home", lambda: (_ for _ in ()).throw(RuntimeError("no home")))
    with pytest.raises(OutputError, match="no home folder"):
        StateFolder(None, ["demo:"]).hold()


def test_two_daemons_of_one_configuration_do_not_share_a_folder() -> None:
    one, same = StateFolder(Path("/etc/site.toml"), []), StateFolder(Path("/etc/site.toml"), [])
    other = StateFolder(None, ["demo:"])
    one.hold()
    one.hold()
    with pytest.raises(OutputError, match="held by another daemon"):
        same.hold()
    assert other.hold() != one.path
    one.close()
    one.close()
    assert same.hold() == one.path
    same.close()
    other.close()


def test_under_systemd_the_folder_is_the_units(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "site"))
    state = StateFolder(Path("/etc/streamseg/site.toml"), [])
    assert state.hold() == tmp_path / "site"
    state.close()
