"""Results in other storage: made in a folder of this machine, and put there piece by piece."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from streamseg.errors import OutputError
from streamseg.recorded.manifest import Identity, Manifest, decode_manifest, differences
from streamseg.recorded.results import (
    NAMES,
    FolderError,
    Owner,
    ResultFolder,
    decode_job,
    decode_owner,
    named_outputs,
)
from streamseg.recorded.segments import segment_path, whole_segments
from streamseg.recorded.storage import Store
from streamseg.runtime.files import replaced


@dataclass(frozen=True, slots=True)
class StoredResults(ResultFolder):
    """Results in other storage: `out` is the local folder that they are made in, `store` where they go."""

    store: Store

    @property
    def shown(self) -> str:
        return self.store.shown

    @property
    def manifest_shown(self) -> str:
        return f"{self.store.shown}/{self.manifest.name}"

    def manifest_there(self) -> Manifest | None:
        data = self.store.read(self.manifest.name)
        return None if data is None else decode_manifest(data, self.manifest_shown)

    def bytes_there(self, file: str) -> int | None:
        return self.store.size(file)

    def owner(self) -> Owner | None:
        for name in (self.manifest.name, f"{self.segments.name}/job.json"):
            data = self.store.read(name)
            if data is not None and (owner := decode_owner(data)) is not None:
                return owner
        return None

    def unfinished(self) -> Identity | None:
        data = self.store.read(f"{self.segments.name}/job.json")
        return None if data is None else decode_job(data)

    @contextmanager
    def local(self, file: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="streamseg-") as folder:
            path = Path(folder) / file
            with contextlib.suppress(OutputError):  # it is missed by who asked for it
                self.store.get(file, path)
            yield path

    def begin(self, identity: Identity, source: str) -> list[str]:
        """Agree with the store: this job's segments are fetched, another job's are removed."""
        reasons = ResultFolder.begin(self, identity, source)
        there = self.store.names(self.segments.name)
        job = f"{self.segments.name}/job.json"
        data = self.store.read(job)
        before = None if data is None else decode_job(data)
        others = ["the unfinished work is damaged"] if before is None else differences(before, identity)
        if data is not None and not others:
            for name in there:
                if name.endswith(".segment") and not (self.segments / name).exists():
                    with replaced(self.segments / name, durable=False) as beside:
                        self.store.get(f"{self.segments.name}/{name}", beside)
        else:
            self.store.remove(self.segments.name)
            self.store.write(job, (self.segments / "job.json").read_bytes())
            there = []
            reasons = others if data is not None else reasons
        for index in sorted(whole_segments(self.segments)):
            if segment_path(self.segments, index).name not in there:
                self.committed(index)
        return reasons

    def in_the_way(self) -> list[str]:
        names = self.store.names()
        manifest = self.manifest_there()
        if manifest is None and self.segments.name in names:
            return []
        ours = {output.file for output in manifest.outputs.values()} if manifest is not None else set()
        return sorted({self.result(name).name for name in NAMES} & set(names) - ours)

    def committed(self, index: int) -> None:
        path = segment_path(self.segments, index)
        self.store.put(path, f"{self.segments.name}/{path.name}")

    def abandon(self) -> None:
        self._clear_segments()
        self.store.remove(self.segments.name)

    def publish(self, folder: Path, manifest: Manifest) -> None:
        before = self.store.read(self.manifest.name)
        if before is not None:
            self.store.remove(self.manifest.name)
            for file in named_outputs(before):
                self.store.remove(file)
        for path in sorted(folder.iterdir()):
            self.store.put(path, path.name)
        self.store.write(self.manifest.name, manifest.encode())
        self.store.remove(self.segments.name)
        shutil.rmtree(self.segments)


def open_store(store: Store) -> None:
    """See that a folder of results in other storage can be written to; raises FolderError."""
    probe = f".streamseg-{os.getpid()}"
    try:
        store.write(probe, b"")
        store.remove(probe)
    except OutputError as error:
        raise FolderError(str(error)) from error
