"""What is known of events after a daemon has ended, however it ended and whatever became of its file."""

from __future__ import annotations

import errno
import logging
import os
import random
import resource
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from streamseg.analytics import journal as module
from streamseg.analytics.events import EventMessage
from streamseg.analytics.journal import LOST, NAME, EventJournal
from streamseg.errors import OutputError
from streamseg.types import Stamp
from streamseg.wire import KEPT_EVENTS, parse_event

START_NS = 1_700_000_000_000_000_000


def message(state: Any, *, event: str = "flood", stream: str = "gate", **fields: Any) -> EventMessage:
    stamp = Stamp(stream, 0, 7, 70, Fraction(1, 10), START_NS, "arrival")
    why = "below" if state == "end" else ""
    made = EventMessage(
        event, "ramp", ("water",), state, why, False, 0.5, 0.75, START_NS - 9, START_NS, 3.0, 2.5, stamp
    )  # fmt: skip
    return replace(made, **fields)


def add(journal: EventJournal, *states: str, event: str = "flood", stream: str = "gate") -> list[int]:
    """Add messages one by one; their numbers."""
    messages = [message(state, event=event, stream=stream) for state in states]
    added = [one for each in messages for one in journal.add(stream, 5, [(each, "rule")])]
    return [one.document.event_n for one in added]


