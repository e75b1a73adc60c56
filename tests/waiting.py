"""The one way of waiting in tests: for a thing, with a deadline that grows on a busy machine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

POLL_S = 0.01


def patience() -> float:
    """How much longer than on an idle machine everything may take: 1 to 3, by the load per core."""
    load = os.getloadavg()[0] / len(os.sched_getaffinity(0))
    return min(max(load, 1.0), 3.0)


LIMIT_S = 60.0 * patience()
"""For a wait inside a library: reading a mask, joining a thread, a child's end."""


def until(true: Callable[[], Any], what: object = "the condition", limit_s: float = LIMIT_S) -> Any:
    """Wait until true() is, and return what it returned. `what` is named if it never is; it may be called."""
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out after {limit_s:g} s: {what() if callable(what) else what}")
        time.sleep(POLL_S)
    return found
