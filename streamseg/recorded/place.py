"""Where one input's results go, and what may be done with what already lies there."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from streamseg.errors import OutputError
from streamseg.recorded.manifest import (
    SUFFIX,
    Identity,
    Manifest,
    differences,
    read_manifest,
    result_bytes,
)
from streamseg.recorded.parts import sync_folder

NAMES = {
    "labels": "labels.mp4",
    "confidence": "confidence.mp4",
    "overlay": "overlay.mp4",
    "summary": "summary.json",
    "png": "labels-png",
    "rle": "rle.jsonl",
    "npz": "labels.npz",
    "areas": "areas.csv",
    "events": "events.csv",
    "sheet": "sheet.png",
}
"""The results, by the setting that asks for them (the summary is always made): how their names end."""


class FolderError(OutputError):
    """The folder of results itself cannot be used (not writable, full): no other input will fare better."""


@dataclass(frozen=True, slots=True)
class Place:
    """The names of one input's results in their folder. Nothing has its name before it is whole.

    The manifest comes last, so a job is finished exactly when it is there. Until then finished parts lie in a
    hidden folder beside, which goes when the job is done.
    """

    out: Path
    stem: str

    @property
    def manifest(self) -> Path:
        return self.out / (self.stem + SUFFIX)

    @property
    def parts(self) -> Path:
        return self.out / f".{self.stem}.parts"

    def result(self, name: str) -> Path:
        return self.out / f"{self.stem}.{NAMES[name]}"

    def finished(self, identity: Identity) -> tuple[Manifest | None, list[str]]:
        """The manifest, where this very job is finished; else why what is there is of no use.

        The versions of the libraries may be others: a finished job is not repeated for an update.
        """
        if not self.manifest.exists():
            return None, []
        manifest = read_manifest(self.manifest)
        now = msgspec.structs.replace(identity, versions=manifest.identity.versions)
        reasons = differences(manifest.identity, now)
        for output in manifest.outputs.values():
            path = self.out / output.file
            if not path.exists():
                reasons.append(f"{output.file} is gone")
            elif result_bytes(path) != output.bytes:
                reasons.append(f"{output.file} has been changed")
        return (None if reasons else manifest), reasons

    def begin(self, identity: Identity) -> list[str]:
        """Make this job's folder of parts; what another job left in it goes, and why comes back."""
        job = self.parts / "job.json"
        reasons: list[str] = []
        if job.exists():
            try:
                reasons = differences(msgspec.json.decode(job.read_bytes(), type=Identity), identity)
            except msgspec.DecodeError:
                reasons = ["the unfinished work is damaged"]
            if not reasons:
                return []
        for old in self.parts.iterdir():
            if old.name != "lock":
                shutil.rmtree(old) if old.is_dir() else old.unlink()
        temporary = job.with_suffix(".tmp")
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(identity), indent=1))
        temporary.rename(job)
        return reasons

    def in_the_way(self) -> list[str]:
        """Files that bear this job's names and are not from any job of ours."""
        if self.manifest.exists() or self.parts.exists():
            return []
        return sorted(path.name for name in NAMES if (path := self.result(name)).exists())

    def remove_results(self) -> None:
        """Remove the manifest, and with it the results that it names."""
        if not self.manifest.exists():
            return
        try:
            outputs = read_manifest(self.manifest).outputs
        except OutputError:
            outputs = {}
        self.manifest.unlink()
        sync_folder(self.out)
        for output in outputs.values():
            path = self.out / output.file
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from the same results; let go when this one ends, however it ends."""
        made = not self.parts.exists()
        self.parts.mkdir(exist_ok=True)
        with (self.parts / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise OutputError(
                    f"{self.out / self.stem}: another streamseg is working on it; wait for it, or end it"
                ) from None
            try:
                yield
            finally:
                if made and not any(self.parts.glob("*.part")):
                    shutil.rmtree(self.parts, ignore_errors=True)


def open_folder(out: Path) -> None:
    """Make the folder of results and see that it can be written to; raises FolderError."""
    probe = out / f".streamseg-{os.getpid()}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise folder_error(out, error) from error


def folder_error(out: Path, error: OSError) -> FolderError:
    """What the system said about the folder of results, in one line with the way out."""
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return FolderError(
                f"{out}: the disk is full; make room and run the same command again, "
                "it goes on where it stopped"
            )
        case errno.EACCES | errno.EPERM:
            return FolderError(f"{out}: cannot be written to; choose another folder, or change its rights")
        case errno.EROFS:
            return FolderError(f"{out}: is on a read-only disk; choose another folder")
        case errno.EEXIST | errno.ENOTDIR:
            return FolderError(f"{out}: is a file, not a folder; choose another name")
    return FolderError(f"{out}: cannot be written to ({error.strerror or error}); choose another folder")
