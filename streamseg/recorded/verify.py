"""Checks a folder of results against its manifests: every hash, every time stamp, every label."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import msgspec

from streamseg.errors import OutputError, SourceError, StreamsegError, UsageError
from streamseg.recorded.content import read_content, states_of
from streamseg.recorded.inputs import Input, fetched, find_inputs, is_address
from streamseg.recorded.manifest import (
    SUFFIX,
    Manifest,
    labels_digest,
    read_manifest,
    result_sha256,
    settings_digest,
)
from streamseg.recorded.names import local_path, printable, unprintable
from streamseg.recorded.opening import open_input
from streamseg.recorded.pending import NOT_YET, is_pending, read_pending
from streamseg.recorded.results import asked_for, named_outputs
from streamseg.recorded.segments import FrameRecord, count_pixels
from streamseg.recorded.selection import Account, picks
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.storage import Store, is_stored
from streamseg.recorded.tables import Summary
from streamseg.recorded.timeline import Timeline, from_runs, pts_digest
from streamseg.recorded.tracks import read_labels


@dataclass(slots=True, eq=False)
class Verdict:
    """What the check of one input's results found; whole when there are no problems."""

    path: str  # of the manifest
    masks: int = 0
    source_checked: bool = False  # False: the source was not found
    problems: list[str] = field(default_factory=list)


def verify_folder(
    out: str | Path,
    sources: str | Path | None = None,
    on_verdict: Callable[[Verdict], None] = lambda verdict: None,
) -> list[Verdict]:
    """Check every manifest in a folder, one verdict each, in order of their names.

    Sources are looked for where the manifest says, or by their file names in the folder `sources`; each that
    is found is hashed and decoded again. Raises UsageError where there is nothing to check.
    """
    sources = local_path(sources) if sources is not None else None
    if sources is not None and not sources.is_dir():
        raise UsageError(f"{printable(sources)}: is no folder; name the one that the sources are in")
    if is_stored(str(out)):
        return _Folder(_StoredFiles(Store(str(out))), sources, on_verdict).verify()
    return _Folder(_LocalFiles(local_path(out)), sources, on_verdict).verify()


class _LocalFiles:
    """A folder of results on this machine."""

    def __init__(self, out: Path) -> None:
        self.out, self.shown = out, printable(out)

    def names(self) -> list[str]:
        return sorted(p.name for p in self.out.iterdir()) if self.out.is_dir() else []

    def read(self, name: str) -> bytes | None:
        return (self.out / name).read_bytes()

    @contextlib.contextmanager
    def results(self, name: str) -> Iterator[Path]:
        """The manifest of this name, with the results that it names beside it."""
        yield self.out / name


class _StoredFiles:
    """A folder of results in other storage; fetches one input's results after the other."""

    def __init__(self, store: Store) -> None:
        self.store, self.shown = store, store.shown

    def names(self) -> list[str]:
        return self.store.names()

    def read(self, name: str) -> bytes | None:
        return self.store.read(name)

    @contextlib.contextmanager
    def results(self, name: str) -> Iterator[Path]:
        """The manifest of this name, with the results that it names beside it."""
        with tempfile.TemporaryDirectory(prefix="streamseg-") as folder:
            path = Path(folder) / name
            path.write_bytes(self.store.read(name) or b"")
            for file in named_outputs(path.read_bytes()):
                with contextlib.suppress(OutputError):  # the check reports it
                    self.store.get(file, path.parent / file)
            yield path


@dataclass(slots=True, eq=False)
class _Folder:
    """The check of one folder of results."""

    files: _LocalFiles | _StoredFiles
    sources: Path | None
    on_verdict: Callable[[Verdict], None]
    verdicts: list[Verdict] = field(default_factory=list)
    inputs: set[str] = field(default_factory=set)  # that have results

    def verify(self) -> list[Verdict]:
        names = self.files.names()
        manifests = [name for name in names if name.endswith(SUFFIX)]
        unfinished = [name for name in names if name.startswith(".") and name.endswith(".segments")]
        pending = [name for name in names if is_pending(name)]
        if not manifests and not unfinished and not pending:
            raise UsageError(f"{self.files.shown}: holds no results of streamseg process (no *{SUFFIX})")
        for name in manifests:
            with self.files.results(name) as path:
                self._add(_verify(path, f"{self.files.shown}/{name}", self.sources, self.inputs))
        stems = {name[1 : -len(".segments")] for name in unfinished}
        told = set()
        for name in pending:
            for one in read_pending(self.files.read(name) or b"[]"):
                if one.reason == NOT_YET and (one.input in self.inputs or one.stem in stems):
                    continue  # its job was killed
                told.add(one.stem)
                what = one.reason if one.reason.startswith(one.input) else f"{one.input}: {one.reason}"
                self._miss(one.stem or one.input, f"{what} (asked for by {name})")
        for stem in sorted(stems - told):
            self._miss(stem, f"{stem}: unfinished; run the same `streamseg process` again")
        return self.verdicts

    def _miss(self, stem: str, problem: str) -> None:
        self._add(Verdict(f"{self.files.shown}/{stem}{SUFFIX}", problems=[problem]))

    def _add(self, verdict: Verdict) -> None:
        self.verdicts.append(verdict)
        self.on_verdict(verdict)


