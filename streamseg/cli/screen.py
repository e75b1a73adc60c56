"""Watching masks: on a terminal a table and thumbnails, redrawn in place; elsewhere lines of text."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import sys
import termios
import threading
import tty
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamseg.cli.answers import Answers, answer_text
from streamseg.cli.table import Row, label_set_of, line_of, table_of
from streamseg.cli.thumbnail import Thumbnail, fit, has_colours
from streamseg.client import Subscription
from streamseg.errors import visible
from streamseg.runtime.drawing import Console, safe_text
from streamseg.runtime.mailbox import Closed
from streamseg.runtime.terminal import echo

REFRESH_S = 0.25
LINE_EVERY_S = 1.0
NARROW = 72  # columns; a narrower terminal gets a narrower table
LEAST_THUMBNAIL = (12, 3)  # columns and rows; smaller ones are useless
GAP = 2
LOG_LINES = 4


def watch_masks(
    connect: Callable[[], Subscription],
    over: threading.Event,
    *,
    count: int | None = None,
    thumbnails: bool = True,
    note: Callable[[], str] = str,
    answers: Callable[[], Answers] | None = None,
) -> None:
    """Subscribe and show masks until `over` is set, q is pressed or `count` masks have come.

    note: what stands in the heading behind the endpoint. answers: gives zones and events to be shown, too.
    """
    console = Console()
    rows: dict[str, Row] = {}
    with connect() as masks, contextlib.ExitStack() as owned:
        counted = owned.enter_context(answers()) if answers is not None else None
        if not console.draws:
            _follow(masks, rows, over, count, LINE_EVERY_S, lambda: _print_lines(rows, counted))
            return
        with (
            _keys(sys.stdin) as pressed,
            _log_lines(sys.stderr) as logged,
            Live(console=console, auto_refresh=False, screen=True) as live,
        ):

            def show() -> None:
                if "q" in pressed():
                    over.set()
                live.update(
                    _screen(console, masks, rows, logged, note(), counted, thumbnails=thumbnails),
                    refresh=True,
                )

            show()
            _follow(masks, rows, over, count, REFRESH_S, show)


def _follow(
    masks: Subscription, rows: dict[str, Row], over: threading.Event, count: int | None, every_s: float,
    show: Callable[[], None],
) -> None:  # fmt: skip
    """Look for new masks a few times a second; masks that a newer one replaced meanwhile are skipped."""
    left = -1 if count is None else count
    while left and not over.wait(every_s):
        for _ in range(len(rows) + 16):
            try:
                mask = masks.read(timeout_s=0)
            except TimeoutError:
                break
            except Closed:
                return
            row = rows.setdefault(mask.stream, Row(mask))
            row.take(mask, label_set_of(mask, masks, timeout_s=0), masks.unchanged(mask.stream))
            left -= 1
            if not left:
                break
        show()


def _screen(
    console: Console,
    masks: Subscription,
    rows: dict[str, Row],
    logged: Sequence[str],
    note: str,
    counted: Answers | None,
    *,
    thumbnails: bool,
) -> RenderableType:
    """Everything that is shown, as much as fits in the terminal."""
    width, height = console.size
    lines = list(logged)[-LOG_LINES:] if height > 12 else []
    room = height - 1 - len(lines)  # without the heading
    shown = [rows[name] for name in sorted(rows)]
    listed = shown if len(shown) < room else shown[: max(1, room - 2)]
    parts: list[RenderableType] = [_heading(masks, rows, note, width)]
    if shown:
        parts.append(table_of(listed, coloured=has_colours(console), narrow=width < NARROW))
        room -= len(listed) + 1
    answers = counted.lines() if counted is not None else []
    for stream, text in answers[: max(0, room // 2)]:  # the other half is the thumbnails'
        line = answer_text(stream, text, coloured=has_colours(console))
        line.no_wrap, line.overflow = True, "ellipsis"
        parts.append(line)
        room -= 1
    if len(listed) < len(shown):
        parts.append(f"… and {len(shown) - len(listed)} more; choose some with --stream")
    elif thumbnails and shown:
        parts.append(_gallery(shown, width, room))
    parts += [safe_text(line, no_wrap=True, overflow="ellipsis", style="dim") for line in lines]
    return Group(*parts)


def _heading(masks: Subscription, rows: dict[str, Row], note: str, width: int) -> Text:
    state = "connected" if masks.connected else "waiting for the daemon …"
    if masks.connected and not rows:
        state = "connected, no mask yet …"
    text = visible(f"{masks.endpoint}  {state}")
    if note:
        text += f"  {note}"
    if masks.stats.lost:
        text += f", {masks.stats.lost} lost on the way"
    ends = "q ends"
    pad = max(1, width - len(text) - len(ends))
    return Text(text + " " * pad + ends, no_wrap=True, overflow="ellipsis", style="bold")


def _gallery(rows: Sequence[Row], width: int, height: int) -> RenderableType:
    """The thumbnails of as many streams as there is room for, as large as they can be."""
    for count in range(len(rows), 0, -1):
        across = max(range(1, count + 1), key=lambda c: _area(rows[:count], c, width, height))
        if _area(rows[:count], across, width, height) > 0:
            break
    else:
        return Text()
    cell_width, cell_height = _cell(count, across, width, height)
    grid = Table.grid(padding=(0, GAP, 0, 0))
    for at in range(0, count, across):
        cells = []
        for row in rows[at : min(count, at + across)]:
            columns, lines = fit(row.mask.size, cell_width, cell_height)
            name = safe_text(row.mask.stream[:columns], no_wrap=True)
            cells.append(Group(name, Thumbnail(row.mask.labels, row.label_set, columns, lines)))
        grid.add_row(*cells)
    return grid


def _cell(count: int, across: int, width: int, height: int) -> tuple[int, int]:
    """(columns, rows) for each of `count` thumbnails, `across` of them in a row, with names above."""
    return (width - GAP * across) // across, height // -(-count // across) - 1


def _area(rows: Sequence[Row], across: int, width: int, height: int) -> int:
    """Characters of the smallest thumbnail; 0 where there is no room."""
    columns, lines = _cell(len(rows), across, width, height)
    if columns < LEAST_THUMBNAIL[0] or lines < LEAST_THUMBNAIL[1]:
        return 0
    sizes = [fit(row.mask.size, columns, lines) for row in rows]
    return min(wide * high for wide, high in sizes)


def _print_lines(rows: dict[str, Row], counted: Answers | None) -> None:
    for name in sorted(rows):
        echo(line_of(rows[name]))
    for stream, text in counted.lines() if counted is not None else []:
        echo(f"{stream}: {text}")


@contextlib.contextmanager
def _keys(source: TextIO) -> Iterator[Callable[[], str]]:
    """Yield a function that returns the keys pressed; restores the terminal's settings afterwards."""
    try:
        fd = source.fileno()
        before = termios.tcgetattr(fd)
        in_front = os.tcgetpgrp(fd) == os.getpgrp()
    except (OSError, ValueError, termios.error):
        in_front = False
    if not in_front:  # no terminal, or we are in the background and must not touch it
        yield lambda: ""
        return

    def pressed() -> str:
        found = b""
        while select.select([fd], [], [], 0)[0]:
            more = os.read(fd, 64)
            if not more:
                break
            found += more
        return found.decode(errors="replace")

    tty.setcbreak(fd, termios.TCSANOW)  # keys that were pressed before count, too
    try:
        yield pressed
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _log_lines(errors: TextIO) -> Iterator[Sequence[str]]:
    """Keep log lines off the screen while it is drawn: yield them, and print them afterwards."""
    root = logging.getLogger()
    handlers = [h for h in root.handlers if isinstance(h, logging.StreamHandler) and h.stream is errors]
    if not errors.isatty() or not handlers:
        yield ()
        return
    kept = _Kept(handlers[0].formatter)
    for handler in handlers:
        root.removeHandler(handler)
    root.addHandler(kept)
    try:
        yield kept.lines
    finally:
        root.removeHandler(kept)
        for handler in handlers:
            root.addHandler(handler)
        for line in kept.lines:
            errors.write(line + "\n")


class _Kept(logging.Handler):
    """Keeps the last lines of the log."""

    def __init__(self, formatter: logging.Formatter | None) -> None:
        super().__init__()
        self.setFormatter(formatter)
        self.lines: deque[str] = deque(maxlen=50)

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(self.format(record))
