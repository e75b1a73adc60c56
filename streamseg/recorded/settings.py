"""The settings of a recorded job: what is read, what is written, and how."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamseg.config import EngineConfig, EventConfig, Name, RefinementConfig, Settings, ZoneConfig
from streamseg.config.analytics import answer_conflicts


class ZoneTables(Settings, frozen=True):
    """Zones of the picture and events in them, with the tables that a stream of the daemon has."""

    zones: Annotated[
        dict[Name, ZoneConfig], Meta(description="Parts of the picture in which classes are counted.")
    ] = msgspec.field(default_factory=dict)
    events: Annotated[dict[Name, EventConfig], Meta(description="What is reported of the zones' shares.")] = (
        msgspec.field(default_factory=dict)
    )

    @property
    def given(self) -> bool:
        return bool(self.zones or self.events)

    def conflicts(self) -> Iterator[str]:
        yield from answer_conflicts(self.zones, self.events)


class ProcessConfig(Settings, frozen=True):
    """Everything that `streamseg process` needs to know besides its inputs and its folder."""

    engine: EngineConfig = EngineConfig()
    refinement: RefinementConfig = RefinementConfig()
    labels: Annotated[
        bool, Meta(description="Write NAME.labels.mp4: class ids as lossless grey video (FFV1), same PTS.")
    ] = True
    overlay: Annotated[
        bool,
        Meta(description="Write NAME.overlay.mp4: the picture under its classes, with a legend (H.264)."),
    ] = True
    overlay_opacity: Annotated[
        float, Meta(ge=0, le=1, description="How much the classes cover the picture in the overlay.")
    ] = 0.5
    confidence: Annotated[
        bool,
        Meta(description="Write NAME.confidence.mp4: the highest probability in 1/255, lossless grey video."),
    ] = False
    audio: Annotated[
        bool,
        Meta(description="Sound in the overlay: copied, or converted to AAC where MP4 does not hold it."),
    ] = True
    png: Annotated[
        bool,
        Meta(description="Write NAME.labels-png/: an indexed PNG in the classes' colours for each frame."),
    ] = False
    rle: Annotated[
        bool, Meta(description="Write NAME.rle.jsonl: a line for each frame, COCO run lengths of each class.")
    ] = False
    zarr: Annotated[
        bool,
        Meta(
            description="Write NAME.labels.zarr/: labels (N, H, W) uint8, with seq, pts and time_s "
            "(extra `zarr`)."
        ),
    ] = False
    areas: Annotated[
        bool, Meta(description="Write NAME.areas.csv: the pixels of each class in each frame.")
    ] = False
    events: Annotated[
        bool, Meta(description="Write NAME.events.csv: from when to when each class was present.")
    ] = False
    zones: Annotated[
        ZoneTables,
        Meta(
            description="A file with [zones.NAME] and [events.NAME] tables, or a configuration: write "
            "NAME.zones.csv, NAME.zone-events.csv and .jsonl, and a chart, NAME.zones.png."
        ),
    ] = ZoneTables()
    polygons: Annotated[
        Literal["geojson", "coco", "both"] | None,
        Meta(
            description="Write the outlines in each frame, in pixels: NAME.polygons.geojson or "
            "NAME.polygons.coco.json."
        ),
    ] = None
    tables: Annotated[
        Literal["csv", "parquet", "both"],
        Meta(description="How areas, events and zones are written; Parquet needs the extra `parquet`."),
    ] = "csv"
    event_share: Annotated[
        float, Meta(gt=0, le=1, description="Share of a frame from which on a class is present, for events.")
    ] = 0.001
    event_gap_s: Annotated[
        float, Meta(ge=0, description="An absence shorter than this (s) does not end an event.")
    ] = 1.0
    track: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Which of several video tracks, from 0; unset takes the one a player would."),
    ] = None
    deinterlace: Annotated[
        bool, Meta(description="Interpolate interlaced pictures, one for each that was decoded.")
    ] = True
    image_fps: Annotated[
        float, Meta(gt=0, le=1000, description="Rate of a sequence of images (frames/s).")
    ] = 25.0
    every: Annotated[int, Meta(ge=1, description="Take every N-th decoded frame only.")] = 1
    max_fps: Annotated[
        Annotated[float, Meta(gt=0, le=1000)] | None,
        Meta(description="Leave out frames above this rate (frames/s); unset takes every frame."),
    ] = None
    start_s: Annotated[
        float, Meta(ge=0, description="Begin at this time of the video (s, by its own time stamps).")
    ] = 0.0
    end_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="End before this time of the video (s, by its own time stamps)."),
    ] = None
    scale: Annotated[
        float, Meta(gt=0, le=4, description="Size of the results, as a factor of the frame's sides.")
    ] = 1.0
    batch: Annotated[
        int,
        Meta(ge=1, le=64, description="Frames run through the engine at once; more than 1 pays on a GPU."),
    ] = 1
    segment_frames: Annotated[
        int,
        Meta(ge=1, le=100000, description="A segment is committed at the first intra frame after so many."),
    ] = 256

    @property
    def table_kinds(self) -> tuple[str, ...]:
        return ("csv", "parquet") if self.tables == "both" else (self.tables,)

    @property
    def table_endings(self) -> tuple[str, ...]:
        """What the names of tables' results end with."""
        return tuple("" if kind == "csv" else f"_{kind}" for kind in self.table_kinds)

    @property
    def has_tables(self) -> bool:
        return self.areas or self.events or self.zones.given

    @property
    def polygon_kinds(self) -> tuple[str, ...]:
        both = ("geojson", "coco")
        return () if self.polygons is None else both if self.polygons == "both" else (self.polygons,)

    @property
    def refines(self) -> bool:
        """Whether labels come from more than the network's scores of their own frame."""
        return self.refinement.crf_on != "off" or self.refinement.fuses
