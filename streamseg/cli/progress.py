"""A progress bar on a terminal, a line or nothing elsewhere."""

from __future__ import annotations

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamseg.runtime.drawing import Console
from streamseg.runtime.terminal import echo


class Bar:
    """A bar on standard error; at(done, of) moves it. Where none can be drawn: `line`, once."""

    def __init__(self, what: str, line: str = "") -> None:
        console = Console(stderr=True)
        self._line = "" if console.draws else line
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.draws,
        )
        self._task = self._progress.add_task(what, total=None)

    def at(self, done: int, of: int | None) -> None:
        self._progress.update(self._task, completed=done, total=of)

    def __enter__(self) -> Bar:
        if self._line:
            echo(self._line, err=True)
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
