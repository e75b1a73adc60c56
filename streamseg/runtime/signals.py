"""SIGINT, SIGTERM and SIGHUP: as calls of functions, whatever the main thread does.

A process that is asked to stop ends within STOP_WITHIN_S, whatever its threads wait for.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from typing import Any

from streamseg.runtime.early_signals import hangups

log = logging.getLogger(__name__)

STOP_WITHIN_S = 4.5


class Signals:
    """While entered, SIGINT and SIGTERM call stop() and SIGHUP calls reload(); from a thread of its own.

    So they are heard also while the main thread is inside a library. Once asked to stop, a process that has
    not left this block within STOP_WITHIN_S ends there, by exit code 0: what keeps it, such as a dead network
    share, lies outside. Restores the previous handlers on leaving. Does nothing outside of the main thread.
    """

    def __init__(self, stop: Callable[[], None], reload: Callable[[], None]) -> None:
        self._stop = stop
        self._reload = reload
        self._previous: dict[signal.Signals, Any] = {}
        self._previous_fd = -1
        self._left = threading.Event()
        self._numbers: socket.socket | None = None
        self._written: socket.socket | None = None

    def __enter__(self) -> Signals:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._numbers, self._written = socket.socketpair()
        self._written.setblocking(False)
        self._previous_fd = signal.set_wakeup_fd(self._written.fileno(), warn_on_full_buffer=False)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            self._previous[number] = signal.getsignal(number)
            if number == signal.SIGHUP and self._previous[number] is signal.SIG_IGN:  # nohup
                continue
            signal.signal(number, lambda *_: None)  # its number is written to the descriptor
        threading.Thread(target=self._listen, args=(self._numbers,), name="signals", daemon=True).start()
        if hangups:
            hangups.clear()
            self._reload()
        return self

    def __exit__(self, *_: object) -> None:
        if self._written is None:
            return
        self._left.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_fd)
        self._written.close()  # which ends the thread

    def _listen(self, numbers: socket.socket) -> None:
        asked = False
        with numbers:
            while data := numbers.recv(64):
                for number in data:
                    if number == signal.SIGHUP:
                        self._reload()
                    elif number in (signal.SIGINT, signal.SIGTERM) and not asked:
                        asked = True
                        log.info("stopping (%s)", signal.Signals(number).name)
                        threading.Thread(target=self._end_in_time, name="stopping", daemon=True).start()
                        self._stop()

    def _end_in_time(self) -> None:
        if self._left.wait(STOP_WITHIN_S):
            return
        busy = sorted(t.name for t in threading.enumerate() if t is not threading.current_thread())
        log.warning(
            "stopping took longer than %.1f s, so the process ends now; threads that still wait: %s",
            STOP_WITHIN_S, ", ".join(busy),
        )  # fmt: skip
        end_now(0)


def end_now(code: int) -> None:
    """End the process at once, without Python's own end, which waits for libraries that still work."""
    with contextlib.suppress(Exception):
        logging.shutdown()
        sys.stdout.flush()
    os._exit(code)
