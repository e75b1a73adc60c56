"""A live table of arriving masks: on a terminal redrawn in place, elsewhere a line a second a stream."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import click
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from streamseg.client import Subscription
from streamseg.types import LabelSet, Mask

REFRESH_S = 0.25
LINE_EVERY_S = 1.0
SHOWN_SHARE = 0.005  # classes with less of the picture are left out


@dataclass(slots=True)
class _Row:
    mask: Mask
    arrived_s: deque[float] = field(default_factory=lambda: deque(maxlen=60))

    @property
    def fps(self) -> float:
        span_s = self.arrived_s[-1] - self.arrived_s[0]
        return (len(self.arrived_s) - 1) / span_s if span_s > 0 else 0.0


def watch_masks(
    connect: Callable[[], Subscription], over: threading.Event, *, count: int | None = None
) -> None:
    """Subscribe and show what comes until `over` is set, or `count` masks have come."""
    console = Console()
    rows: dict[str, _Row] = {}
    with connect() as masks:
        if console.is_terminal:
            with Live(console=console, auto_refresh=False) as live:
                _follow(
                    masks,
                    rows,
                    over,
                    count,
                    REFRESH_S,
                    lambda: live.update(_table(rows, masks), refresh=True),
                )
        else:
            _follow(masks, rows, over, count, LINE_EVERY_S, lambda: _lines(rows, masks))


def _follow(
    masks: Subscription, rows: dict[str, _Row], over: threading.Event, count: int | None, every_s: float,
    show: Callable[[], None],
) -> None:  # fmt: skip
    due_s = time.monotonic() + every_s
    seen = 0
    while not over.is_set() and (count is None or seen < count):
        with contextlib.suppress(TimeoutError):
            mask = masks.read(timeout_s=max(0.0, due_s - time.monotonic()))
            row = rows.setdefault(mask.stream, _Row(mask))
            row.mask = mask
            row.arrived_s.append(time.monotonic())
            seen += 1
        if time.monotonic() >= due_s:
            show()
            due_s = time.monotonic() + every_s


def _table(rows: dict[str, _Row], masks: Subscription) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading, justify in (
        ("stream", "left"),
        ("frame", "right"),
        ("age", "right"),
        ("fps", "right"),
        ("classes", "left"),
    ):
        table.add_column(heading, justify=justify)  # type: ignore[arg-type]
    if not rows:
        table.add_row("waiting for masks …", "", "", "", "")
    for name, row in rows.items():
        shares = Text(" ").join(
            Text.assemble(("■ ", f"rgb({r},{g},{b})"), f"{label} {share:.0%} ")
            for label, share, (r, g, b) in class_shares(row.mask, label_set_of(row.mask, masks))
        )
        table.add_row(
            name, str(row.mask.seq), f"{masks.age_s(row.mask) * 1000:.0f} ms", f"{row.fps:.1f}", shares
        )
    return table


def _lines(rows: dict[str, _Row], masks: Subscription) -> None:
    for name, row in rows.items():
        shares = ", ".join(
            f"{label} {share:.0%}"
            for label, share, _ in class_shares(row.mask, label_set_of(row.mask, masks))
        )
        age_ms = masks.age_s(row.mask) * 1000
        click.echo(f"{name}: frame {row.mask.seq}, {age_ms:.0f} ms old, {row.fps:.1f} fps: {shares}")


def label_set_of(mask: Mask, masks: Subscription) -> LabelSet | None:
    """The classes of a mask, None while they have not come."""
    try:
        return masks.label_set(mask.label_set, timeout_s=1.0)
    except TimeoutError:
        return None


def class_shares(mask: Mask, labels: LabelSet | None) -> list[tuple[str, float, tuple[int, int, int]]]:
    """(name, share of the picture, colour) of the classes in a mask, largest first, tiny ones left out."""
    counts = np.bincount(mask.labels.ravel(), minlength=256) / mask.labels.size
    found = []
    for i in np.argsort(-counts, kind="stable"):
        if counts[i] < SHOWN_SHARE:
            break
        known = labels is not None and i < len(labels.classes)
        info = labels.classes[i] if known and labels is not None else None
        found.append(
            (info.name if info else f"class {i}", float(counts[i]), info.colour if info else (128, 128, 128))
        )
    return found
