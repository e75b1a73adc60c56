"""Scores of an engine, by the same steps that a frame takes in the daemon."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from streamseg.config import EngineConfig
from streamseg.evaluation.metrics import Scores, evaluate
from streamseg.inference.engine import Engine
from streamseg.inference.infer import input_size
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits, make_batch
from streamseg.types import U8


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
    logits = engine(make_batch([rgb], input_size(engine, (rgb.shape[0], rgb.shape[1]))))
    return labels_from_logits(logits[0], (rgb.shape[0], rgb.shape[1]))[0]
