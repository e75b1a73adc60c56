"""[refinement]: how the network's masks are made sharper and steadier, with the same keys live and recorded.

A level sets the rest; each choice behind it has an expert setting of its own.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

import msgspec
from msgspec import Meta

from streamseg.config.settings import Settings

CrfOn = Literal["off", "keyframes", "all"]

LOOKAHEAD = 4
"""Frames that level best looks ahead in a recording; docs/accuracy.md has what they give."""


class CrfConfig(Settings, frozen=True):
    """The dense CRF (Krähenbühl & Koltun 2011)."""

    on: Annotated[
        CrfOn | None,
        Meta(description="The frames that go through it; unset, the level decides."),
    ] = None
    preset: Annotated[
        str,
        Meta(
            min_length=1,
            description="engine for the engine's own parameters, a preset such as deeplab-v2-vgg16, or"
            " another engine, for those tuned for it.",
        ),
    ] = "engine"
    quality: Annotated[
        Literal["exact", "balanced", "fast"],
        Meta(
            description="How exactly it is inferred; balanced is about three times as fast as exact, "
            "fast five times."
        ),
    ] = "balanced"
    threads: Annotated[int, Meta(ge=1, le=64, description="CPU threads of the CRF.")] = 1
    backend: Annotated[
        Literal["native", "gpu"],
        Meta(
            description="What runs it: C++ on the CPU, or torch and Triton on a CUDA device (extra torch, "
            "always exact). gpu has not been run on hardware yet."
        ),
    ] = "native"


class FusionConfig(Settings, frozen=True):
    """Fusion of each frame with the last refinement and with the frames before."""

    enabled: Annotated[
        bool | None,
        Meta(description="Fuse, for about 3 ms a frame of CPU time; unset, the level decides."),
    ] = None
    refined_weight: Annotated[
        float, Meta(ge=0, le=0.7, description="Weight of the last refinement, where it fits perfectly.")
    ] = 0.3
    decay: Annotated[
        float, Meta(gt=0, le=1, description="Factor of that weight for each frame since the keyframe.")
    ] = 0.97
    soften: Annotated[
        float,
        Meta(ge=0, le=0.5, description="Share of a refinement that is spread evenly over the classes."),
    ] = 0.05
    recursion: Annotated[
        float, Meta(ge=0, le=0.7, description="Weight of the fused frame before, where it fits perfectly.")
    ] = 0.5


class RefinementConfig(Settings, frozen=True):
    """Sharper and steadier masks, live and recorded: a level, and expert settings."""

    level: Annotated[
        Literal["off", "live", "best"],
        Meta(
            description="off: the network's masks; live: the CRF on keyframes, and fusion over time; best: "
            "recordings are smoothed with the frames that follow, too. Keyframes of a live stream are "
            "refined for those who subscribe to refined masks at every level."
        ),
    ] = "off"
    every: Annotated[
        int, Meta(ge=1, description="A keyframe at least every N frames, and where the scene changes.")
    ] = 5
    lookahead: Annotated[
        Annotated[int, Meta(ge=0, le=32)] | None,
        Meta(
            description="Frames of a recording that each one is fused with beyond itself, at least; 0 is "
            "off; unset, the level decides."
        ),
    ] = None
    max_age_s: Annotated[
        float,
        Meta(
            gt=0,
            le=60,
            description="Live: a keyframe older than this (s) is dropped; the start of the CRF's process "
            "does not count.",
        ),
    ] = 2.0
    timeout_s: Annotated[
        float,
        Meta(gt=0, le=300, description="Live: the CRF is restarted after this time without an answer (s)."),
    ] = 10.0
    priority: Annotated[
        Literal["idle", "low", "normal"],
        Meta(description="Live: CPU share of the CRF: what is left over, a small one, or an equal one."),
    ] = "idle"
    crf: CrfConfig = CrfConfig()
    fusion: FusionConfig = FusionConfig()

    @property
    def crf_on(self) -> CrfOn:
        """The frames that go through the CRF without a subscriber."""
        return self.crf.on or ("off" if self.level == "off" else "keyframes")

    @property
    def fuses(self) -> bool:
        """Whether frames are fused with those before."""
        on = self.level != "off" if self.fusion.enabled is None else self.fusion.enabled
        return on or self.frames_ahead > 0

    @property
    def frames_ahead(self) -> int:
        """How many frames of a recording are looked ahead."""
        if self.lookahead is None:
            return LOOKAHEAD if self.level == "best" and self.fusion.enabled is not False else 0
        return self.lookahead

    def written_out(self) -> Self:
        """The same with each choice of the level written down as its own setting."""
        return msgspec.structs.replace(
            self,
            lookahead=self.frames_ahead,
            crf=msgspec.structs.replace(self.crf, on=self.crf_on),
            fusion=msgspec.structs.replace(self.fusion, enabled=self.fuses),
        )
