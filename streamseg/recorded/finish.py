"""Segments → results: the last step of a file, done again from its beginning when it is interrupted."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import msgspec

from streamseg.errors import OutputError
from streamseg.outputs.overlay import Overlay
from streamseg.recorded.audio import Span, open_sound
from streamseg.recorded.exporting import write_exports
from streamseg.recorded.manifest import (
    SCHEMA,
    Identity,
    Manifest,
    Output,
    labels_digest,
    result_bytes,
    result_sha256,
    settings_digest,
)
from streamseg.recorded.opening import Recording
from streamseg.recorded.results import NAMES, ResultFolder
from streamseg.recorded.segments import FrameRecord, Tail, read_frames, read_packets, read_tail
from streamseg.recorded.selection import as_written
from streamseg.recorded.tables import Summary
from streamseg.recorded.timeline import pts_digest, to_runs
from streamseg.recorded.tracks import Packet, Track, TrackName, write_video
from streamseg.runtime.files import atomic_write, sync


@dataclass(slots=True, eq=False)
class Finish:
    """Makes one file's results of its `segments`, which are all there."""

    recording: Recording
    results: ResultFolder
    segments: int
    identity: Identity
    missing: tuple[str, ...] = ()  # of what the input is made of
    not_made: dict[str, str] = field(default_factory=dict)
    sound: str | None = None  # what became of it

    def run(self) -> Manifest:
        """Write the results next to the segments, then give them their names, the manifest last."""
        results = self.results
        folder = results.segments / "results"
        intermediate = results.segments / "intermediate"  # tracks that other results are made of
        for fresh in (folder, intermediate):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
        try:
            manifest = self._write(folder, intermediate)
        except BaseException:
            for fresh in (folder, intermediate):  # the disk may be full
                shutil.rmtree(fresh, ignore_errors=True)
            raise
        results.publish(folder, manifest)
        return manifest

    def _write(self, folder: Path, intermediate: Path) -> Manifest:
        tally = self._tally()
        tail = read_tail(self.results.segments, self.segments - 1)
        videos = self._write_videos(folder, intermediate, tally)
        told = write_exports(
            self.recording,
            lambda name: self._target(folder, name),
            read_frames(self.results.segments, self.segments),
            videos["labels"],
            videos.get("confidence"),
            masks=tally.masks,
            span_s=tally.span_s(),
        )
        summary = {
            "input": self.recording.input.shown,
            "engine": self.identity.engine,
            "label_set": self.recording.label_set.id,
            "damage": tail.damage,
            **tally.summary.result(),
            **told,
        }
        atomic_write(self._target(folder, "summary"), _json(summary))
        return self._manifest(folder, tally, tail)

    def _tally(self) -> _Tally:
        tally = _Tally(self.recording)
        for record in read_frames(self.results.segments, self.segments):
            tally.add(record)
        return tally

    def _write_videos(self, folder: Path, intermediate: Path, tally: _Tally) -> dict[str, Path]:
        """The tracks that are results, and those that results are made of."""
        recording, config = self.recording, self.recording.config
        size = recording.mask_size
        tracks: dict[TrackName, Path] = {"labels": folder if config.labels else intermediate}
        shape = size
        if config.confidence:
            tracks["confidence"] = folder
        if config.overlay:
            tracks["overlay"] = folder
            shape = Overlay(recording.label_set, size, config.overlay_opacity).shape
        paths: dict[str, Path] = {}
        for name, where in tracks.items():
            path = paths[name] = self._target(where, name)
            track = recording.track(name, shape if name == "overlay" else size)
            try:
                count = self._write_video(path, track, tally)
            except av.error.FFmpegError as error:
                if name != "overlay" or error.errno == errno.ENOSPC:
                    raise
                count = 0
            if name == "overlay" and count != tally.masks:
                height, width = track.size
                self.sound = None
                self.not_made[name] = f"H.264 in MP4 cannot hold it ({width}x{height})"
                path.unlink(missing_ok=True)
                continue
            if count != tally.masks:
                raise OutputError(f"{path}: {count} pictures for {tally.masks} masks; please report this")
            sync(path)
        return paths

    def _write_video(self, path: Path, track: Track, tally: _Tally) -> int:
        """One track, and with the overlay the source's sound → number of pictures."""

        def packets() -> Iterator[Packet]:
            return read_packets(self.results.segments, self.segments, track.name)

        recording, facts = self.recording, self.recording.facts
        if track.name != "overlay" or not recording.config.audio:
            return write_video(path, track, packets())
        with open_sound(recording.input, facts.track, tally.span(), facts.sound_tracks) as sound:
            try:
                count = write_video(path, track, packets(), sound)
            except av.error.FFmpegError as error:
                if sound.stream is None or error.errno == errno.ENOSPC:
                    raise
                sound.drop(f"MP4 does not take it ({error.strerror})")
                count = write_video(path, track, packets())
            self.sound = sound.told
        return count

    def _manifest(self, folder: Path, tally: _Tally, tail: Tail) -> Manifest:
        recording, spec, facts = self.recording, self.recording.spec, self.recording.facts
        made = {name: path for name in NAMES if (path := self._target(folder, name)).exists()}
        return Manifest(
            schema=SCHEMA,
            input=recording.input.shown,
            identity=self.identity,
            settings_sha256=settings_digest(self.identity.settings),
            container=msgspec.to_builtins(facts, enc_hook=str),
            label_set=self.recording.label_set.id,
            classes=self.recording.label_set.names,
            licence=spec.licence,
            size=recording.mask_size,
            frames_promised=facts.frames_hint,
            frames_found=tail.decoded + tail.corrupt,
            frames_decoded=tail.decoded,
            frames_left_out=tail.decoded - tail.taken,
            masks=tally.masks,
            dropped=tail.taken - tally.masks,
            resized=tally.resized,
            mended_time_stamps=tally.timeline.mended,
            corrupt=tail.corrupt,
            damage=tail.damage,
            damaged_at_s=tail.damaged_at_s,
            missing=self.missing,
            time_base=str(facts.time_base),
            pts_sha256=pts_digest(tally.stamps),
            pts_runs=to_runs(tally.stamps),
            seq_runs=to_runs(tally.seqs),
            labels_sha256=labels_digest(tally.digests),
            outputs={
                name: Output(path.name, result_bytes(path), result_sha256(path))
                for name, path in made.items()
            },
            not_made=self.not_made,
            sound=self.sound,
        )

    def _target(self, folder: Path, name: str) -> Path:
        return folder / self.results.result(name).name


