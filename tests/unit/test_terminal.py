"""Text of others that is printed, drawn or logged: one line, and no command to the terminal."""

from __future__ import annotations

import ast
import io
import json
import logging
import os
import pickle
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.progress import Progress, TextColumn
from rich.table import Table

import streamseg
from streamseg.cli.table import Row, line_of, table_of
from streamseg.errors import ConfigError, ControlError, StreamsegError, one_line, visible
from streamseg.runtime.drawing import Console, safe_text
from streamseg.runtime.log import LineFormatter, hide_secrets_of_tracebacks
from streamseg.runtime.terminal import echo, echo_document
from streamseg.types import ClassInfo, LabelSet
from tests.integration.children import ROOT
from tests.masks import make_mask

HOSTILE = {
    "title": "\x1b]0;taken\x07",
    "clear, as one character": "\x9b2J",
    "line": "\nERROR gate: forged",
    "carriage return": "road\rcar",
    "separator of lines": "a\u2028b\u2029c\x85d",
    "backwards": "\u202egnp.exe\u2066",
    "half of a pair": "\udc9b0m",
    "deleted": "a\x7f\x08b",
    "priority of the journal": "\n<0>forged",
}


def is_harmless(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_text_of_others_is_one_line_that_moves_no_cursor(text: str) -> None:
    assert visible(text).isprintable()
    assert json.loads(f'"{visible(text)}"') == text
    assert visible("Straße, 道路 → 3 °C") == "Straße, 道路 → 3 °C"


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_errors_show_it_so_and_keep_one_line_for_each_problem(text: str) -> None:
    assert str(StreamsegError(f"gate: {text}")).isprintable()
    assert one_line(f"gate: {text}").isprintable()
    for error in (ConfigError(f"a: {text}", "b"), ControlError("failed", f"a: {text}", "b")):
        assert str(error).split("\n") == [f"a: {visible(text)}", "b"]
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.problems) == (str(error), error.problems)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_record_is_one_line_and_the_lines_of_a_traceback_begin_with_blanks(text: str) -> None:
    try:
        raise ValueError(text)
    except ValueError:
        failed = sys.exc_info()
    record = logging.LogRecord("x", logging.WARNING, "x.py", 1, "%s: gone", (text,), None)
    assert LineFormatter().format(record) == f"WARN  {visible(text)}: gone"
    assert LineFormatter(times=True).format(record)[:2] == "20"
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "%s: gone", (text,), failed)
    first, *others = LineFormatter().format(record).split("\n")
    assert first == f"ERROR {visible(text)}: gone"
    assert len(others) > 2
    assert all(line.startswith("  ") and line.isprintable() for line in others)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_an_error_that_nobody_caught_forges_no_line_either(
    text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.__excepthook__)
    hide_secrets_of_tracebacks()
    sys.excepthook(ValueError, ValueError(text), None)
    first, *others = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert first.startswith("ValueError: ")
    assert is_harmless("\n".join([first, *others]))
    assert all(line.startswith("  ") for line in others)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_what_is_printed_and_drawn_is_safe_however_it_got_there(
    text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    echo(f"found {text}", "and more")
    assert capsys.readouterr().out == f"found {visible(text)}\nand more\n"
    echo_document(json.dumps({"error": text}, ensure_ascii=False, indent=1))
    document = capsys.readouterr().out
    assert is_harmless(document)
    assert json.loads(document) == {"error": text}

    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    table = Table("name", "state")
    table.add_row(text, safe_text(text))
    console.print(table)
    console.print(text)
    with Progress(TextColumn("{task.description}"), console=console) as bar:  # laid out by rich alone
        bar.add_task(f"file {text}")
    drawn = console.file.getvalue()  # type: ignore[attr-defined]
    commands = ("\x1b[?25l", "\x1b[?25h", "\x1b[2K", "\r", "\x1b[1A", "\x1b[1m", "\x1b[0m")  # of rich
    for command in commands:
        drawn = drawn.replace(command, "")
    assert is_harmless(drawn)


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_names_of_classes_are_shown_as_safely_in_the_table_as_in_a_line(text: str) -> None:
    row = Row(make_mask(0), LabelSet("street3", tuple(ClassInfo(text, (1, 2, 3)) for _ in range(3))))
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(table_of([row], coloured=False, narrow=False))
    assert is_harmless(console.file.getvalue())  # type: ignore[attr-defined]
    assert visible(text) in line_of(row).replace(text, visible(text))


def test_brackets_in_text_are_no_markup() -> None:
    console = Console(file=io.StringIO(), width=80)
    console.print("rtsp://[fe80::1]/x :smile:")
    assert console.file.getvalue() == "rtsp://[fe80::1]/x :smile:\n"  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("env", "size", "draws"),
    [
        ({"TERM": "xterm"}, (24, 80), True),
        ({"TERM": "xterm", "NO_COLOR": "1"}, (24, 80), True),  # in letters
        ({"TERM": "dumb"}, (24, 80), False),
        ({"TERM": "unknown"}, (24, 80), False),
        ({}, (24, 80), False),
        ({"TERM": "xterm"}, (24, 20), False),
        ({"TERM": "xterm"}, (2, 80), False),
        ({"TERM": "xterm", "LC_ALL": "C"}, (24, 80), False),
        ({"TERM": "xterm", "LC_ALL": "POSIX"}, (24, 80), False),
        ({"TERM": "xterm", "PYTHONIOENCODING": "latin-1"}, (24, 80), False),
    ],
)
def test_lines_are_printed_where_a_terminal_cannot_be_drawn_on(
    env: dict[str, str], size: tuple[int, int], draws: bool
) -> None:
    code = (
        "from streamseg.runtime import drawing, terminal\n"
        "terminal.write_only_what_can_be_shown()\n"
        "terminal.echo(f'{drawing.Console().draws} Ä…')"
    )
    ours, theirs = pty.openpty()
    os.set_blocking(ours, True)
    _set_size(theirs, size)
    keep = {
        k: os.environ[k] for k in ("PATH", "PYTHONPATH", "HOME", "PYTHONPYCACHEPREFIX") if k in os.environ
    }
    subprocess.run([sys.executable, "-c", code], stdout=theirs, env=keep | env, check=True, cwd=ROOT)
    said = os.read(ours, 1000).decode(errors="replace")
    os.close(ours)
    os.close(theirs)
    assert said.startswith(str(draws))
    if "LC_ALL" in env:
        assert "\\xc4\\u2026" in said


