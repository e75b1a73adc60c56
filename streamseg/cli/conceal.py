"""The command line that other users of the machine see, without its passwords."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from streamseg.config.redact import login_of, looks_like_address, redact, remember


def conceal(arguments: Sequence[str] = tuple(sys.argv)) -> None:
    """Remember the secrets of addresses among the arguments, and overwrite them in /proc/self/cmdline.

    ps and /proc show a process's memory of its arguments; Python has read its own copy of them long ago.
    """
    addresses = [a for a in map(_value, arguments) if looks_like_address(a)]
    secret = [address for address in addresses if redact(address) != address]
    for address in addresses:
        remember(address)
    if not secret:
        return
    try:
        # The fields behind the name, which may hold spaces; 48 and 49 are where the arguments begin and end.
        fields = Path("/proc/self/stat").read_text("latin-1").rpartition(")")[2].split()
        start, end = int(fields[45]), int(fields[46])
        if not 0 < start < end:
            return
        memory = ctypes.string_at(start, end - start)
        for address in secret:
            written = address.encode(sys.getfilesystemencoding(), "surrogateescape")
            for found in re.finditer(re.escape(written), memory):
                ctypes.memset(start + found.start(), ord("*"), len(written))
                ctypes.memmove(start + found.start(), shown := _shown(address, len(written)), len(shown))
    except (OSError, ValueError, IndexError):
        return  # not Linux, or not ours to read: the arguments stay as they are


def _value(argument: str) -> str:
    """An argument without the --option= and the NAME= in front of it."""
    return re.sub(r"^(?:--[\w-]+=)?(?:[\w. -]+=(?=[A-Za-z][\w+.-]*:))?", "", argument)


def _shown(address: str, most: int) -> bytes:
    login = login_of(address)
    return (redact(address) if login is None or not login.unclear else "")[:most].encode()[:most]
