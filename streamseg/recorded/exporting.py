"""Everything that is made from the labels, in one pass over them."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from streamseg.recorded.exports import Export, PngFolder, RleLines, Target, ZarrGroup
from streamseg.recorded.opening import Recording
from streamseg.recorded.polygons import Coco, GeoJson, Polygons
from streamseg.recorded.segments import FrameRecord
from streamseg.recorded.tables import AreaTable, EventTable
from streamseg.recorded.tracks import read_labels
from streamseg.recorded.zones import ZoneResults


def write_exports(
    recording: Recording,
    target: Target,
    records: Iterable[FrameRecord],
    labels: Path,
    confidence: Path | None,
    *,
    masks: int,
    span_s: tuple[float, float],
) -> dict[str, Any]:
    """Make what was asked for from the videos of `labels` and `confidence` → what the summary tells of it.

    There are `masks` frames, the first and the last at the times `span_s`.
    """
    exports = list(_asked_for(recording, target, masks, span_s))
    if not exports:
        return {}
    if recording.config.polygons is None and not recording.config.zones.given:
        confidence = None  # of no use
    try:
        pictures = (picture for _, picture in read_labels(labels))
        sures = (
            itertools.repeat(None, masks)
            if confidence is None
            else (one for _, one in read_labels(confidence))
        )
        for record, picture, sure in zip(records, pictures, sures, strict=True):
            for export in exports:
                export.add(record, picture, sure)
        return {key: told for export in exports for key, told in (export.close() or {}).items()}
    except BaseException:
        for export in exports:  # what is buffered is written when a file is closed, and the disk may be full
            with contextlib.suppress(Exception):
                export.close()
        raise


def _asked_for(
    recording: Recording, target: Target, masks: int, span_s: tuple[float, float]
) -> Iterator[Export]:
    config, labels, tick = recording.config, recording.label_set, recording.tick
    size, images = recording.mask_size, recording.input.images
    if config.png:
        yield PngFolder(target("png"), labels, images)
    if config.rle:
        yield RleLines(target("rle"), labels, tick)
    if config.zarr:
        yield ZarrGroup(target("zarr"), masks, size, tick, labels.names)
    for ending in config.table_endings:
        if config.areas:
            yield AreaTable(target(f"areas{ending}"), labels, tick)
        if config.events:
            yield EventTable(target(f"events{ending}"), labels, tick, config.event_share, config.event_gap_s)
    if config.polygons is not None:
        files: list[GeoJson | Coco] = []
        if "geojson" in config.polygon_kinds:
            files.append(GeoJson(target("polygons"), size, labels, tick))
        if "coco" in config.polygon_kinds:
            files.append(Coco(target("polygons_coco"), size, labels, tick, images))
        yield Polygons(files)
    if config.zones.given:
        yield ZoneResults(recording, target, span_s)
