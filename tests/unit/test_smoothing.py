"""Smoothing: every frame comes back once, in order, steadier, and its scene's edges are kept."""

from __future__ import annotations

import numpy as np
import pytest

from streamseg.refinement.flow import grey_of, one_thread
from streamseg.refinement.fusion import Fused
from streamseg.refinement.smoothing import BLOCK, Smoothing
from streamseg.types import U8

SIZE = (32, 48)


def picture(shift: int) -> U8:
    """Soft noise that moves to the right."""
    noise = np.random.default_rng(0).integers(0, 255, (16, 40, 3), np.uint8)
    return np.roll(np.kron(noise, np.ones((4, 4, 1), np.uint8)), shift, axis=1)[:, :96]


def fused(seq: int, class_: int, shift: int = 0, sure: float = 0.6, size: tuple[int, int] = SIZE) -> Fused:
    """Two classes; everywhere this one, with this probability, of the noise moved by `shift` pixels."""
    probabilities = np.full((2, *size), 1 - sure, np.float32)
    probabilities[class_] = sure
    return Fused(
        np.log(probabilities),
        np.zeros((2, 8, 12), np.float32),
        (False, False),
        seq,
        grey_of(picture(shift), size),
    )


@pytest.fixture(autouse=True)
def repeatable() -> None:
    one_thread()


@pytest.mark.parametrize("count", [1, 5, 6, 7, 20])
def test_every_frame_comes_back_once_and_in_order(count: int) -> None:
    smoothing = Smoothing(lookahead=2)
    found = []
    for seq in range(count):
        found += smoothing.add(fused(seq, 0, seq))
        assert len(found) >= seq + 1 - (BLOCK + 1) * 2 + 1
    found += smoothing.flush()
    assert [f.refined_seq for f in found] == list(range(count))
    assert smoothing.flush() == []


def test_what_comes_after_counts() -> None:
    smoothing = Smoothing(lookahead=2)
    classes = [1, 0, 0, 0]
    for seq, class_ in enumerate(classes):
        assert smoothing.add(fused(seq, class_, sure=0.9 - 0.3 * class_)) == []
    first, *_, last = smoothing.flush()
    middle = first.log_probabilities[:, 8:-8, 8:-8]
    assert (middle[0] > middle[1]).mean() > 0.9  # three frames behind it say so
    assert np.allclose(last.log_probabilities, fused(3, 0, sure=0.9).log_probabilities, atol=1e-5)


@pytest.mark.parametrize("how", ["cut", "size"])
def test_another_scene_and_another_size_count_for_nothing(how: str) -> None:
    smoothing = Smoothing(lookahead=2)
    smoothing.add(fused(0, 1))
    size = SIZE if how == "cut" else (24, 40)
    finished = smoothing.add(fused(1, 0, 1, size=size), cut=how == "cut")
    assert [f.refined_seq for f in finished] == [0]
    assert np.allclose(finished[0].log_probabilities, fused(0, 1).log_probabilities, atol=1e-5)


def test_it_repeats_to_the_byte() -> None:
    def run() -> list[bytes]:
        smoothing = Smoothing(lookahead=1)
        made = [f for seq in range(7) for f in smoothing.add(fused(seq, seq % 2, seq))]
        return [f.log_probabilities.tobytes() for f in made + smoothing.flush()]

    assert run() == run()