def _verify(path: Path, shown: str, sources: Path | None, inputs: set[str]) -> Verdict:
    """Check the results that a manifest names; the name of its input is added to `inputs`."""
    verdict = Verdict(shown)
    try:
        manifest = read_manifest(path)
    except OutputError as error:
        verdict.problems.append(str(error))
        return verdict
    inputs.add(manifest.input)
    verdict.masks = manifest.masks
    source = _find_source(manifest, sources)
    verdict.source_checked = source is not None
    try:
        for check in (_check_manifest, _check_outputs, _check_videos, _check_labels):
            verdict.problems += check(path, manifest)
    except (KeyError, ValueError, ArithmeticError) as error:
        verdict.problems.append(f"{path.name}: is damaged ({type(error).__name__}: {error})")
    if source is not None:
        verdict.problems += _check_source(source, manifest)
    return verdict


def _check_manifest(path: Path, manifest: Manifest) -> Iterator[str]:
    if settings_digest(manifest.identity.settings) != manifest.settings_sha256:
        yield f"{path.name}: its settings are not those of settings_sha256"
    stamps = from_runs(manifest.pts_runs)
    if len(stamps) != manifest.masks:
        yield f"{path.name}: has {len(stamps)} time stamps for {manifest.masks} masks"
    if pts_digest(stamps) != manifest.pts_sha256:
        yield f"{path.name}: its time stamps are not those of pts_sha256"
    if manifest.seq_runs and len(from_runs(manifest.seq_runs)) != manifest.masks:
        yield f"{path.name}: has other numbers of frames than masks"
    if manifest.masks == 0:
        yield f"{path.name}: has no mask"
    left = manifest.frames_decoded - manifest.frames_left_out - manifest.dropped
    if manifest.frames_found is not None and (
        left != manifest.masks or manifest.frames_found != manifest.frames_decoded + manifest.corrupt
    ):
        yield f"{path.name}: its numbers of frames found, decoded, left out and dropped do not add up"
    for name in asked_for(manifest.identity.settings):
        if name not in manifest.outputs and name not in manifest.not_made:
            yield f"{path.name}: names no {name}, which was asked for"
    yield from manifest.problems()


def _check_outputs(path: Path, manifest: Manifest) -> Iterator[str]:
    for output in manifest.outputs.values():
        file = path.parent / output.file
        try:
            if result_sha256(file) != output.sha256:
                yield f"{output.file}: has been changed (another SHA-256 than in the manifest)"
        except OSError as error:
            yield f"{output.file}: cannot be read ({error.strerror})"


def _check_videos(path: Path, manifest: Manifest) -> Iterator[str]:
    """Every video has one picture for each mask, at the source's time stamp."""
    wanted = _wanted_times(manifest)
    for output in manifest.outputs.values():
        if not output.file.endswith(".mp4"):
            continue
        try:
            with av.open(str(path.parent / output.file)) as container:
                video = container.streams.video[0]
                base = video.time_base or Fraction(0)
                found = [p.pts * base for p in container.demux(video) if p.pts is not None]
        except (av.error.FFmpegError, OSError, IndexError) as error:
            yield f"{output.file}: cannot be read as video ({type(error).__name__})"
            continue
        if len(found) != len(wanted):
            yield f"{output.file}: has {len(found)} pictures for {len(wanted)} masks"
        elif found != wanted:
            first = next(i for i, pair in enumerate(zip(found, wanted, strict=True)) if pair[0] != pair[1])
            yield f"{output.file}: picture {first} is not at its frame's time"


def _wanted_times(manifest: Manifest) -> list[Fraction]:
    fps = manifest.container["fps"]
    line = Timeline(Fraction(manifest.time_base), Fraction(fps) if fps else None)
    return [line(pts) * line.tick for pts in from_runs(manifest.pts_runs)]


