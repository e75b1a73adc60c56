"""Signals that come before a daemon's modules are imported; so this one imports next to nothing."""

from __future__ import annotations

import os
import signal

hangups: list[int] = []  # kept for Signals


def take_early() -> None:
    """SIGTERM ends the process as a clean end does, and SIGHUP waits for Signals.

    Python would end by either signal, which systemd takes for a clean end that nothing has to follow.
    """
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, lambda number, _: hangups.append(number))
