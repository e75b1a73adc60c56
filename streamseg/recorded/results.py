"""The folder of one input's results, and what may be done with what it already holds."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streamseg.errors import OutputError, one_line
from streamseg.recorded.manifest import (
    SUFFIX,
    Identity,
    Manifest,
    decode_manifest,
    differences,
    read_manifest,
    result_bytes,
)
from streamseg.recorded.names import printable
from streamseg.runtime.files import atomic_write, locked, move_into_place, sync

NAMES = {
    "labels": "labels.mp4",
    "confidence": "confidence.mp4",
    "overlay": "overlay.mp4",
    "summary": "summary.json",
    "png": "labels-png",
    "rle": "rle.jsonl",
    "zarr": "labels.zarr",
    "areas": "areas.csv",
    "areas_parquet": "areas.parquet",
    "events": "events.csv",
    "events_parquet": "events.parquet",
    "zones": "zones.csv",
    "zones_parquet": "zones.parquet",
    "zone_events": "zone-events.csv",
    "zone_events_parquet": "zone-events.parquet",
    "zone_events_lines": "zone-events.jsonl",
    "zones_chart": "zones.png",
    "polygons": "polygons.geojson",
    "polygons_coco": "polygons.coco.json",
}
"""The results (the summary is always made): how their names end."""

_PLAIN = ("labels", "confidence", "overlay", "png", "rle", "zarr")
"""Settings that ask for a result of the same name."""

_OF_A_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


class FolderError(OutputError):
    """The folder of results itself cannot be used (not writable, full): this concerns every input."""


class Owner(msgspec.Struct, frozen=True):
    """What results are of; a manifest has these fields too."""

    input: str
    identity: Identity


@dataclass(frozen=True, slots=True)
class ResultFolder:
    """The names of one input's results in their folder. Nothing has its name before it is whole.

    The manifest comes last, so a job is finished exactly when it exists. Until then finished segments lie in
    a hidden folder beside it, which is removed when the job is done.
    """

    out: Path
    stem: str

    @property
    def shown(self) -> str:
        """The folder of results, for people."""
        return printable(self.out)

    @property
    def manifest_shown(self) -> str:
        return printable(self.manifest)

    @property
    def manifest(self) -> Path:
        return self.out / (self.stem + SUFFIX)

    @property
    def segments(self) -> Path:
        return self.out / f".{self.stem}.segments"

    def result(self, name: str) -> Path:
        return self.out / f"{self.stem}.{NAMES[name]}"

    def owner(self) -> Owner | None:
        """Whose results, or unfinished work, have this name; None where there are none."""
        for path in (self.manifest, self.segments / "job.json"):
            with contextlib.suppress(OSError):
                if (owner := decode_owner(path.read_bytes())) is not None:
                    return owner
        return None

    def check_owner(self, identity: Identity) -> None:
        """Raises OutputError where results or work of another content have this name."""
        owner = self.owner()
        if owner is not None and owner.identity.source_sha256 != identity.source_sha256:
            raise OutputError(
                f"{self.shown}/{self.stem}: holds the results of {owner.input} with another content; "
                "choose another folder, or replace them with --overwrite"
            )

    def broken(self, manifest: Manifest) -> list[str]:
        """Which results of a manifest are missing or have another size, in words."""
        found = []
        for output in manifest.outputs.values():
            size = self.bytes_there(output.file)
            if size is None:
                found.append(f"{output.file} is missing")
            elif size != output.bytes:
                found.append(f"{output.file} has been changed")
        return found

    def unfinished(self) -> Identity | None:
        """The job whose segments are there."""
        with contextlib.suppress(OSError):
            return decode_job((self.segments / "job.json").read_bytes())
        return None

    @contextmanager
    def local(self, file: str) -> Iterator[Path]:
        """A result as a file on this machine."""
        yield self.out / file

    def begin(self, identity: Identity, source: str) -> list[str]:
        """Make this job's folder of segments; remove what another job left in it → why."""
        job = self.segments / "job.json"
        reasons: list[str] = []
        if job.exists():
            before = decode_job(job.read_bytes())
            reasons = ["the unfinished work is damaged"] if before is None else differences(before, identity)
            if not reasons:
                return []
        self._clear_segments()
        atomic_write(job, msgspec.json.format(msgspec.json.encode(Owner(source, identity)), indent=1))
        return reasons

    def in_the_way(self) -> list[str]:
        """Files with this job's names that no job of ours made."""
        manifest = self.manifest_there()
        if manifest is None and self.segments.exists():
            return []
        ours = {output.file for output in manifest.outputs.values()} if manifest is not None else set()
        there = {path.name for name in NAMES if (path := self.result(name)).exists()}
        return sorted(there - ours)

    def manifest_there(self) -> Manifest | None:
        return read_manifest(self.manifest) if self.manifest.exists() else None

    def bytes_there(self, file: str) -> int | None:
        path = self.out / file
        return result_bytes(path) if path.exists() else None

    def committed(self, index: int) -> None:
        """A segment has been committed."""

    def abandon(self) -> None:
        """Remove the segments: nothing can be made of them."""
        self._clear_segments()

    def _clear_segments(self) -> None:
        """The lock stays until the job ends."""
        for old in self.segments.iterdir():
            if old.name != "lock":
                shutil.rmtree(old) if old.is_dir() else old.unlink()

    def publish(self, folder: Path, manifest: Manifest) -> None:
        """Give the results in `folder` their names, the manifest last; the segments go."""
        self._remove_results()
        for path in sorted(folder.iterdir()):
            target = self.out / path.name
            if target.is_dir():
                shutil.rmtree(target)
            os.replace(path, target)
        sync(self.out)
        temporary = self.segments / "manifest.tmp"
        temporary.write_bytes(manifest.encode())
        move_into_place(temporary, self.manifest)
        shutil.rmtree(self.segments)

    def _remove_results(self) -> None:
        """Remove the manifest, and with it the results that it names."""
        if not self.manifest.exists():
            return
        outputs = named_outputs(self.manifest.read_bytes())
        self.manifest.unlink()
        sync(self.out)
        for file in outputs:
            path = self.out / file
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def explained(self, error: Exception, shown: str) -> OutputError:
        """What failed while the results of `shown` were made: this folder, or they alone.

        An error does not say where it comes from (FFmpeg's have the numbers of the system's), so the folder
        is asked.
        """
        if isinstance(error, OSError) and error.errno in _OF_A_DISK:
            return folder_error(self.out, error)
        try:
            open_folder(self.out)
        except FolderError as folder:
            return folder
        reason = getattr(error, "strerror", None) or f"{type(error).__name__}: {one_line(error)}"
        return OutputError(f"{shown}: its results cannot be made ({reason})")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep a second process from the same results; released when this one ends, however it ends."""
        self.segments.mkdir(exist_ok=True)
        with ExitStack() as held:
            try:
                held.enter_context(locked(self.segments / "lock", wait=False))
            except BlockingIOError:
                raise OutputError(
                    f"{self.shown}/{self.stem}: another streamseg is working on it; wait for it or stop it"
                ) from None
            try:
                yield
            finally:
                if not any(self.segments.glob("*.segment")):
                    shutil.rmtree(self.segments, ignore_errors=True)


def asked_for(settings: dict[str, Any]) -> list[str]:
    """The names of the results that these settings of a manifest ask for."""
    tables = settings.get("tables")
    endings = ["", "_parquet"] if tables == "both" else ["_parquet" if tables == "parquet" else ""]
    found = ["summary", *(name for name in _PLAIN if settings.get(name))]
    found += [name + ending for name in ("areas", "events") if settings.get(name) for ending in endings]
    zones, polygons = settings.get("zones"), settings.get("polygons")
    if isinstance(zones, dict):
        found += [f"zones{ending}" for ending in endings] + ["zones_chart"]
        if zones.get("events"):
            found += [f"zone_events{ending}" for ending in endings] + ["zone_events_lines"]
    found += ["polygons"] if polygons in ("geojson", "both") else []
    found += ["polygons_coco"] if polygons in ("coco", "both") else []
    return found


def named_outputs(manifest: bytes) -> list[str]:
    """The files that a manifest names; none where it cannot be read."""
    try:
        return [output.file for output in decode_manifest(manifest, "").outputs.values()]
    except OutputError:
        return []


def decode_job(data: bytes) -> Identity | None:
    owner = decode_owner(data)
    return None if owner is None else owner.identity


def decode_owner(data: bytes) -> Owner | None:
    """Of a manifest or of unfinished work."""
    try:
        return msgspec.json.decode(data, type=Owner)
    except msgspec.DecodeError:
        return None


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
    """A system error about the folder of results, in one line that says what to do."""
    shown = printable(out)
    match error.errno:
        case errno.ENOSPC | errno.EDQUOT:
            return FolderError(
                f"{shown}: the disk is full; make room and run the same command again, "
                "it continues where it stopped"
            )
        case errno.EACCES | errno.EPERM:
            return FolderError(f"{shown}: cannot be written to; choose another folder, or change its rights")
        case errno.EROFS:
            return FolderError(f"{shown}: is on a read-only disk; choose another folder")
        case errno.EEXIST | errno.ENOTDIR:
            return FolderError(f"{shown}: is a file, not a folder; choose another name")
    return FolderError(f"{shown}: cannot be written to ({error.strerror or error}); choose another folder")
