"""Signals that come before a daemon's modules are imported; so this one imports next to nothing."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator

hangups: list[int] = []  # kept for Signals


def take_early() -> None:
    """SIGTERM and SIGINT end the process as a clean end does, and SIGHUP waits for Signals.

    Python would end by the signal, which systemd takes for a clean end that nothing has to follow, and for
    SIGINT print what it was importing.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # in the background of a script
        signal.signal(signal.SIGINT, lambda *_: os._exit(0))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, lambda number, _: hangups.append(number))


@contextlib.contextmanager
def interrupted_without_a_word() -> Iterator[None]:
    """While a command's modules are imported, SIGINT ends the process and prints nothing."""
    usual = signal.getsignal(signal.SIGINT)
    if usual is not signal.default_int_handler:  # ignored, or taken by take_early()
        yield
        return
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, usual)
