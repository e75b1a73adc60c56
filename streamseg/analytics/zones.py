"""Counts as the document that subscribers get."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from streamseg.analytics.counts import ZoneCount, ZoneCounts
from streamseg.types import IGNORE, LabelSet
from streamseg.wire.message import VERSION, stamp_fields
from streamseg.wire.zones import Zone, ZoneClass, ZonesDocument


def zones_of(counts: ZoneCounts, events: Iterable[str] = ()) -> ZonesDocument:
    """The document of one mask's counts; the publisher sets its run, n and published_unix_ns.

    events: the names of those that the stream has.
    """
    return ZonesDocument(
        version=VERSION,
        kind="zones",
        **stamp_fields(counts.stamp),
        shape=counts.size,
        engine=counts.engine,
        label_set=counts.label_set.id,
        zones=shares_of(counts),
        events=list(events),
    )


def shares_of(counts: ZoneCounts) -> list[Zone]:
    """Pixels, shares, confidence and areas of each zone."""
    return [_zone(one, counts.label_set) for one in counts.zones]


def _zone(one: ZoneCount, labels: LabelSet) -> Zone:
    return Zone(
        zone=one.zone,
        pixels=one.pixels,
        unknown=one.unknown,
        square_m=None if one.square_m is None else float(one.square_m.sum()),
        classes=list(_classes(one, labels.names)),
    )


def _classes(one: ZoneCount, names: Sequence[str]) -> Iterator[ZoneClass]:
    for i in one.counts[:IGNORE].nonzero()[0].tolist():
        pixels = int(one.counts[i])
        yield ZoneClass(
            id=i,
            name=names[i] if i < len(names) else None,
            pixels=pixels,
            share=pixels / one.pixels,
            confidence=None if one.confidence is None else int(one.confidence[i]) / (255 * pixels),
            square_m=None if one.square_m is None else float(one.square_m[i]),
        )
