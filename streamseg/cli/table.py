"""The watched streams, as a table or as lines of text."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from rich.table import Table
from rich.text import Text

from streamseg.cli.thumbnail import letter_of
from streamseg.client import Subscription
from streamseg.errors import visible
from streamseg.types import IGNORE, LabelSet, Mask

SHOWN_SHARE = 0.005  # classes with less of the picture are left out
SILENT_S = 2.0  # a stream without a new mask for this long is shown as silent
FPS_WINDOW_S = 5.0
SHORTEST_S = 0.1  # between two masks that a rate is made of: a snapshot and the first mask come together


@dataclass(slots=True)
class Row:
    """A stream's newest mask, and how fast its masks are published."""

    mask: Mask
    label_set: LabelSet | None = None
    came_s: float = 0.0  # when the newest came, monotonic
    _seen: deque[tuple[float, int]] = field(default_factory=deque)  # (monotonic s, n and unchanged frames)

    def take(self, mask: Mask, label_set: LabelSet | None, unchanged: int = 0) -> None:
        """unchanged: how many frames of the stream have come that an earlier mask holds for."""
        now_s = time.monotonic()
        if mask.run != self.mask.run:
            self._seen.clear()
        self._seen.append((now_s, mask.n + unchanged))
        while now_s - self._seen[0][0] > FPS_WINDOW_S:
            self._seen.popleft()
        self.mask, self.label_set, self.came_s = mask, label_set or self.label_set, now_s

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self.came_s

    @property
    def fps(self) -> float:
        """Masks and unchanged frames a second, by their numbers: those that we did not read count, too."""
        if len(self._seen) < 2 or self.silent_s > SILENT_S:
            return 0.0
        (first_s, first), (last_s, last) = self._seen[0], self._seen[-1]
        return (last - first) / (last_s - first_s) if last_s - first_s > SHORTEST_S else 0.0

    @property
    def age(self) -> str:
        if self.silent_s > SILENT_S:
            return f"silent {self.silent_s:.0f} s"
        return f"{Subscription.age_s(self.mask) * 1000:.0f} ms"


def table_of(rows: Iterable[Row], *, coloured: bool, narrow: bool) -> Table:
    """A line for each stream; narrow leaves out the least important columns."""
    table = Table(box=None, padding=(0, 1, 0, 0), expand=True)
    table.add_column("stream", no_wrap=True, overflow="ellipsis", max_width=12 if narrow else 24)
    if not narrow:
        table.add_column("frame", justify="right", no_wrap=True)
    table.add_column("age", justify="right", no_wrap=True)
    table.add_column("fps", justify="right", no_wrap=True)
    table.add_column("classes", no_wrap=True, overflow="ellipsis", ratio=1)
    for row in rows:
        age = Text(row.age, "bold red" if row.silent_s > SILENT_S else "")
        frame = [] if narrow else [str(row.mask.seq)]
        table.add_row(row.mask.stream, *frame, age, f"{row.fps:.1f}", _shares(row, coloured=coloured))
    return table


def line_of(row: Row) -> str:
    """The same in one line of plain text."""
    shares = ", ".join(f"{label} {share:.0%}" for label, share, *_ in class_shares(row.mask, row.label_set))
    age = row.age if row.silent_s > SILENT_S else f"{row.age} old"
    same = "" if row.mask.same_as is None else ", unchanged"
    return f"{row.mask.stream}: frame {row.mask.seq}, {age}, {row.fps:.1f} fps{same}: {shares}"


def label_set_of(mask: Mask, masks: Subscription, timeout_s: float = 1.0) -> LabelSet | None:
    """The classes of a mask, None while they have not come."""
    try:
        return masks.label_set(mask.label_set, timeout_s)
    except TimeoutError:
        return None


def class_shares(mask: Mask, labels: LabelSet | None) -> list[tuple[str, float, tuple[int, int, int], int]]:
    """(name, share of the picture, colour, label) of a mask's classes, largest first, without tiny ones."""
    counts = np.bincount(mask.labels.ravel(), minlength=256) / mask.labels.size
    found = []
    for i in map(int, np.argsort(-counts, kind="stable")):
        if counts[i] < SHOWN_SHARE:
            break
        info = labels.classes[i] if labels is not None and i < len(labels.classes) else None
        name = info.name if info else "unknown" if i == IGNORE else f"class {i}"
        found.append((name, float(counts[i]), info.colour if info else (128, 128, 128), i))
    return found


def _shares(row: Row, *, coloured: bool) -> Text:
    parts: list[tuple[str, str] | str] = []
    if row.mask.same_as is not None:
        parts.append(("unchanged  ", "dim"))
    for name, share, (red, green, blue), label in class_shares(row.mask, row.label_set):
        parts.append(("■ ", f"rgb({red},{green},{blue})") if coloured else f"{letter_of(label)}=")
        parts.append(f"{visible(name)} {share:.0%}  ")
    return Text.assemble(*parts)
