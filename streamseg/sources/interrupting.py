"""Ending FFmpeg's calls of a thread when its stop flag is set."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from av.container import core

# FFmpeg asks its interrupt callback about ten times a second whether to continue. PyAV's callback compares
# `time.monotonic()`, as its module av.container.core finds it, with the timeout of the call. We put a clock
# there that runs ahead in a thread whose stop flag is set, so that connecting ends within 0.1 s of the flag
# instead of at its timeout. Everywhere else the clock is the true one. Only calls with a PyAV timeout ask:
# all opening, and reading where there is no other way, because the callback takes the GIL. Should a later
# PyAV look at another clock, calls still end at their timeout, and a test fails.


class _Opening(threading.local):
    stop: threading.Event | None = None
    jumps: int = 0


_opening = _Opening()


class _Clock:
    """The `time` module, as far as av.container.core needs it, with a clock that can run ahead."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        now = time.monotonic()
        stop = _opening.stop
        if stop is not None and stop.is_set():
            # Every call is later than the one before by more than any timeout: PyAV may take its start
            # time from this clock too.
            _opening.jumps += 1
            now += 1e6 * _opening.jumps
        return now


@contextmanager
def interruptible(stop: threading.Event) -> Iterator[None]:
    """Let `stop` end FFmpeg calls of this thread that were given PyAV's `timeout`."""
    if not isinstance(getattr(core, "time", None), _Clock):
        core.time = _Clock()  # type: ignore[attr-defined]
    before, _opening.stop = _opening.stop, stop
    try:
        yield
    finally:
        _opening.stop = before
