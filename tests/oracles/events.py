"""Events found by looking at the whole series again for each frame: slow, with no state but what was found.

A series is a list of (time_s, share or None, captured_unix_ns). Every question ("since when does it hold?")
is answered by going back through the frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from streamseg.config import EventConfig

Row = tuple[float, float | None, int]


@dataclass(frozen=True)
class Found:
    state: str
    why: str
    no_data: bool
    value: float
    peak: float
    begun_unix_ns: int
    at_unix_ns: int
    time_s: float
    duration_s: float


def reference(rows: Sequence[Row], config: EventConfig) -> list[Found]:
    found: list[Found] = []
    known = [i for i, row in enumerate(rows) if row[1] is not None]
    for now in range(len(rows)):
        before = [i for i in known if i < now]
        if before and open_since(found) is not None and not found[-1].no_data:
            last = before[-1]
            if rows[now][0] - rows[last][0] > config.stale_s:
                found.append(silent(rows, last, known, found, config))
        if rows[now][1] is not None:
            message = at_frame(rows, now, [*before, now], found, config)
            found += [] if message is None else [message]
    return found


def at_frame(
    rows: Sequence[Row], now: int, known: list[int], found: list[Found], config: EventConfig
) -> Found | None:
    time_s, unix_ns = rows[now][0], rows[now][2]
    value = value_at(rows, now, known, config)
    begun = open_since(found)
    if begun is None:
        run = unbroken(rows, now, known, config, begins)
        earlier = [i for i in known if run and i < run[0]]
        if not run or time_s - rows[run[0]][0] < config.for_s:
            return None
        edge = config.appears is not None or config.disappears is not None
        if edge and all(begins(value_at(rows, i, known, config), config) for i in earlier):
            return None
        ends = [one.time_s for one in found if one.state == "end"]
        if ends and time_s < ends[-1] + config.cooldown_s:
            return None
        peak = worst([value_at(rows, i, known, config) for i in run], config)
        start_s, start_ns = rows[run[0]][0], rows[run[0]][2]
        return Found("begin", "", False, value, peak, start_ns, unix_ns, time_s, time_s - start_s)
    peak = peak_of(rows, known, found, config)
    start_s = begun.time_s - begun.duration_s
    over = unbroken(rows, now, known, config, ends_on)
    if over and time_s - rows[over[0]][0] >= config.for_s:
        why = "back" if config.disappears else "steady" if config.changes_by else "below"
        return Found("end", why, False, value, peak, begun.begun_unix_ns, unix_ns, time_s, time_s - start_s)
    if found[-1].no_data or time_s - found[-1].time_s >= config.update_s:
        return Found("update", "", False, value, peak, begun.begun_unix_ns, unix_ns, time_s, time_s - start_s)
    return None


def silent(
    rows: Sequence[Row], last: int, known: list[int], found: list[Found], config: EventConfig
) -> Found:
    begun = open_since(found)
    assert begun is not None
    until = [i for i in known if i <= last]
    time_s = rows[last][0] + config.stale_s
    at_ns = rows[last][2] + round(config.stale_s * 1e9)
    value, peak = value_at(rows, last, until, config), peak_of(rows, until, found, config)
    duration_s = time_s - (begun.time_s - begun.duration_s)
    return Found("update", "", True, value, peak, begun.begun_unix_ns, at_ns, time_s, duration_s)


def open_since(found: list[Found]) -> Found | None:
    """The begin of the event that is open."""
    marks = [one for one in found if one.state != "update"]
    return marks[-1] if marks and marks[-1].state == "begin" else None


def peak_of(rows: Sequence[Row], known: list[int], found: list[Found], config: EventConfig) -> float:
    begun = open_since(found)
    assert begun is not None
    values = [value_at(rows, i, known, config) for i in known if rows[i][2] >= begun.begun_unix_ns]
    return worst(values, config)


def unbroken(rows: Sequence[Row], now: int, known: list[int], config: EventConfig, test) -> list[int]:  # type: ignore[no-untyped-def]
    """The frames up to now on which it was so, with never stale_s between two of them."""
    run: list[int] = []
    for i in reversed([i for i in known if i <= now]):
        if not test(value_at(rows, i, known, config), config):
            break
        if run and rows[run[0]][0] - rows[i][0] > config.stale_s:
            break
        run.insert(0, i)
    return run


def value_at(rows: Sequence[Row], at: int, known: list[int], config: EventConfig) -> float:
    share = rows[at][1]
    assert share is not None
    if config.within_s is None:
        return share
    near = [rows[i][1] or 0.0 for i in known if i <= at and rows[at][0] - rows[i][0] <= config.within_s]
    return max(near) - min(near)


def begins(value: float, config: EventConfig) -> bool:
    if config.disappears is not None:
        return value < config.disappears
    return value >= (config.above or config.appears or config.changes_by or 0.0)


def ends_on(value: float, config: EventConfig) -> bool:
    return value < config.below if config.below is not None else not begins(value, config)


def worst(values: list[float], config: EventConfig) -> float:
    return min(values) if config.disappears is not None else max(values)
