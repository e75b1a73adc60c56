"""Names and colours of classes from a text file."""

from __future__ import annotations

import re
from pathlib import Path

from streamseg.config.text_file import read_text
from streamseg.errors import UsageError
from streamseg.inference.spec import MOST_CLASSES, ClassEntry, class_problems

_NUMBERED = re.compile(r"(?P<number>[0-9]{1,6})[\s:;,=|.)-]+(?P<name>[^\s:;,=|.)-].*)")  # as 7: car
_LINE = re.compile(r"(?P<name>.+?)(\s+#(?P<colour>[0-9a-fA-F]{6}))?")


def read_labels(path: Path, least: int = 2) -> tuple[ClassEntry, ...]:
    """Read a class a line: NAME or NAME #RRGGBB. Raises UsageError of one line.

    Empty lines and those that begin with # are skipped. Where every line begins with a number, it is the id.
    A class without a colour gets that of its id in PASCAL VOC's colour map, in which no two are alike.
    """
    try:
        lines = [line.strip() for line in read_text(path).splitlines()]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeError as error:
        raise UsageError(f"{path}: {error}") from error
    entries: list[ClassEntry] = []
    for line in _in_order([line for line in lines if line and not line.startswith("#")], path):
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


def _in_order(lines: list[str], path: Path) -> list[str]:
    """The names in the order of the ids before them, where there are such; raises UsageError."""
    found = [match for line in lines if (match := _NUMBERED.fullmatch(line))]
    if len(found) < 2 or 2 * len(found) <= len(lines):  # such as "2 wheels", or "1" alone
        return lines
    if len(found) < len(lines):
        other = next(line for line in lines if not _NUMBERED.fullmatch(line))
        raise UsageError(
            f"{path}: most lines begin with a number, but {other[:40]!r} does not; give a class a line, "
            "in the order of ids"
        )
    by_id = {int(match["number"]): match["name"] for match in found}
    if sorted(by_id) != list(range(len(lines))):
        raise UsageError(
            f"{path}: its {len(lines)} classes have numbers, but not those from 0 to {len(lines) - 1}; count "
            "them from 0, or leave the numbers out"
        )
    return [by_id[id_] for id_ in range(len(lines))]


def voc_colour(id_: int) -> tuple[int, int, int]:
    """The colour of a class in PASCAL VOC's colour map: its bits, spread over red, green and blue."""
    levels = [0, 0, 0]
    for bit in range(8):
        for channel in range(3):
            levels[channel] |= (id_ >> (3 * bit + channel) & 1) << (7 - bit)
    return levels[0], levels[1], levels[2]