def test_a_pipe_gets_lines_even_where_colours_are_forced() -> None:
    code = "from streamseg.runtime.drawing import Console\nprint(Console().draws)"
    env = os.environ | {"FORCE_COLOR": "1", "TTY_COMPATIBLE": "1", "TERM": "xterm"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=True, cwd=ROOT)
    assert done.stdout == b"False\n"


def test_nothing_is_printed_or_drawn_another_way() -> None:
    """Whoever prints uses runtime/terminal.py, whoever draws runtime/drawing.py."""
    passes = {"runtime/terminal.py", "runtime/drawing.py"}
    # Not for people: what processes of ours tell each other, and a file.
    between = {
        "bench/pipeline.py",
        "training/kernels.py",
        "web/__main__.py",
        "config/reference.py",
        "forward/reference.py",
    }
    package = Path(streamseg.__file__).parent
    found = [
        f"{name}: {what}"
        for path in sorted(package.rglob("*.py"))
        if (name := str(path.relative_to(package))) not in passes | between
        for what in _other_ways(ast.parse(path.read_text("utf-8")))
    ]
    assert found == []


def _other_ways(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "rich.console":
            yield from (f"imports {a.name}" for a in node.names if a.name == "Console")
        if isinstance(node, ast.Name) and node.id == "print":
            yield "print"
        if isinstance(node, ast.Attribute) and node.attr in ("echo", "secho"):
            yield f"{ast.unparse(node)}"


def _set_size(terminal: int, size: tuple[int, int]) -> None:
    import fcntl
    import struct
    import termios

    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
