"""The settings of a recorded job: what is read, what is written, and how."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from streamseg.config import EngineConfig, Settings


class ProcessConfig(Settings, frozen=True):
    """Everything that `streamseg process` needs to know besides its inputs and its folder."""

    engine: EngineConfig = EngineConfig()
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
    track: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="Which of several video tracks, from 0; unset takes the one a player would."),
    ] = None
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
    part_frames: Annotated[
        int, Meta(ge=1, le=100000, description="A part is committed at the first intra frame after so many.")
    ] = 256
