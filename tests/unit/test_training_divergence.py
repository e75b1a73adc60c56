"""What is advised when a loss is not a number depends on what was not finite first."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from streamseg.training.divergence import FirstNotFinite  # noqa: E402

FINE, NAN, INFINITE = torch.tensor(1.0), torch.tensor(float("nan")), torch.tensor(float("inf"))


@pytest.mark.parametrize(
    ("step", "loss", "gradient", "bf16", "said"),
    [
        (0, NAN, NAN, True, "epoch 1, step 1: the loss is not finite before anything was learnt"),
        (7, NAN, NAN, False, "epoch 2, step 3: the loss is not finite; start again with a lower"),
        (7, INFINITE, NAN, True, "with a lower learning_rate (now 0.01)"),
        (5, FINE, NAN, True, "epoch 2, step 1: the gradients are not finite, although the loss is"),
        (0, FINE, INFINITE, True, 'arithmetic = "fp32"'),
        (3, FINE, NAN, False, "this machine computes them wrong"),
    ],
)  # fmt: skip
def test_the_advice_follows_what_was_not_finite_first(
    step: int, loss: torch.Tensor, gradient: torch.Tensor, bf16: bool, said: str
) -> None:
    first = FirstNotFinite(torch.device("cpu"))
    for number in range(step):
        first.note(number, FINE, FINE)
    first.note(step, loss, gradient)
    for number in range(step + 1, step + 4):
        first.note(number, NAN, NAN)
    advice = first.advice(bf16, 0.01, steps=5)
    assert said in advice
    assert ("lower learning_rate" in advice) == (step > 0 and not torch.isfinite(loss).item())
