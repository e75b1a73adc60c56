"""The log of a run: one line of JSON per epoch, a plot of them, and progress on the terminal."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import msgspec
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from streamseg.errors import TrainingError
from streamseg.evaluation import Scores
from streamseg.evaluation.metrics import shown
from streamseg.runtime.drawing import Console
from streamseg.runtime.files import write_file
from streamseg.training.plot import plot_curves

logger = logging.getLogger(__name__)

ETA_OVER_EPOCHS = 10


class EpochEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One line of log.jsonl."""

    epoch: int
    loss: float
    learning_rate: float
    seconds: float
    scores: Scores | None = None


def write_log(out: Path, history: list[EpochEntry]) -> None:
    """Write log.jsonl, and its plot log.png after an evaluation."""
    write_file(out / "log.jsonl", msgspec.json.Encoder().encode_lines(history))
    if history[-1].scores is not None or len(history) <= 2:
        evaluated = [(e.epoch, e.scores.miou) for e in history if e.scores and e.scores.miou is not None]
        plot_curves(out / "log.png", [(e.epoch, e.loss) for e in history], evaluated)


def read_log(out: Path) -> list[EpochEntry]:
    path = out / "log.jsonl"
    try:
        return msgspec.json.Decoder(EpochEntry).decode_lines(path.read_bytes()) if path.exists() else []
    except msgspec.DecodeError as error:
        raise TrainingError(f"{path}: {error}") from error


class RunProgress:
    """A progress bar with ETA on a terminal; elsewhere one log line for each epoch."""

    def __init__(self, epochs: int, first: int, steps: int) -> None:
        self._epochs, self._first, self._steps = epochs, first, steps
        self._recent: list[float] = []
        self._last = time.monotonic()
        console = Console(stderr=True)
        self._bar = (
            Progress(
                TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
                TextColumn("{task.fields[eta]}"), console=console,
            )
            if console.draws
            else None
        )  # fmt: skip
        if self._bar is not None:
            self._task = self._bar.add_task("training", total=epochs * steps, completed=first * steps, eta="")

    def __enter__(self) -> RunProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, epoch: int, step: int) -> None:
        if self._bar is not None:
            self._bar.update(self._task, completed=epoch * self._steps + step)

    def epoch(self, entry: EpochEntry) -> None:
        now = time.monotonic()
        self._recent = [*self._recent, now - self._last][-ETA_OVER_EPOCHS:]
        self._last = now
        left_s = (self._epochs - entry.epoch) * sum(self._recent) / len(self._recent)
        eta = f"{_clock(left_s)} left"
        text = f"epoch {entry.epoch}/{self._epochs}: loss {entry.loss:.4f}"
        if entry.scores is not None:
            miou, accuracy = entry.scores.miou, entry.scores.pixel_accuracy
            text += f", val mIoU {shown(miou)}, pixel accuracy {shown(accuracy)}"
        if self._bar is None:
            logger.info("%s, %.1f s, %s", text, entry.seconds, eta)
        else:
            self._bar.update(self._task, description=f"loss {entry.loss:.4f}", eta=eta)
            if entry.scores is not None:
                self._bar.print(text)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours:.0f}:{minutes:02.0f}:{seconds:02.0f}"
