"""What was counted in one mask."""

from __future__ import annotations

from dataclasses import dataclass

from streamseg.types import F64, IGNORE, U64, LabelSet, Size, Stamped


@dataclass(frozen=True, slots=True, eq=False)
class ZoneCount:
    """The pixels of each class in one zone."""

    zone: str
    pixels: int  # of the zone, unknown ones included; 0 where it covers no pixel's centre
    counts: U64  # (256,) pixels by class id; [IGNORE] are the unknown ones
    confidence: U64 | None = None  # (256,) sums of the confidence, 0..255 a pixel
    square_m: F64 | None = None  # (256,) areas on the ground, where the zone has one

    @property
    def unknown(self) -> int:
        return int(self.counts[IGNORE])


@dataclass(frozen=True, slots=True, eq=False)
class ZoneCounts(Stamped):
    """The counts of one mask of revision 0: the whole picture first, then the zones in their order."""

    size: Size
    engine: str
    label_set: LabelSet
    zones: tuple[ZoneCount, ...]

    def zone(self, name: str) -> ZoneCount | None:
        """The counts of a zone; None for a name that no zone has."""
        return next((one for one in self.zones if one.zone == name), None)
