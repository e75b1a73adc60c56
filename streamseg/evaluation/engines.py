"""Scores of an engine, by the same steps that a frame takes in the daemon."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.evaluation.metrics import Scores, evaluate
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.inference.spec import EngineSpec
from streamseg.types import U8, Frame, Stamp
from streamseg.types.picture import Picture


def evaluate_engine(
    config: EngineConfig, data: Path, progress: Callable[[int, int], None] | None = None
) -> Scores:
    """Score the engine on every image of the folder `data`; raises EngineError or TrainingError."""
    engine = load_engine(config)
    try:
        return evaluate(lambda rgb: segment(engine, rgb), data, engine.info.spec.labels.names, progress)
    finally:
        engine.close()


def segment(engine: Engine, rgb: U8) -> U8:
    """One RGB picture (H, W, 3) → labels (H, W)."""
    (answer,) = infer(engine, [picture_frame(rgb)])
    return labels_of(answer, (rgb.shape[0], rgb.shape[1]))[0]


def segment_with_confidence(engine: Engine, rgb: U8) -> tuple[U8, U8 | None]:
    """One RGB picture (H, W, 3) → labels (H, W) and confidence; None of an engine that gives class ids."""
    (answer,) = infer(engine, [picture_frame(rgb)])
    return labels_of(answer, (rgb.shape[0], rgb.shape[1]), confidence=True)


def picture_frame(picture: U8 | Picture, seq: int = 0) -> Frame:
    """A picture as a frame that nobody waits for."""
    return Frame(Stamp("eval", 0, seq, None, Fraction(1, 1), 0, "arrival"), picture, 0)


def need_logits(spec: EngineSpec) -> None:
    """Raise EngineError for an engine whose labels the CRF cannot refine."""
    if spec.gives == "labels":
        raise EngineError(f"engine {spec.name}: gives class ids, and no probabilities of classes")
