"""What a process holds: threads, file descriptors, sockets and memory, looked at from outside."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import psutil

FLAT = 0.05  # share by which memory may grow


@dataclass(frozen=True, slots=True)
class Holds:
    """At one moment."""

    threads: int
    files: int
    sockets: int  # of the network, in any state
    memory: int  # bytes, resident

    @classmethod
    def of(cls, pid: int) -> Holds:
        process = psutil.Process(pid)
        return cls(
            process.num_threads(),
            process.num_fds(),
            len(process.net_connections("inet")),
            process.memory_info().rss,
        )


def settled(pid: int, like: Holds | None = None, limit_s: float = 20.0) -> Holds:
    """What a process holds once it holds no more threads, files and sockets than `like`, or at the limit."""
    deadline = time.monotonic() + limit_s
    while True:
        now = Holds.of(pid)
        if like is None or time.monotonic() > deadline:
            return now
        if now.threads <= like.threads and now.files <= like.files and now.sockets <= like.sockets:
            return now
        time.sleep(0.1)


def assert_nothing_leaked(before: Holds, after: Holds) -> None:
    """No thread, file or socket more than before, and memory within FLAT of it."""
    assert after.threads <= before.threads, (before, after)
    assert after.files <= before.files, (before, after)
    assert after.sockets <= before.sockets, (before, after)
    assert after.memory <= before.memory * (1 + FLAT), (before, after)


def until(true: Callable[[], bool], what: str, limit_s: float = 60.0) -> float:
    """Wait for something; how long it took (s)."""
    begun_s = time.monotonic()
    while not true():
        assert time.monotonic() < begun_s + limit_s, what
        time.sleep(0.01)
    return time.monotonic() - begun_s


def report(text: str) -> None:
    """Say a figure; `pytest -s` shows it."""
    print(f"soak: {text}", flush=True)
