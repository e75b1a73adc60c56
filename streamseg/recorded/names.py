"""Names: of local files as they are spelled, as people may read them, and of each input's results."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from streamseg.config.redact import HIDDEN, redact

LONGEST_STEM = 200
"""Bytes; a name may have 255, and a stem gets endings such as .confidence.mp4.tmp."""

Owner = Literal["it", "its content", "a namesake", "another"]
Owned = Callable[[str, str], Owner | None]
"""(stem, source) → whose the results of this stem are: the source's, those of equal content, of another file
of the same name, of any other."""

_PRINTF = re.compile(r"%0?\d*d")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")


def local_path(source: str | os.PathLike[str]) -> Path:
    """The file that a name stands for; a leading ~ is the home, unless a file is called so."""
    path = Path(source)
    if not str(source).startswith("~") or os.path.lexists(path):
        return path
    try:
        return path.expanduser()
    except RuntimeError:  # no such user
        return path


def printable(name: str | os.PathLike[str]) -> str:
    """A name in one line of UTF-8: other bytes, and control characters, as \\xNN."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return "".join(c if c.isprintable() or c == " " else _escaped(c) for c in text)


def unprintable(text: str) -> str:
    """The name that printable() shows so."""
    return os.fsdecode(
        b"".join(
            bytes.fromhex(part) if i % 2 else os.fsencode(part) for i, part in enumerate(_ESCAPED.split(text))
        )
    )


def _escaped(character: str) -> str:
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def number_pattern(name: str) -> re.Pattern[str] | None:
    """What a name like frame%04d.png fits, with the number as its group; None for other names."""
    before, *after = _PRINTF.split(name)
    if len(after) != 1:
        return None
    return re.compile(f"{re.escape(before)}([0-9]+){re.escape(after[0])}")


def numbered_name(pattern: str, number: int) -> str:
    """frame%04d.png and 7 → frame0007.png"""
    return _PRINTF.sub(lambda found: found[0] % number, pattern)


def name_inputs(sources: Iterable[str], owned: Owned) -> dict[str, str]:
    """Sources → the stems of their results.

    A source that has results keeps their name. Any other gets the shortest that neither another source here
    nor another's results have: its stem, its full name, then with more and more of its folders.
    """
    choices = {source: _choices(source) for source in sources}
    names: dict[str, str] = {}
    for owner in ("it", "its content"):
        for source, stems in choices.items():
            free = (stem for stem in stems if stem not in names.values())
            own = next((stem for stem in free if owned(stem, source) == owner), None)
            if source not in names and own is not None:
                names[source] = own
    taken = set(names.values())
    level = {
        source: _next(stems, -1, source, taken, owned)
        for source, stems in choices.items()
        if source not in names
    }
    while True:
        count = Counter(choices[source][at] for source, at in level.items())
        twice = [source for source, at in level.items() if count[choices[source][at]] > 1]
        if not twice:
            return names | {source: choices[source][at] for source, at in level.items()}
        for source in twice:
            level[source] = _next(choices[source], level[source], source, taken, owned)


def _next(stems: list[str], at: int, source: str, taken: set[str], owned: Owned) -> int:
    """The next stem that is free; the last one always is."""
    for i in range(at + 1, len(stems) - 1):
        if i == 1 and owned(stems[0], source) in ("a namesake", "its content"):
            continue  # it has the same suffix, or as good as
        if stems[i] not in taken and owned(stems[i], source) is None:
            return i
    return len(stems) - 1


def _choices(source: str) -> list[str]:
    """What the results of a source may be called: stem, name, with more and more folders, its alone."""
    path = _pure(source)
    is_folder = "://" not in source and local_path(source).is_dir()
    whole = path if "://" in source else PurePosixPath(os.path.abspath(path))
    folders = [part for part in whole.parent.parts if part not in ("/", ".", "..")]
    name = path.name or whole.name or "video"
    made = [name if is_folder else PurePosixPath(name).stem, name]
    made += ["-".join([*folders[i:], name]) for i in range(len(folders) - 1, -1, -1)]
    digest = hashlib.sha256(os.fsencode(whole)).hexdigest()[:8]
    return [as_file_name(one) for one in (*made, f"{name[: LONGEST_STEM // 4]}-{digest}")]


def as_file_name(name: str) -> str:
    """A name that every disk takes: no control characters, UTF-8, not too long."""
    text = os.fsencode(name).decode("utf-8", "surrogateescape")
    text = "".join(
        c if c.isprintable() else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogateescape"))
        for c in text
    )
    data = text.encode()
    if len(data) <= LONGEST_STEM:
        return text
    digest = hashlib.sha256(data).hexdigest()[:8]
    return f"{data[: LONGEST_STEM - 9].decode('utf-8', 'ignore')}-{digest}"


def _pure(source: str) -> PurePosixPath:
    if "://" in source:  # the name of a result is seen by many: no secret of the address is in it
        rest = redact(source).replace(HIDDEN, "-").partition("://")[2]
        return PurePosixPath("/" + re.split("[?#]", rest)[0].partition("/")[2])
    path = PurePosixPath(source)
    # A pattern's results are named after the folder of its images.
    magic = glob.has_magic(path.name) or number_pattern(path.name)
    if not magic or os.path.lexists(local_path(source)):
        return path
    return path.parent if path.parent.name else PurePosixPath(os.path.abspath(path.parent))
