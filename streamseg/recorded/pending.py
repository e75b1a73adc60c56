"""What a job has been asked for and has not made: without it, an input that failed would leave no trace."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

PREFIX, SUFFIX = ".streamseg-", ".pending.json"
NOT_YET = "has not been processed yet; run the same `streamseg process` again"
PAUSE_S = 5.0
"""Between two writings: thousands of inputs may fail at once."""


class Wanted(msgspec.Struct, frozen=True):
    """An input whose results are missing, and why."""

    input: str
    stem: str  # of its results
    reason: str = NOT_YET


class Files(Protocol):
    """The small files beside the results."""

    def names(self) -> list[str]: ...
    def read(self, name: str) -> bytes | None: ...
    def put(self, name: str, data: bytes | None) -> None: ...  # None removes it


@dataclass(slots=True)
class Pending:
    """A job's list in the folder of results; gone when every input has its results.

    What a job has finished goes from the lists of other jobs, too. One thread uses it.
    """

    files: Files
    inputs: Iterable[Wanted]
    _finished: set[str] = field(default_factory=set)
    _wanted: dict[str, Wanted] = field(default_factory=dict)
    _name: str = ""
    _written_s: float = 0.0

    def __post_init__(self) -> None:
        self._wanted = {one.input: one for one in self.inputs}
        digest = hashlib.sha256("\n".join(sorted(self._wanted)).encode()).hexdigest()
        self._name = f"{PREFIX}{digest[:12]}{SUFFIX}"
        self._write()

    def finished(self, name: str) -> None:
        self._wanted.pop(name, None)
        self._finished.add(name)

    def failed(self, name: str, reason: str) -> None:
        before = self._wanted.get(name)
        self._wanted[name] = Wanted(name, before.stem if before else "", reason)
        if time.monotonic() - self._written_s > PAUSE_S:
            self._write()

    def close(self) -> None:
        self._write()
        for other in self.files.names() if self._finished else []:
            if is_pending(other) and other != self._name:
                before = list(read_pending(self.files.read(other) or b"[]"))
                left = [one for one in before if one.input not in self._finished]
                if left != before:
                    self._put(other, left)

    def _write(self) -> None:
        self._put(self._name, list(self._wanted.values()))
        self._written_s = time.monotonic()

    def _put(self, name: str, wanted: list[Wanted]) -> None:
        data = msgspec.json.format(msgspec.json.encode(wanted), indent=1) + b"\n"
        self.files.put(name, data if wanted else None)


def is_pending(name: str) -> bool:
    """Whether a file of this name is such a list."""
    return name.startswith(PREFIX) and name.endswith(SUFFIX)


def read_pending(data: bytes) -> Iterator[Wanted]:
    """What a list in a folder of results says; of one that is damaged, that it is."""
    try:
        yield from msgspec.json.decode(data, type=list[Wanted])
    except msgspec.DecodeError:
        yield Wanted("a job in this folder", "", "has a damaged list of its inputs; run it again")
