"""Progress while files are processed: a bar over all of them on a terminal, and a line for each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from datetime import timedelta

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from streamseg.recorded import Event, Failed, Finished, Planned, Progressed, Started
from streamseg.runtime.drawing import Console, safe_text

WINDOW_S = 10.0
LOOKS_S = 0.25
LINE_S = 10.0
"""Between two lines of progress where there is no terminal for a bar."""

MOST_LEFT_OUT = 100
"""Lines for what a folder holds besides videos."""


class Report:
    """Turns the job's events into a bar and lines on standard error. One thread uses it."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self.clock = console or Console(stderr=True), clock
        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[pace]}"),
            console=self.console,
            transient=True,
            disable=not self.console.draws,
        )
        self._task = self._progress.add_task("opening", total=None, pace="")
        self._files = Files()
        self._looks: deque[tuple[float, int]] = deque()  # time, and masks made by then
        self._line_due = self.clock() + LINE_S

    def event(self, event: Event) -> None:
        self._files.event(event)
        match event:
            case Planned(_, left_out):
                for line in left_out[:MOST_LEFT_OUT]:
                    self._line(line)
                if len(left_out) > MOST_LEFT_OUT:
                    self._line(f"{len(left_out) - MOST_LEFT_OUT} more files are left out")
            case Started(name, _, _, why) if why:
                self._line(f"{name}: {why}")
            case Finished():
                self._finished(event)
            case Failed(_, error):
                self._line(f"streamseg: {error}")
        now = self.clock()
        if not isinstance(event, Progressed) or not self._looks or now - self._looks[-1][0] >= LOOKS_S:
            self._look(now)

    def __enter__(self) -> Report:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _look(self, now: float) -> None:
        files, looks = self._files, self._looks
        looks.append((now, files.made))
        while looks[0][0] < now - WINDOW_S:
            looks.popleft()
        then, before = looks[0]
        fps = (files.made - before) / (now - then) if now > then else 0.0
        total, pace = files.expected(), ""
        if fps:
            pace = f"{fps:.1f} fps"
            if total is not None:
                left = timedelta(seconds=round(max(0, total - files.done()) / fps))
                pace += f", {left} left"
        self._progress.update(
            self._task, description=files.described(), completed=files.done(), total=total, pace=pace
        )
        if not self.console.draws and now >= self._line_due:
            self._line_due = now + LINE_S
            self._line(f"{files.described()}: {files.done()} of {total or '?'} masks, {pace or '0 fps'}")

    def _finished(self, event: Finished) -> None:
        manifest = event.manifest
        made = f"{manifest.masks} masks in {event.took_s:.1f} s"
        if event.again:
            made = f"already finished, {manifest.masks} masks"
        self._line(f"{event.input}: {made} → {event.path}")
        if manifest.sound is not None and "left out" in manifest.sound and not event.again:
            self._line(f"{event.input}: sound: {manifest.sound}")
        for problem in manifest.problems():
            self._line(f"streamseg: {problem}")

    def _line(self, text: str) -> None:
        self.console.print(safe_text(text), soft_wrap=True)


class Files:
    """How far all files are. What was finished before, and what cannot be read, does not count."""

    def __init__(self) -> None:
        self.made = 0  # masks in this run
        self._count = 1
        self._closed = 0
        self._left = 1  # files that have not started
        self._masks: dict[str, int] = {}
        self._wanted: dict[str, int | None] = {}

    def event(self, event: Event) -> None:
        match event:
            case Planned(inputs):
                self._count = self._left = len(inputs)
            case Started(name, frames, done, _):
                self._left -= 1
                self._masks[name], self._wanted[name] = done, frames
            case Progressed(name, done):
                self.made += done - self._masks[name]
                self._masks[name] = done
            case Finished(name) | Failed(name):
                self._closed += 1
                if name in self._masks:
                    self._wanted[name] = self._masks[name]
                else:
                    self._left -= 1

    def done(self) -> int:
        return sum(self._masks.values())

    def expected(self) -> int | None:
        """Masks of all files, those to come taken as long as the mean of those started; None: unknown."""
        known = [n for n in self._wanted.values() if n is not None]
        if not known or len(known) < len(self._wanted):
            return None
        return max(self.done(), round(sum(known) / len(known) * (len(known) + self._left)))

    def described(self) -> str:
        running = [name for name, wanted in self._wanted.items() if wanted != self._masks[name]]
        name = running[-1] if running else ""
        return name if self._count == 1 else f"{self._closed} of {self._count} files {name}"