def kept(journal: EventJournal, stream: str = "gate") -> list[str]:
    return [f"{one.document.state} {one.document.event_n}" for one in journal.history(stream).kept()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def opened(folder: Path) -> Iterator[EventJournal]:
    with EventJournal(folder, holding(folder)) as journal:
        journal.open()
        yield journal


def holding(folder: Path) -> Callable[[], None]:
    return lambda: folder.mkdir(parents=True, exist_ok=True)


Again = Callable[[], EventJournal]


@pytest.fixture
def again(folder: Path) -> Iterator[Again]:
    """Opens what the next daemon reads, after the one before has ended."""
    journals: list[EventJournal] = []

    def start() -> EventJournal:
        while journals:
            journals.pop().close()
        journals.append(EventJournal(folder, holding(folder)))
        journals[0].open()
        return journals[0]

    yield start
    for journal in journals:
        journal.close()


def test_messages_are_numbered_and_name_the_begin_or_end_before_them(opened: EventJournal) -> None:
    assert add(opened, "begin", "update", "update", "end", "begin") == [0, 1, 2, 3, 4]
    documents = [one.document for one in opened.history("gate").kept()]
    assert [(d.state, d.event_n, d.previous_n) for d in documents] == [
        ("begin", 0, None), ("end", 3, 0), ("begin", 4, 3)
    ]  # fmt: skip
    first, second = f"{opened.id}-gate-0", f"{opened.id}-gate-4"
    assert [d.id for d in documents] == [first, first, second]
    assert add(opened, "begin", stream="yard") == [0]


def test_the_next_daemon_counts_on_and_knows_what_is_open(folder: Path, opened: EventJournal) -> None:
    add(opened, "begin", "end", "begin", "update", "update")
    parts = [one.parts for one in opened.history("gate").kept()]
    opened.close()
    with EventJournal(folder, holding(folder)) as later:
        assert later.exists()
        later.open()
        assert later.id == opened.id
        assert kept(later) == ["begin 0", "end 1", "begin 2", "update 4"]
        assert [one.parts for one in later.history("gate").kept()] == parts, "byte by byte"
        assert [(k.open, parse_event(k.parts).event_n) for k in later.history("gate").for_snapshots()] == [
            (False, 0), (False, 1), (True, 2), (True, 4)
        ]  # fmt: skip
        last = later.history("gate").last_of_each()["flood"]
        assert last.rule == "rule"
        before, wrote = last.before(), message("update")
        assert (before.state, before.value, before.peak, before.duration_s) == ("update", 0.5, 0.75, 2.5)
        assert (before.begun_unix_ns, before.stamp.pts) == (wrote.begun_unix_ns, 70)
        assert add(later, "end", "begin") == [5, 6]


def test_begins_and_ends_are_bounded_updates_count_for_nothing_and_the_open_ones_stay(
    opened: EventJournal,
) -> None:
    add(opened, "begin", event="old")
    for _ in range(400):
        add(opened, "begin", "update", "update", "end")
    history = opened.history("gate")
    assert len(history.kept()) == KEPT_EVENTS + 1
    assert kept(opened)[0] == "begin 0"
    assert history.for_snapshots()[0].open


def test_the_file_stays_small(
    again: Again, folder: Path, opened: EventJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLACK_BYTES", 4096)
    add(opened, "begin")
    for _ in range(300):
        add(opened, "update")
    assert (folder / NAME).stat().st_size < 8192
    opened.close()
    assert kept(again()) == ["begin 0", "update 300"]


@pytest.mark.parametrize("cut", [1, 5, 200])
def test_what_was_not_written_whole_was_never_sent(
    again: Again, folder: Path, opened: EventJournal, cut: int
) -> None:
    add(opened, "begin", "end", "begin")
    opened.close()
    data = (folder / NAME).read_bytes()
    (folder / NAME).write_bytes(data[:-cut])
    later = again()
    assert kept(later) == ["begin 0", "end 1"]
    assert later.id == opened.id
    assert add(later, "begin") == [2]


def test_a_write_that_was_cut_anywhere_leaves_a_prefix(
    again: Again, folder: Path, opened: EventJournal
) -> None:
    states = ["begin", "update", "end"] * 4
    add(opened, *states)
    opened.close()
    data, rng = (folder / NAME).read_bytes(), random.Random(4)
    for cut in [0, *(rng.randrange(len(data)) for _ in range(60))]:
        (folder / NAME).write_bytes(data[:cut])
        lasting = [text for text in kept(again()) if "update" not in text]
        assert (
            lasting
            == ["begin 0", "end 2", "begin 3", "end 5", "begin 6", "end 8", "begin 9", "end 11"][
                : len(lasting)
            ]
        )


@pytest.mark.parametrize("line", [0, 1, 3])
def test_a_damaged_file_is_set_aside_in_one_line_and_numbers_begin_again(
    again: Again, folder: Path, opened: EventJournal, caplog: pytest.LogCaptureFixture, line: int
) -> None:
    add(opened, "begin", "end", "begin")
    opened.close()
    lines = (folder / NAME).read_bytes().splitlines(keepends=True)
    lines[line] = lines[line].replace(b"0", b"1", 1)
    (folder / NAME).write_bytes(b"".join(lines))
    later = again()
    assert later.id != opened.id
    assert caplog.messages == [
        f"events: {folder / NAME}: 1 of 4 lines are damaged; it is set aside as events.journal.damaged, and "
        "numbers begin again"
    ]
    assert (folder / "events.journal.damaged").read_bytes() == b"".join(lines)
    whole = ["begin 0", "end 1", "begin 2"]
    assert kept(later) == whole if line == 0 else len(kept(later)) == 2, "what can be read is kept"
    assert add(later, "update") == [0]
    caplog.clear()
    assert again().id != opened.id
    assert caplog.messages == []


@pytest.mark.parametrize(
    "content", [b"garbage\n", b"\n\n\n", b"\x00" * 4096 + b"\n", b'00000000 {"version":1}\n']
)
def test_a_file_that_is_no_journal_is_set_aside(
    again: Again, folder: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    folder.mkdir()
    (folder / NAME).write_bytes(content)
    journal = again()
    assert len(caplog.messages) == 1
    assert journal.streams() == {}
    assert (folder / "events.journal.damaged").read_bytes() == content


def test_a_folder_that_another_daemon_holds_or_that_cannot_be_made_is_one_line(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = f"{folder}: is held by another daemon of the same configuration"

    def hold() -> None:
        if held:
            raise OutputError(held)
        folder.mkdir()

    with EventJournal(folder, hold) as journal:
        assert add(journal, "begin", "end") == [0, 1]
        assert kept(journal) == ["begin 0", "end 1"]
        assert caplog.messages == [f"events: {held}; {LOST}"]
        held = ""
        monkeypatch.setattr(journal, "_try_again_s", 0.5)
        assert add(journal, "begin") == [2]
    with EventJournal(folder) as later:
        later.open()
        assert kept(later) == ["begin 0", "end 1", "begin 2"]


def test_a_folder_in_the_files_place_is_one_line(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    (folder / NAME).mkdir(parents=True)
    with EventJournal(folder, holding(folder)) as journal:
        assert add(journal, "begin") == [0]
    assert len(caplog.messages) == 1
    assert "cannot be written (Is a directory)" in caplog.text


def test_a_full_disk_ends_no_event_and_gives_no_number_twice(
    again: Again,
    folder: Path,
    opened: EventJournal,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.INFO)
    add(opened, "begin")
    first = opened.id
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    size = (folder / NAME).stat().st_size
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, limits[1]))  # Python ignores SIGXFSZ
    try:
        assert add(opened, "end", "begin", "update") == [0, 1, 2]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (folder / NAME).stat().st_size == size, "nothing of what was sent under another number stays"
    second = opened.id
    assert second != first
    documents = [one.document for one in opened.history("gate").kept()]
    assert [(d.journal, d.event_n) for d in documents] == [(first, 0), (second, 0), (second, 1), (second, 2)]
    assert [d.previous_n for d in documents] == [None, None, 0, 1]
    assert documents[1].id == documents[0].id, "the event that was open is the one that ends"
    assert [
        line for line in caplog.messages if "cannot be written (File too large)" in line
    ] == caplog.messages
    assert len(caplog.messages) == 1
    monkeypatch.setattr(opened, "_try_again_s", 0.5)
    assert add(opened, "end") == [3]
    assert caplog.messages[1:] == [f"events: {folder / NAME}: is written again"]
    opened.close()
    assert kept(again()) == ["begin 0", "end 0", "begin 1", "end 3"]


def test_a_disk_that_does_not_sync_is_not_trusted(
    again: Again,
    folder: Path,
    opened: EventJournal,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(opened, "begin")

    def fails(_: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module.os, "fdatasync", fails)
    assert add(opened, "end") == [0]
    monkeypatch.undo()
    assert len(caplog.messages) == 1
    opened.close()
    assert kept(again()) == ["begin 0"]


def test_a_file_that_somebody_removes_is_made_again(again: Again, folder: Path, opened: EventJournal) -> None:
    add(opened, "begin")
    (folder / NAME).unlink()
    add(opened, "end")
    opened.close()
    assert kept(again()) == ["begin 0", "end 1"]


def test_streams_are_bounded_and_none_that_comes_back_has_a_number_again(
    again: Again, folder: Path, opened: EventJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MOST_STREAMS", 4)
    add(opened, "begin", stream="open")
    add(opened, *["begin", "end"] * 5, stream="first")
    for i in range(6):
        add(opened, "begin", "end", stream=f"s{i}")
    assert set(opened.streams()) == {"open", "s3", "s4", "s5"}
    assert add(opened, "begin", stream="first")[0] >= 10
    opened.close()
    monkeypatch.undo()
    assert add(again(), "begin", stream="s0") == [2], "the file has not been written anew"


def test_nothing_is_made_before_there_is_an_event(folder: Path) -> None:
    with EventJournal(folder) as journal:
        assert not journal.exists()
    assert not folder.exists()


def test_without_a_folder_all_is_in_memory() -> None:
    with EventJournal(None) as journal:
        journal.open()
        assert add(journal, "begin", "end") == [0, 1]


def test_an_event_that_no_message_may_carry_is_left_out(
    opened: EventJournal, caplog: pytest.LogCaptureFixture
) -> None:
    long = message("begin", classes=("ü" * 256,) * 200)
    assert (
        opened.add("gate", 5, [(long, "rule"), (message("begin", event="other"), "rule")])[0].document.event_n
        == 0
    )
    assert "gate: flood is not reported: event:" in caplog.text
