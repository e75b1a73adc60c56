"""The one way to read a text that a person wrote: as any editor saved it."""

from __future__ import annotations

import codecs
from pathlib import Path

from streamseg.config.reading import read_file

TEXT_WITHIN_S = 4.0  # a command that writes into a pipe may first ask somebody

_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def read_text(path: str | Path) -> str:
    """A file, or what a pipe gives, as decode_text() has it.

    Raises OSError, as read_file() does, and UnicodeError that says what the file is instead.
    """
    return decode_text(read_file(path, pipes=True, within_s=TEXT_WITHIN_S).data)


def decode_text(data: bytes, *, errors: str = "strict") -> str:
    """UTF-8, with or without a byte order mark, its lines ended by one line feed each.

    Raises UnicodeError, whose text says what it is instead, and what to do. errors, as bytes.decode() takes
    it, is for what may be read although some of it is no UTF-8; another encoding is refused all the same.
    """
    found = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not found and b"\0" in data[:2] and len(data) % 2 == 0:  # ASCII without a mark
        found = "UTF-16"
    if found:
        raise UnicodeError(f"is {found} text; save it as UTF-8")
    if b"\0" in data:
        raise UnicodeError("is not text: it holds NUL bytes")
    try:
        text = data.removeprefix(codecs.BOM_UTF8).decode("utf-8", errors)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UnicodeError(f"is not UTF-8 text (line {line}); save it as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")
