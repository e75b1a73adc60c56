"""The model card states what was: no figure, and no word about a run, is a constant."""

from __future__ import annotations

from typing import Any

import pytest

from streamseg.evaluation import Scores
from streamseg.models.quantise import Quantised
from streamseg.training.card import CardFacts, Run, card_text
from streamseg.training.recipe import TrainRecipe


def card(**facts: Any) -> str:
    known: dict[str, Any] = {
        "name": "drawn",
        "recipe": TrainRecipe(),
        "run": Run(None, (), 1, 3, 400),
        "parameters": 1_000_000,
        "macs": 2_000_000_000,
        "quantised": None,
        "scores": {},
        "megabytes": {"fp32": 4.0},
    }
    return card_text(CardFacts(**{**known, **facts}))


@pytest.mark.parametrize(
    ("pictures", "compared", "words"),
    [
        (4, 2, "calibrated on 4 training images by minmax, which agrees best with fp32 on 2 others."),
        (1, 1, "calibrated on 1 training image by minmax, which agrees best with fp32 on 1 other."),
        (32, 16, "calibrated on 32 training images by minmax, which agrees best with fp32 on 16 others."),
    ],
)
def test_calibration_is_told_in_the_numbers_that_were_used(pictures: int, compared: int, words: str) -> None:
    assert words in card(quantised=Quantised("minmax", {"minmax": 99.0}, pictures, compared))


def test_the_beginning_of_training_is_told_as_it_was() -> None:
    assert "Trained from scratch with seed 1" in card()
    run = Run("lite0.pth 0a1b", (), 1, 3, 400)
    assert "Trained from the weights lite0.pth 0a1b with seed 1, after epoch 3 of 400" in card(run=run)


def test_the_card_names_every_run_of_a_mean() -> None:
    text = card(others=(Run("first.pt 0a1b", (), 2, 6, 6), Run("first.pt 0a1b", ("big cd34",), 3, 9, 10)))
    assert "The mean of the averaged weights of 3 runs:" in text
    assert "\n1. from scratch with seed 1, after epoch 3 of 400\n2. from the weights first.pt 0a1b" in text
    assert (
        "\n3. from the weights first.pt 0a1b and by the teachers big cd34 with seed 3, after epoch 9 of 10"
        in text
    )


def test_a_score_of_nothing_is_a_dash() -> None:
    nothing = Scores(miou=None, pixel_accuracy=None, per_class={"sky": None}, images=1, pixels=0)
    text = card(scores={"fp32": nothing})
    assert "| IoU on 1 validation image, % | fp32 |" in text
    for row in ("| sky | – |", "| **mIoU** | **–** |", "| pixel accuracy | – |"):
        assert row in text


def test_the_card_names_the_teachers() -> None:
    taught = card(run=Run(None, ("lite2 ab12", "camvid-slim cd34"), 1, 3, 400))
    assert "Trained from scratch and by the teachers lite2 ab12, camvid-slim cd34 with seed 1" in taught
    assert "teacher" not in card().partition("The whole recipe")[0]
