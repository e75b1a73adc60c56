"""What is said while files are processed: a bar on a terminal, a line for each file elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from streamseg.recorded import Event, Failed, Finished, Progressed, Started

SPEED_WINDOW_S = 2.0


class Report:
    """Turns the job's events into a bar and lines on standard error. One thread uses it."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[fps]}"),
            TimeRemainingColumn(),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
        )
        self._task = self._progress.add_task("opening", total=None, fps="")
        self._since = (0.0, 0)  # monotonic time and frames at the last look

    def event(self, event: Event) -> None:
        match event:
            case Started(name, frames, done, why):
                self._since = (time.monotonic(), done)
                self._progress.reset(self._task, total=frames, completed=done, description=name, fps="")
                if why:
                    self._line(f"{name}: {why}")
            case Progressed(_, done):
                self._at(done)
            case Finished():
                self._finished(event)
            case Failed(_, error):
                self._line(f"streamseg: {error}")

    def __enter__(self) -> Report:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def _at(self, done: int) -> None:
        now = time.monotonic()
        then, before = self._since
        if now - then >= SPEED_WINDOW_S:
            self._since = (now, done)
            self._progress.update(self._task, fps=f"{(done - before) / (now - then):.1f} fps")
        self._progress.update(self._task, completed=done)

    def _finished(self, event: Finished) -> None:
        manifest = event.manifest
        if event.again:
            self._line(f"{event.input}: finished already, {manifest.masks} masks → {event.path}")
            return
        self._line(f"{event.input}: {manifest.masks} masks in {event.took_s:.1f} s → {event.path}")
        if manifest.damage is not None:
            self._line(f"streamseg: {manifest.damage}; copy or record it again for the rest")

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
