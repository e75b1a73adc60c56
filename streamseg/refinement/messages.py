"""What the refine stage and the CRF's process say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from streamseg.refinement.crf_step import CrfSetup, Posterior
from streamseg.types import F32, U8, Size

Priority = Literal["idle", "low", "normal"]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message: what to do, and how urgently."""

    setup: CrfSetup
    priority: Priority


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One keyframe."""

    logits: F32  # (C, h, w)
    picture: U8  # (H, W, 3), of the network's input size
    labels_size: Size | None
    scores: bool  # whether log-probabilities are wanted: they are two megabytes


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """The posterior, or why there is none."""

    posterior: Posterior | None
    problem: str
    took_s: float
