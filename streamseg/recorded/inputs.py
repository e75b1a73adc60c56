"""What is to be processed, and the name that each input's results bear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

from streamseg.errors import UsageError
from streamseg.sources import redact


@dataclass(frozen=True, slots=True)
class Input:
    """A file or an http(s) address; `stem` begins the names of its results."""

    source: str
    stem: str

    @property
    def path(self) -> Path | None:
        """The file; None for an address."""
        return None if is_address(self.source) else Path(self.source).expanduser()

    @property
    def shown(self) -> str:
        return redact(self.source)


def find_inputs(sources: Iterable[str]) -> list[Input]:
    """Give each source a name of its own: its stem, with suffix where two have one stem, then with folder.

    Named twice is done once. Raises UsageError where nothing tells two of them apart.
    """
    found = list(dict.fromkeys(sources))
    for name in (_stem, _full_name, _with_folder):
        names = {source: name(source) for source in found}
        if len(set(names.values())) == len(found):
            return [Input(source, names[source]) for source in found]
    twice = [n for n, count in Counter(names.values()).items() if count > 1]
    raise UsageError(f"several inputs would be called {twice[0]}; process them into different folders")


def is_address(source: str) -> bool:
    return source.startswith(("http://", "https://"))


def _pure(source: str) -> PurePosixPath:
    return PurePosixPath(urlsplit(source).path or "/video") if is_address(source) else PurePosixPath(source)


def _stem(source: str) -> str:
    return _pure(source).stem or "video"


def _full_name(source: str) -> str:
    return _pure(source).name or "video"


def _with_folder(source: str) -> str:
    path = _pure(source)
    return f"{path.parent.name}-{path.name}".strip("-")
