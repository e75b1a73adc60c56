"""A thread for what may wait for files or cameras, so that the threads that serve do not."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

MOST_WAITING = 64


class Background:
    """Does one piece of work after another, in a thread that ends with the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._waiting: queue.Queue[Callable[[], None]] = queue.Queue(MOST_WAITING)
        self._lock = threading.Lock()  # guards _thread
        self._thread: threading.Thread | None = None

    def offer(self, work: Callable[[], None]) -> bool:
        """Leave work; False where too much waits. Never waits; from any thread."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
                self._thread.start()
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
