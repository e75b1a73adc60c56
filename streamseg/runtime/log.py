"""The log on standard error: severity and text, without secrets; with the time where nothing adds it."""

from __future__ import annotations

import logging
import os
import stat
import sys
import threading
import traceback
from types import TracebackType

from streamseg.config.redact import redact


class LineFormatter(logging.Formatter):
    """Severity, then the text, which begins with its stream; no secret is in it, nor in a traceback."""

    def __init__(self, *, times: bool = False) -> None:
        super().__init__(
            ("%(asctime)s " if times else "") + "%(levelname)-5s %(message)s", "%Y-%m-%d %H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))


def start_logging(level: str) -> None:
    """Log to standard error from this severity up."""
    logging.addLevelName(logging.WARNING, "WARN")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter(times=_keeps_no_times()))
    logging.basicConfig(level=level.upper(), handlers=[handler])


def hide_secrets_of_tracebacks() -> None:
    """Have Python print errors that nobody caught, in any thread, without secrets."""
    if sys.excepthook is sys.__excepthook__:
        sys.excepthook = _print
    if threading.excepthook is threading.__excepthook__:
        threading.excepthook = lambda args: _print(args.exc_type, args.exc_value, args.exc_traceback)


def _print(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if kind is not SystemExit and sys.stderr is not None:
        sys.stderr.write(redact("".join(traceback.format_exception(kind, error, trace))))


def _keeps_no_times() -> bool:
    """Whether standard error is a terminal or a file. What reads a socket, as the journal, adds times."""
    try:
        mode = os.fstat(sys.stderr.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) or os.isatty(sys.stderr.fileno())
