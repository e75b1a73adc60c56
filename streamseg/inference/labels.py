"""Names and colours of classes from a text file."""

from __future__ import annotations

import re
from pathlib import Path

from streamseg.config.text_file import read_text
from streamseg.errors import UsageError
from streamseg.inference.spec import MOST_CLASSES, ClassEntry, class_problems

_LINE = re.compile(r"(?P<name>.+?)(\s+#(?P<colour>[0-9a-fA-F]{6}))?")


def read_labels(path: Path, least: int = 2) -> tuple[ClassEntry, ...]:
    """Read a class a line: NAME or NAME #RRGGBB; empty lines are skipped. Raises UsageError of one line.

    A class without a colour gets that of its id in PASCAL VOC's colour map, in which no two are alike.
    """
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeError as error:
        raise UsageError(f"{path}: {error}") from error
    entries: list[ClassEntry] = []
    for line in filter(None, lines):
        found = _LINE.fullmatch(line)
        assert found is not None, "every line that is not empty is a name"
        given = found["colour"]
        colour = tuple(bytes.fromhex(given)) if given else voc_colour(len(entries))
        entries.append(ClassEntry(name=found["name"], colour=(colour[0], colour[1], colour[2])))
    if not least <= len(entries) <= MOST_CLASSES:
        raise UsageError(
            f"{path}: must have {least} to {MOST_CLASSES} classes, one a line; has {len(entries)}"
        )
    if problems := list(class_problems(tuple(entries))):
        raise UsageError(f"{path}: {problems[0]}")
    return tuple(entries)


def voc_colour(id_: int) -> tuple[int, int, int]:
    """The colour of a class in PASCAL VOC's colour map: its bits, spread over red, green and blue."""
    levels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            levels[channel] |= (id_ >> (3 * bit + channel) & 1) << (7 - bit)
    return levels[0], levels[1], levels[2]
