"""The bar over all files: how many masks there will be, how fast they come, how long it takes."""

from __future__ import annotations

import io
from typing import Any

from streamseg.cli.report import Files, Report
from streamseg.errors import SourceError
from streamseg.recorded import Failed, Finished, Planned, Progressed, Started
from streamseg.runtime.drawing import Console


class Done:
    """The part of a manifest that is shown."""

    masks = 100
    sound: str | None = None

    def problems(self) -> list[str]:
        return []


def finished(name: str, again: bool = False) -> Finished:
    manifest: Any = Done()
    return Finished(name, manifest, f"out/{name}.manifest.json", 2.0, again)


def test_files_to_come_are_taken_as_long_as_those_begun() -> None:
    files = Files()
    files.event(Planned(("a", "b", "c", "d")))
    assert files.expected() is None
    files.event(Started("a", 100, 40, "goes on"))
    assert (files.done(), files.expected()) == (40, 400)
    files.event(Progressed("a", 100))
    files.event(finished("a"))
    files.event(finished("b", again=True))
    files.event(Failed("c", SourceError("c: no such file")))
    assert (files.done(), files.made, files.expected()) == (100, 60, 200)
    files.event(Started("d", 50, 0, ""))
    assert files.expected() == 150
    assert files.described() == "3 of 4 files d"


def test_two_files_at_once_are_told_apart() -> None:
    files = Files()
    files.event(Planned(("a", "b")))
    files.event(Started("a", 10, 0, ""))
    files.event(Started("b", 30, 0, ""))
    files.event(Progressed("a", 6))
    files.event(Progressed("b", 12))
    assert (files.done(), files.expected()) == (18, 40)


def test_a_length_that_nobody_knows_is_not_guessed() -> None:
    files = Files()
    files.event(Planned(("a",)))
    files.event(Started("a", None, 0, ""))
    assert files.expected() is None
    assert files.described() == "a"


def test_the_bar_shows_pace_and_time_left_and_each_file_gets_a_line() -> None:
    now = [100.0]
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120, color_system=None)
    with Report(console, clock=lambda: now[0]) as report:
        report.event(Planned(("a.mp4", "b.mp4")))
        report.event(Started("a.mp4", 100, 0, ""))
        for done in range(1, 101):
            now[0] += 0.1
            report.event(Progressed("a.mp4", done))
        report._progress.refresh()
        report.event(finished("a.mp4"))
    shown = text.getvalue()
    assert "10.0 fps, 0:00:10 left" in shown
    assert "100/200" in shown
    assert "a.mp4: 100 masks in 2.0 s → out/a.mp4.manifest.json" in shown


def test_without_a_terminal_a_line_comes_each_ten_seconds() -> None:
    now = [100.0]
    text = io.StringIO()
    console = Console(file=text, force_terminal=False, width=120, color_system=None)
    with Report(console, clock=lambda: now[0]) as report:
        report.event(Planned(("a.mp4",), ("in/notes.txt: left out, no video",)))
        report.event(Started("a.mp4", 350, 0, ""))
        for done in range(1, 351):
            now[0] += 0.1
            report.event(Progressed("a.mp4", done))
        report.event(finished("a.mp4"))
    left_out, *lines, last = text.getvalue().splitlines()
    assert left_out == "in/notes.txt: left out, no video"
    assert [line.partition(" of ")[0][:-1] for line in lines] == ["a.mp4: 10", "a.mp4: 20", "a.mp4: 30"]
    assert lines[0].endswith(" of 350 masks, 10.0 fps, 0:00:25 left")
    assert last.startswith("a.mp4: 100 masks in 2.0 s")


def test_a_length_that_nobody_knows_still_gives_lines() -> None:
    now = [0.0]
    text = io.StringIO()
    with Report(Console(file=text, force_terminal=False), clock=lambda: now[0]) as report:
        report.event(Planned(("a", "b")))
        report.event(Started("a", None, 0, ""))
        report.event(Progressed("a", 1))
        now[0] = 6.0
        report.event(Progressed("a", 31))
        now[0] = 11.0
        report.event(Progressed("a", 56))
    assert text.getvalue() == "0 of 2 files a: 56 of ? masks, 5.0 fps\n"
