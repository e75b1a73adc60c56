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
from streamseg.errors import visible

BEHIND = "  "
"""What the further lines of a record begin with, so that none can be taken for a record of its own."""


class LineFormatter(logging.Formatter):
    """Severity, then the text, which begins with its stream: one line for a record, and those of a traceback.

    No secret is in it, nor in a traceback. Whatever a text of others holds, it neither begins a line nor
    reaches a terminal as a command.
    """

    def __init__(self, *, times: bool = False) -> None:
        super().__init__(
            ("%(asctime)s " if times else "") + "%(severity)-5s %(message)s", "%Y-%m-%d %H:%M:%S"
        )

    def format(self, record: logging.LogRecord) -> str:
        first = visible(redact(self._line(record)))
        return "\n".join([first, *_lines_of(record)])

    def _line(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        record.severity = "WARN" if record.levelno == logging.WARNING else record.levelname
        if self.usesTime():
            record.asctime = self.formatTime(record, self.datefmt)
        return self.formatMessage(record)


def start_logging(level: str) -> None:
    """Log to standard error from this severity up."""
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
        first, *others = _safe("".join(traceback.format_exception(kind, error, trace)))
        sys.stderr.write("\n".join([first, *(BEHIND + line for line in others)]) + "\n")


def _lines_of(record: logging.LogRecord) -> list[str]:
    """The traceback of a record, and its stack."""
    found: list[str] = []
    if record.exc_info and record.exc_info[0] is not None:
        found += _safe("".join(traceback.format_exception(*record.exc_info)))
    if record.stack_info:
        found += _safe(record.stack_info)
    return [BEHIND + line for line in found]


def _safe(text: str) -> list[str]:
    return [visible(line) for line in redact(text.rstrip("\n")).split("\n")]


def _keeps_no_times() -> bool:
    """Whether standard error is a terminal or a file. What reads a socket, as the journal, adds times."""
    try:
        mode = os.fstat(sys.stderr.fileno()).st_mode
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(mode) or os.isatty(sys.stderr.fileno())
