"""The one way to print: every line is safe to show, and can be written in the terminal's own encoding."""

from __future__ import annotations

import os
import sys

from streamseg.errors import visible


def echo(*lines: str, err: bool = False) -> None:
    """Print lines on standard output, or on standard error; each stays one, whatever it holds."""
    stream = sys.stderr if err else sys.stdout
    if stream is not None:  # else it was closed before we began
        stream.write("".join(f"{visible(line)}\n" for line in lines))
        stream.flush()


def echo_document(text: str | bytes) -> None:
    """Print a document of JSON as it is laid out; it means the same where its texts had to be escaped."""
    echo(*(text.decode() if isinstance(text, bytes) else text).split("\n"))


def write_only_what_can_be_shown() -> None:
    """Have both outputs escape what they cannot encode, and all but ASCII on a terminal in the C locale."""
    for stream in (sys.stdout, sys.stderr):
        if stream is not None and hasattr(stream, "reconfigure"):
            encoding = "ascii" if knows_ascii_only() and stream.isatty() else None
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def knows_ascii_only() -> bool:
    """Whether the terminal is said to know ASCII alone; Python takes UTF-8 then, for the names of files."""
    return os.environ.get("LC_ALL") in ("C", "POSIX")
