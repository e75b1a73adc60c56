"""Why a loss is not a number: the first step at which something was not finite tells it."""

from __future__ import annotations

import torch
from torch import Tensor

NEVER = 1 << 62


class FirstNotFinite:
    """Remembers, without waiting for the device, the first steps whose loss or gradient was not finite."""

    def __init__(self, device: torch.device) -> None:
        self._loss = torch.full((), NEVER, dtype=torch.int64, device=device)
        self._gradient = torch.full((), NEVER, dtype=torch.int64, device=device)

    def note(self, step: int, loss: Tensor, gradient_norm: Tensor) -> None:
        """`step` counts from the run's first one."""
        for kept, value in ((self._loss, loss), (self._gradient, gradient_norm)):
            kept.copy_(torch.where(torch.isfinite(value.detach()), kept, kept.clamp(max=step)))

    def advice(self, bf16: bool, learning_rate: float, steps: int) -> str:
        """What happened and what to do; `steps` are those of an epoch."""
        loss, gradient = int(self._loss), int(self._gradient)
        first = min(loss, gradient)
        where = f"epoch {first // steps + 1}, step {first % steps + 1}"
        if gradient < loss:
            what = f"{where}: the gradients are not finite, although the loss is"
            if bf16:
                return f'{what}; resume with arithmetic = "fp32"'
            return f"{what}; this machine computes them wrong, train on another one or device"
        if first == 0:
            return (
                f"{where}: the loss is not finite before anything was learnt; look at the weights of --init "
                "and at the recipe, the learning rate is not the cause"
            )
        return (
            f"{where}: the loss is not finite; start again with a lower learning_rate (now {learning_rate:g})"
        )
