"""The one way of waiting in tests: for a thing, with a deadline that no machine needs that does its work."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

POLL_S = 0.01

LIMIT_S = 180.0
"""For a wait inside a library: for a mask, the end of a thread or a child. Only a fault waits so long."""


def until(true: Callable[[], Any], what: object = "the condition", limit_s: float = LIMIT_S) -> Any:
    """Wait until true() is, and return what it returned. `what` is named if it never is; it may be called."""
    deadline = time.monotonic() + limit_s
    while not (found := true()):
        if time.monotonic() > deadline:
            raise AssertionError(f"timed out after {limit_s:g} s: {what() if callable(what) else what}")
        time.sleep(POLL_S)
    return found


def in_time(most_s: float, took_s: Callable[[], float], tries: int = 3) -> None:
    """Have something done that took_s() times, until it was done in most_s.

    A machine that does other work is late at times; a fault is late in each of the tries.
    """
    took = [took_s()]
    while took[-1] >= most_s:
        assert len(took) < tries, f"took {took} s; {most_s:g} s are allowed"
        took.append(took_s())