class _Tally:
    """What one pass over the frames' records finds out."""

    def __init__(self, recording: Recording) -> None:
        self.timeline = recording.timeline()
        self.summary = Summary(recording.label_set.names, recording.tick)
        self.masks = self.resized = self.last_ticks = 0
        self.first_ticks = self.first_shift = 0
        self.moved_ticks: int | None = (
            None  # of the first picture whose time was moved otherwise than the first's
        )
        self._recording = recording
        self.digests: list[bytes] = []
        self.stamps: list[int | None] = []
        self.seqs: list[int] = []

    def add(self, record: FrameRecord) -> None:
        self.masks += 1
        self.resized += record.resized
        self.digests.append(record.digest)
        self.stamps.append(record.pts)
        self.seqs.append(record.seq)
        self.summary.add(record)
        self.last_ticks = self.timeline(record.pts)
        assert self.last_ticks == record.ticks, "time stamps are made from the source's alone"
        shift = self.timeline.shift
        if self.masks == 1:
            self.first_ticks, self.first_shift = self.last_ticks, shift
        elif self.moved_ticks is None and shift != self.first_shift:
            self.moved_ticks = self.last_ticks

    def span_s(self) -> tuple[float, float]:
        """The times of the first and the last frame."""
        tick = self._recording.tick
        return float(self.first_ticks * tick), float(self.last_ticks * tick)

    def span(self) -> Span:
        """The time that sound is wanted for: as far as it goes with the pictures."""
        tick, config = self._recording.tick, self._recording.config
        shift_s = self.first_shift * tick
        begin_s = min(Fraction(-1), self.first_ticks * tick - shift_s - 1)
        if config.start_s:
            begin_s = as_written(config.start_s)
        if self.moved_ticks is None:
            end_s = self.last_ticks * tick + 1 / self._recording.rate - shift_s
            return Span(begin_s, end_s, shift_s)
        why = "the pictures' time stamps do not go on from there"
        return Span(begin_s, self.moved_ticks * tick - shift_s, shift_s, why)


def _json(value: object) -> bytes:
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"
