"""Where a job's results go: a folder of this machine or of other storage, and whose results it holds."""

from __future__ import annotations

import contextlib
import functools
import os
from pathlib import Path

from streamseg.errors import UsageError
from streamseg.recorded.content import read_content
from streamseg.recorded.inputs import Input
from streamseg.recorded.names import Owned, local_path, unprintable
from streamseg.recorded.names import Owner as Whose
from streamseg.recorded.results import Owner, ResultFolder, folder_error, open_folder
from streamseg.recorded.storage import Store, is_stored, scratch
from streamseg.recorded.stored_results import StoredResults, open_store
from streamseg.runtime.files import atomic_write


class Place:
    """The folder of results, on this machine or in other storage."""

    def __init__(self, out: str) -> None:
        if not out.strip():
            raise UsageError("out: is empty; name a folder for the results")
        self.store = Store(out) if is_stored(out) else None
        self.folder = local_path(out) if self.store is None else scratch(out)

    def open(self) -> None:
        """Make it and see that it can be written to. Raises FolderError."""
        if self.store is None:
            open_folder(self.folder)
        else:
            open_store(self.store)

    def results(self, stem: str) -> ResultFolder:
        if self.store is None:
            return ResultFolder(self.folder, stem)
        return StoredResults(self.folder, stem, self.store)

    def names(self) -> list[str]:
        """Of what is there."""
        if self.store is not None:
            return self.store.names()
        with contextlib.suppress(OSError):
            return sorted(os.listdir(self.folder))
        return []

    def read(self, name: str) -> bytes | None:
        """A small file beside the results; None where there is none."""
        if self.store is not None:
            return self.store.read(name)
        with contextlib.suppress(OSError):
            return (self.folder / name).read_bytes()
        return None

    def put(self, name: str, data: bytes | None) -> None:
        """Write a small file beside the results, or remove it."""
        if self.store is not None:
            if data is None:
                self.store.remove(name)
            else:
                self.store.write(name, data)
            return
        try:
            if data is None:
                (self.folder / name).unlink(missing_ok=True)
            else:
                atomic_write(self.folder / name, data, durable=False)
        except OSError as error:
            raise folder_error(self.folder, error) from error

    def owners(self, overwrite: bool) -> Owned:
        """Whose results a stem has already; with overwrite, another's do not count."""

        @functools.cache
        def owner_of(stem: str) -> Owner | None:
            return self.results(stem).owner()

        def owned(stem: str, source: str) -> Whose | None:
            owner = owner_of(stem)
            if owner is None:
                return None
            one = Input(source, stem)
            if owner.input == one.shown or _same_file(owner.input, one.path):
                return "it"
            if _same_content(owner, one):
                return "its content"
            if overwrite:
                return None
            return "a namesake" if _last(owner.input) == _last(one.shown) else "another"

        return owned


def _last(shown: str) -> str:
    return shown.rpartition("/")[2]


def _same_file(name: str, path: Path | None) -> bool:
    with contextlib.suppress(OSError, ValueError):
        return path is not None and local_path(unprintable(name)).samefile(path)
    return False


def _same_content(owner: Owner, one: Input) -> bool:
    """Compares sizes first: content is read where they are equal alone."""
    with contextlib.suppress(OSError):
        path = one.path
        if path is not None and path.is_file() and path.stat().st_size == owner.identity.source_bytes:
            return read_content(one).sha256 == owner.identity.source_sha256
    return False
