"""Parts → results: the last step of a file, done again from its beginning when it is interrupted."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import msgspec

from streamseg.engine import EngineSpec
from streamseg.errors import OutputError
from streamseg.recorded.manifest import (
    SCHEMA,
    Identity,
    Manifest,
    Output,
    file_sha256,
    labels_digest,
    settings_digest,
)
from streamseg.recorded.overlay import Overlay
from streamseg.recorded.parts import FrameRecord, read_frames, read_packets, read_tail, sync_folder
from streamseg.recorded.place import Place
from streamseg.recorded.route import Facts, result_size
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.summary import Summary
from streamseg.recorded.timeline import Timeline, pts_digest, to_runs
from streamseg.recorded.tracks import Track, TrackName, write_video
from streamseg.types import Size


def finish(
    place: Place,
    parts: int,
    shown: str,
    facts: Facts,
    identity: Identity,
    spec: EngineSpec,
    config: ProcessConfig,
) -> Manifest:
    """Write the results beside the parts, check them, give them their names, the manifest last."""
    folder = place.parts / "results"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    manifest = _write(place, folder, parts, shown, facts, identity, spec, config)
    place.remove_results()
    for path in sorted(folder.iterdir()):
        target = place.out / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    sync_folder(place.out)
    temporary = place.parts / "manifest.tmp"
    _write_whole(temporary, manifest.encode())
    os.replace(temporary, place.manifest)
    sync_folder(place.out)
    shutil.rmtree(place.parts)
    return manifest


def _write(
    place: Place,
    folder: Path,
    parts: int,
    shown: str,
    facts: Facts,
    identity: Identity,
    spec: EngineSpec,
    config: ProcessConfig,
) -> Manifest:
    labels = spec.labels
    size = result_size(facts.size, config.scale)
    tick = Fraction(1, facts.time_base.denominator)
    tally = _Tally(Timeline(facts.time_base, facts.fps), Summary(labels.names, tick))
    for record in read_frames(place.parts, parts):
        tally.add(record)
    tail = read_tail(place.parts, parts - 1)

    sizes: dict[TrackName, Size] = {}
    if config.labels:
        sizes["labels"] = size
    if config.confidence:
        sizes["confidence"] = size
    if config.overlay:
        sizes["overlay"] = Overlay(labels, size, config.overlay_opacity).shape
    for name, shape in sizes.items():
        track = Track(name, shape, tick, facts.fps or Fraction(25))
        path = folder / place.result(name).name
        count = write_video(path, track, read_packets(place.parts, parts, name))
        if count != tally.masks:
            raise OutputError(f"{path}: {count} pictures for {tally.masks} masks; please report this")
        _sync(path)
    summary = {
        "input": shown,
        "engine": identity.engine,
        "label_set": spec.label_set,
        "damage": tail.damage,
        **tally.summary.result(),
    }
    path = folder / place.result("summary").name
    _write_whole(path, msgspec.json.format(msgspec.json.encode(summary), indent=1) + b"\n")

    return Manifest(
        schema=SCHEMA,
        input=shown,
        identity=identity,
        settings_sha256=settings_digest(identity.settings),
        container=msgspec.to_builtins(facts, enc_hook=str),
        label_set=spec.label_set,
        classes=labels.names,
        licence=spec.licence,
        size=size,
        frames_decoded=tail.decoded,
        masks=tally.masks,
        dropped=tail.taken - tally.masks,
        resized=tally.resized,
        mended_time_stamps=tally.timeline.mended,
        corrupt=tail.corrupt,
        damage=tail.damage,
        damaged_at_s=tail.damaged_at_s,
        time_base=str(facts.time_base),
        pts_sha256=pts_digest(tally.stamps()),
        pts_runs=to_runs(tally.stamps()),
        labels_sha256=labels_digest(tally.digests),
        outputs={
            p.name.removeprefix(place.stem + ".").split(".")[0]: Output(
                p.name, p.stat().st_size, file_sha256(p)
            )
            for p in sorted(folder.iterdir())
        },
    )


class _Tally:
    """What one pass over the frames' records finds out."""

    def __init__(self, timeline: Timeline, summary: Summary) -> None:
        self.timeline, self.summary = timeline, summary
        self.masks = self.resized = 0
        self.digests: list[bytes] = []
        self._pts: list[int | None] = []

    def add(self, record: FrameRecord) -> None:
        self.masks += 1
        self.resized += record.resized
        self.digests.append(record.digest)
        self._pts.append(record.pts)
        self.summary.add(record)
        ticks = self.timeline(record.pts)
        assert ticks == record.ticks, "time stamps are made from the source's alone"

    def stamps(self) -> Iterator[int | None]:
        return iter(self._pts)


def _write_whole(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    _sync(path)


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