def _check_labels(path: Path, manifest: Manifest) -> Iterator[str]:
    """The labels are those of labels_sha256, and the summary is theirs."""
    if "labels" not in manifest.outputs:
        return
    tick = Fraction(1, Fraction(manifest.time_base).denominator)
    summary = Summary(manifest.classes, tick)
    digests = []
    try:
        for ticks, labels in read_labels(path.parent / manifest.outputs["labels"].file):
            digests.append(hashlib.sha256(labels.data).digest())
            pixels = count_pixels(labels)
            summary.add(FrameRecord(len(digests), None, ticks, False, pixels, digests[-1]))
    except (av.error.FFmpegError, OSError, IndexError):
        return  # reported already, with its hash
    if labels_digest(digests) != manifest.labels_sha256:
        yield f"{manifest.outputs['labels'].file}: its labels are not those of labels_sha256"
    try:
        stored = json.loads((path.parent / manifest.outputs["summary"].file).read_bytes())
    except (OSError, ValueError, KeyError):
        return  # reported already
    if any(stored.get(key) != value for key, value in _plain(summary.result()).items()):
        yield f"{manifest.outputs['summary'].file}: is not the summary of these labels"


def _find_source(manifest: Manifest, sources: Path | None) -> Input | None:
    """The source where it was, or by its name in `sources` and the folders below; None where it is not found.

    Of several with its name, the one with its content.
    """
    if is_address(manifest.input):
        return None
    if is_stored(manifest.input) and sources is None:
        return Input(manifest.input, "") if Store(manifest.input).size() is not None else None
    first = None
    for path in _places(manifest.input, sources):
        one = _source_at(path)
        if one is None:
            continue
        first = first or one
        if sources is None or _has_content(one, manifest):
            return one
    return first


def _places(name: str, sources: Path | None) -> Iterator[Path]:
    """Where a source of this name may be."""
    for spelled in dict.fromkeys((name, unprintable(name))):
        named = local_path(spelled)
        if sources is None:
            yield named
            continue
        parts = [part for part in named.parts if part not in ("/", "..")]
        yield from (sources.joinpath(*parts[i:]) for i in range(len(parts)))
        for folder, _, _ in os.walk(sources):
            yield Path(folder) / named.name


def _source_at(path: Path) -> Input | None:
    try:
        found = find_inputs([str(path)])
    except StreamsegError:
        return None
    return found[0] if len(found) == 1 and (found[0].images or path.is_file()) else None


def _has_content(one: Input, manifest: Manifest) -> bool:
    try:
        content = states_of(one)
        size = sum(state[0] for state in content.values() if state is not None and isinstance(state[0], int))
        same_size = size == manifest.identity.source_bytes
        return same_size and read_content(one).sha256 == manifest.identity.source_sha256
    except SourceError:
        return False


def _check_source(source: Input, manifest: Manifest) -> Iterator[str]:
    """The source has the same content, and decoding it again gives the same frames."""
    try:
        with fetched(source) as one:
            yield from _check_frames(one, manifest)
    except (StreamsegError, msgspec.ValidationError) as error:
        yield f"{source.shown}: cannot be decoded again: {error}"


def _check_frames(source: Input, manifest: Manifest) -> Iterator[str]:
    if read_content(source).sha256 != manifest.identity.source_sha256:
        yield f"{source.shown}: is not what was processed (another SHA-256)"
        return
    names = set(ProcessConfig.__struct_fields__)
    settings = {k: v for k, v in manifest.identity.settings.items() if k in names}
    config = msgspec.convert(settings, ProcessConfig)
    account = Account()
    with open_input(source, config) as opened:
        promised = opened.frames_hint
        found = [(pick.seq, pick.picture.image.pts) for pick in picks(opened, config, account)]
    if manifest.frames_found is not None and promised != manifest.frames_promised:
        yield f"{source.shown}: promises {promised} frames, the manifest has {manifest.frames_promised}"
    if account.line is not None and not manifest.problems():
        yield account.line
    if account.decoded != manifest.frames_decoded:
        yield f"{source.shown}: {account.decoded} frames decoded, the manifest has {manifest.frames_decoded}"
    if [pts for _, pts in found] != from_runs(manifest.pts_runs):
        yield f"{source.shown}: its frames have other time stamps than the manifest"
    elif manifest.seq_runs and [seq for seq, _ in found] != from_runs(manifest.seq_runs):
        yield f"{source.shown}: its frames have other numbers than the manifest"


def _plain(value: Any) -> Any:
    """As it looks once it has been through JSON."""
    return json.loads(msgspec.json.encode(value))
