"""Threads for what may wait for files or cameras, so that the threads that serve do not."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

MOST_WAITING = 64


class Background:
    """Does one piece of work after another, in a thread, or several, that end with the process."""

    def __init__(self, name: str, threads: int = 1, most_waiting: int = MOST_WAITING) -> None:
        self._name = name
        self._waiting: queue.Queue[Callable[[], None]] = queue.Queue(most_waiting)
        self._lock = threading.Lock()  # guards _missing
        self._missing = threads  # that are not started yet: one for each piece of work, until all are

    def offer(self, work: Callable[[], None]) -> bool:
        """Leave work; False where too much waits. Never waits; from any thread."""
        with self._lock:
            if self._missing:
                self._missing -= 1
                threading.Thread(target=self._run, name=self._name, daemon=True).start()
        try:
            self._waiting.put_nowait(work)
        except queue.Full:
            return False
        return True

    def _run(self) -> None:
        while True:
            work = self._waiting.get()
            try:
                work()
            except Exception:
                log.exception("%s: failed inside", self._name)
