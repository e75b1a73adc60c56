"""The tiny engine says what the tests that use it rely on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from streamseg.config import EngineConfig
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits


@pytest.mark.parametrize(
    ("rgb", "label"),
    [
        ((255, 0, 0), 1),
        ((0, 255, 0), 2),
        ((0, 0, 255), 3),
        ((0, 0, 0), 0),
        ((255, 255, 255), 0),
        ((90, 80, 85), 0),
    ],
)
def test_the_tiny_engine_knows_a_colour(tiny_engine: Path, rgb: tuple[int, int, int], label: int) -> None:
    engine = load_engine(EngineConfig(name=str(tiny_engine), threads=1))
    logits = engine(np.full((1, 48, 64, 3), rgb, np.uint8))
    assert logits.shape == (1, 4, 12, 16)
    assert (labels_from_logits(logits[0], (50, 70))[0] == label).all()
