"""Results that a folder holds already: what stays, and how more of them are made without the network.

The labels are what costs time. A job that differs from an earlier one in its outputs alone makes them from
the earlier job's labels: the source is decoded again, the network does not run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from streamseg.errors import SourceError
from streamseg.recorded.manifest import Identity, Manifest, differences, plain_settings, result_sha256
from streamseg.recorded.results import ResultFolder
from streamseg.recorded.route import MaskedFrame, Route, SegmentEnd
from streamseg.recorded.settings import ProcessConfig, ZoneTables
from streamseg.recorded.timeline import from_runs
from streamseg.recorded.tracks import read_labels
from streamseg.types import U8, Frame, Mask

_OUTPUTS = ("labels", "overlay", "confidence", "png", "rle", "zarr", "areas", "events", "zones", "polygons")
_DETAILS = {
    "overlay": ("overlay_opacity", "audio"),
    "areas": ("tables",),
    "zones": ("tables",),
    "events": ("tables", "event_share", "event_gap_s"),
}
"""Settings that say how an output is written, not what the labels are."""

_OF_OUTPUTS = {*_OUTPUTS, *(name for names in _DETAILS.values() for name in names)}


def same_labels(before: Identity, now: Identity) -> bool:
    """Whether two jobs have the same labels, whatever they make of them; of any versions."""
    plain = [
        msgspec.structs.replace(
            one, versions={}, settings={k: v for k, v in one.settings.items() if k not in _OF_OUTPUTS}
        )
        for one in (before, now)
    ]
    return not differences(*plain)


def with_outputs(
    config: ProcessConfig, before: dict[str, Any], not_made: Collection[str] = ()
) -> ProcessConfig:
    """The settings with an earlier job's outputs, too: what is there stays, unless it is overwritten.

    How an output is written stays as well, where nothing else than the default is asked for.
    """
    changes: dict[str, Any] = {
        output: _kept(output, before[output], getattr(config, output))
        for output in _OUTPUTS
        if before.get(output) and output not in not_made
    }
    default = ProcessConfig()
    for name in dict.fromkeys(name for output in changes for name in _DETAILS.get(output, ())):
        asked, there = getattr(config, name), before.get(name)
        if name == "tables" and config.has_tables and asked != there:
            changes[name] = "both"
        elif there is not None and asked == getattr(default, name):
            changes[name] = there
    return msgspec.structs.replace(config, **changes)


def _kept(output: str, there: Any, asked: Any) -> Any:
    """An output that is there, with what is asked for now; other zones take the place of the earlier ones."""
    if output == "zones":
        return asked if asked.given else msgspec.convert(there, ZoneTables)
    if output == "polygons":
        return there if asked in (None, there) else "both"
    return True


def added(before: dict[str, Any], now: ProcessConfig) -> list[str]:
    """The outputs that differ from those of an earlier job."""
    asked = plain_settings(now)
    return [
        output
        for output in _OUTPUTS
        if asked.get(output)
        and any(before.get(name) != asked.get(name) for name in (output, *_DETAILS.get(output, ())))
    ]


@dataclass(frozen=True, slots=True)
class FinishedLabels:
    """An earlier job's label video, and its confidence video where that is needed."""

    manifest: Manifest
    labels: Path
    confidence: Path | None

    @property
    def versions(self) -> dict[str, str]:
        """Of what computed the labels."""
        return self.manifest.identity.versions


@contextlib.contextmanager
def finished_labels(
    results: ResultFolder, manifest: Manifest | None, config: ProcessConfig
) -> Iterator[FinishedLabels | None]:
    """Open an earlier job's labels for `config`; None where they are not there, changed, or not enough."""
    names = ["labels", "confidence"] if config.confidence else ["labels"]
    if manifest is None or not manifest.seq_runs or any(name not in manifest.outputs for name in names):
        yield None
        return
    with contextlib.ExitStack() as stack:
        paths = [stack.enter_context(results.local(manifest.outputs[name].file)) for name in names]
        for name, path in zip(names, paths, strict=True):
            if not path.is_file() or result_sha256(path) != manifest.outputs[name].sha256:
                yield None
                return
        yield FinishedLabels(manifest, paths[0], paths[1] if len(paths) > 1 else None)


@dataclass(slots=True, eq=False, kw_only=True)
class FinishedRoute(Route):
    """The route of frames whose labels are known; skip_frames of them are in segments that are skipped."""

    finished: FinishedLabels
    skip_frames: int

    def scores(self, frames: Iterator[Frame | SegmentEnd]) -> Iterator[Any]:
        """The frames as they are."""
        yield from frames

    def masks(self, scores: Iterator[Any]) -> Iterator[MaskedFrame | SegmentEnd]:
        """Each frame with the labels that it has in the earlier results."""
        info, manifest = self.recording.engines[0].info, self.finished.manifest
        known = zip(from_runs(manifest.seq_runs), from_runs(manifest.pts_runs), self._pictures(), strict=True)
        for _ in range(self.skip_frames):
            next(known)
        for item in scores:
            if isinstance(item, SegmentEnd):
                if item.account is not None and next(known, None) is not None:
                    raise self._others()
                yield item
                continue
            seq, pts, (labels, confidence) = next(known, (None, None, (None, None)))
            if labels is None or (seq, pts) != (item.seq, item.pts):
                raise self._others()
            mask = Mask(item.stamp, labels, self.recording.label_set.id, info.id, confidence=confidence)
            yield MaskedFrame(item, mask)

    def _others(self) -> SourceError:
        return SourceError(
            f"{self.recording.input.shown}: decodes to other frames than when its labels were made; "
            "make them again with --overwrite"
        )

    def _pictures(self) -> Iterator[tuple[U8, U8 | None]]:
        labels = (picture for _, picture in read_labels(self.finished.labels))
        if self.finished.confidence is None:
            yield from ((picture, None) for picture in labels)
            return
        confidence = (picture for _, picture in read_labels(self.finished.confidence))
        yield from zip(labels, confidence, strict=True)
