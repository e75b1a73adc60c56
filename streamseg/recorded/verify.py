"""Checks a folder of results against its manifests: every hash, every time stamp, every label."""

from __future__ import annotations

import contextlib
import hashlib
import json
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import msgspec

from streamseg.errors import OutputError, StreamsegError, UsageError
from streamseg.recorded.content import read_content
from streamseg.recorded.inputs import Input, fetched, find_inputs, is_address
from streamseg.recorded.manifest import (
    SCHEMA,
    SUFFIX,
    Manifest,
    labels_digest,
    read_manifest,
    result_sha256,
    settings_digest,
)
from streamseg.recorded.opening import open_input
from streamseg.recorded.results import named_outputs
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
    sources = Path(sources).expanduser() if sources is not None else None
    if is_stored(str(out)):
        return _verify_store(Store(str(out)), sources, on_verdict)
    out = Path(out).expanduser()
    manifests = sorted(out.glob(f"*{SUFFIX}"))
    unfinished = [p for p in sorted(out.glob(".*.segments")) if p.is_dir()]
    if not manifests and not unfinished:
        raise UsageError(f"{out}: holds no results of streamseg process (no *{SUFFIX})")
    verdicts = []
    for path in manifests:
        verdicts.append(_verify(path, str(path), sources))
        on_verdict(verdicts[-1])
    for folder in unfinished:
        verdicts.append(_unfinished(str(out), folder.name))
        on_verdict(verdicts[-1])
    return verdicts


def _verify_store(store: Store, sources: Path | None, on_verdict: Callable[[Verdict], None]) -> list[Verdict]:
    """Fetch one input's results after the other and check them."""
    names = store.names()
    manifests = [name for name in names if name.endswith(SUFFIX)]
    unfinished = [name for name in names if name.startswith(".") and name.endswith(".segments")]
    if not manifests and not unfinished:
        raise UsageError(f"{store.shown}: holds no results of streamseg process (no *{SUFFIX})")
    verdicts = []
    for name in manifests:
        with tempfile.TemporaryDirectory(prefix="streamseg-") as folder:
            path = Path(folder) / name
            path.write_bytes(store.read(name) or b"")
            for file in named_outputs(path.read_bytes()):
                with contextlib.suppress(OutputError):  # the check reports it
                    store.get(file, path.parent / file)
            verdicts.append(_verify(path, f"{store.shown}/{name}", sources))
        on_verdict(verdicts[-1])
    for name in unfinished:
        verdicts.append(_unfinished(store.shown, name))
        on_verdict(verdicts[-1])
    return verdicts


def _unfinished(out: str, segments: str) -> Verdict:
    stem = segments[1 : -len(".segments")]
    problem = f"{stem}: unfinished; run the same `streamseg process` again"
    return Verdict(f"{out}/{stem}{SUFFIX}", problems=[problem])


def _verify(path: Path, shown: str, sources: Path | None) -> Verdict:
    verdict = Verdict(shown)
    try:
        manifest = read_manifest(path)
    except OutputError as error:
        verdict.problems.append(str(error))
        return verdict
    verdict.masks = manifest.masks
    source = _find_source(manifest, sources)
    verdict.source_checked = source is not None
    for check in (_check_manifest, _check_outputs, _check_videos, _check_labels):
        verdict.problems += check(path, manifest)
    if source is not None:
        verdict.problems += _check_source(source, manifest)
    return verdict


def _check_manifest(path: Path, manifest: Manifest) -> Iterator[str]:
    if manifest.schema != SCHEMA:
        yield f"{path.name}: has schema {manifest.schema}, this streamseg knows {SCHEMA}"
    if settings_digest(manifest.identity.settings) != manifest.settings_sha256:
        yield f"{path.name}: its settings are not those of settings_sha256"
    stamps = from_runs(manifest.pts_runs)
    if len(stamps) != manifest.masks:
        yield f"{path.name}: has {len(stamps)} time stamps for {manifest.masks} masks"
    if pts_digest(stamps) != manifest.pts_sha256:
        yield f"{path.name}: its time stamps are not those of pts_sha256"
    if manifest.dropped:
        yield f"{path.name}: {manifest.dropped} frames have no mask"


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
    """The source where it was, or under its last name in `sources`; None where it is not found."""
    if is_address(manifest.input):
        return None
    if is_stored(manifest.input) and sources is None:
        return Input(manifest.input, "") if Store(manifest.input).size() is not None else None
    named = Path(manifest.input).expanduser()
    path = str(named if sources is None else sources / named.name)
    try:
        found = find_inputs([path])
    except UsageError:
        return None
    one = found[0]
    return one if len(found) == 1 and (one.images or Path(one.source).is_file()) else None


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
        stamps = [pick.picture.image.pts for pick in picks(opened, config, account)]
    if account.decoded != manifest.frames_decoded:
        yield f"{source.shown}: {account.decoded} frames decoded, the manifest has {manifest.frames_decoded}"
    if stamps != from_runs(manifest.pts_runs):
        yield f"{source.shown}: its frames have other time stamps than the manifest"


def _plain(value: Any) -> Any:
    """As it looks once it has been through JSON."""
    return json.loads(msgspec.json.encode(value))
