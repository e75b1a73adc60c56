"""Which arithmetic each convolution of a run uses: bf16 where this machine computes it fast and right."""

from __future__ import annotations

import functools
import itertools
import logging
import subprocess
import threading
from collections.abc import Iterable, Iterator
from typing import Self

import msgspec
import torch
from torch import Tensor, nn

from streamseg.errors import TrainingError
from streamseg.runtime.child import ChildProcess
from streamseg.runtime.import_path import module_command
from streamseg.training.kernels import STARTED, Case, Job, case_of
from streamseg.training.networks import build_network
from streamseg.training.recipe import TrainRecipe

logger = logging.getLogger(__name__)

CHECK = module_command("streamseg.training.kernels")
MOST_ERROR = 0.02  # relative; bf16 rounds to 0.2 %
WIDTHS_TRIED = 6
START_S, CASE_S = 120.0, 60.0  # what a check may take at most

Layers = dict[str, Case]  # by the layer's name


def use_bf16(recipe: TrainRecipe, device: torch.device) -> bool:
    """Whether convolutions run in bf16: by default where the device has instructions for it.

    A CPU without them emulates them: a step of lite0 takes twice, of slim three times as long as in fp32.
    """
    if recipe.arithmetic != "auto":
        return recipe.arithmetic == "bf16"
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch.cpu._is_avx512_bf16_supported()


def check_arithmetic(network: nn.Module, recipe: TrainRecipe, device: torch.device) -> None:
    """Check each of the network's convolutions in bf16, at the size it is trained with, before a run.

    What this machine computes wrong (or crashes at) is computed in fp32 instead. Raises TrainingError, with
    the nearest width that can be trained, where fp32 is wrong, too. Takes about as long as two steps.
    """
    layers = convolutions(recipe)
    with KernelCheck(device, recipe.threads) as check:
        in_bf16 = check.right(layers.values())
        if hopeless := [name for name, case in layers.items() if case not in in_bf16]:
            raise TrainingError(
                f"{_width_name(recipe)} {_width(recipe)}: this machine computes {_some(hopeless)} wrong, in "
                f"bf16 and in fp32; {_nearest_width(recipe, check)}"
            )
    wrong = [name for name, case in layers.items() if not in_bf16[case]]
    for name in wrong:
        keep_in_fp32(network.get_submodule(name))
    if wrong:
        logger.warning(
            "%d of %d convolutions run in fp32, because this machine computes them wrong in bf16: %s",
            len(wrong), len(layers), _some(wrong),
        )  # fmt: skip


def convolutions(recipe: TrainRecipe) -> Layers:
    """The convolutions of the recipe's network by name, with the sizes they have in a step."""
    with torch.device("meta"):
        network = build_network(recipe).train()
        layers: Layers = {}

        def note(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            assert isinstance(layer, nn.Conv2d)
            layers[name] = case_of(layer, inputs[0].shape)

        for name, layer in network.named_modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_pre_hook(functools.partial(note, name))
        network.supervised(torch.empty(recipe.batch_size, 3, *recipe.augment.crop_size))  # type: ignore[operator]
    return layers


def keep_in_fp32(layer: nn.Module) -> None:
    """Compute a layer of a network that is trained in float32, whatever autocast says."""
    plain = layer.forward

    def forward(x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            out: Tensor = plain(x.float())
            return out

    layer.forward = forward


class KernelCheck:
    """The child process that computes convolutions, begun again after each crash; a context manager."""

    def __init__(self, device: torch.device, threads: int) -> None:
        self._device, self._threads = device, threads
        self._child: ChildProcess | None = None
        self._lines: Iterator[bytes] = iter(())  # one for each child: it closes the pipe when it is dropped
        self._known: dict[tuple[Case, bool], float] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def errors(self, cases: Iterable[Case], bf16: bool) -> dict[Case, float]:
        """The error of each case; infinite where it crashed or did not end in time. Blocks."""
        cases = list(dict.fromkeys(cases))
        todo = [case for case in cases if (case, bf16) not in self._known]
        while todo:
            came = self._ask(todo, bf16)
            self._known |= {(case, bf16): error for case, error in zip(todo, came, strict=False)}
            if len(came) < len(todo):
                logger.debug("%s ended the check: %s", todo[len(came)], self._end())
                self._known[todo[len(came)], bf16] = float("inf")
            todo = todo[len(came) + 1 :]
        return {case: self._known[case, bf16] for case in cases}

    def right(self, cases: Iterable[Case]) -> dict[Case, bool]:
        """Of each case that can be computed right whether bf16 does it, else fp32."""
        rounded = self.errors(cases, bf16=True)
        exact = self.errors([case for case, e in rounded.items() if not e < MOST_ERROR], bf16=False)
        return {case: case not in exact for case in rounded if case not in exact or exact[case] < MOST_ERROR}

    def _ask(self, cases: list[Case], bf16: bool) -> list[float]:
        """What a child answers about the cases before it ends, if it ends."""
        if self._child is None:
            self._child = ChildProcess(CHECK, pipes=True, stderr=subprocess.DEVNULL)
            self._lines = self._child.lines()
        watchdog = threading.Timer(START_S + CASE_S * len(cases), self._child.kill)
        watchdog.start()
        self._child.send(Job(cases, bf16, str(self._device), self._threads))
        lines = itertools.islice(self._lines, len(cases) + 1)
        started = next(lines, b"").strip() == STARTED.encode()
        errors = [float(line) for line in lines] if started else []
        watchdog.cancel()
        if not started:
            raise TrainingError(f"the check of this machine's arithmetic cannot run ({self._end()})")
        return errors

    def _end(self) -> str:
        if self._child is None:
            return "not started"
        child, self._child = self._child, None
        return child.end(within_s=5.0)


def _nearest_width(recipe: TrainRecipe, check: KernelCheck) -> str:
    width, step = _width(recipe), 16 if recipe.pretrained else 12
    others = sorted(range(step, 513, step), key=lambda w: (abs(w - width), w))
    for other in [w for w in others if w != width][:WIDTHS_TRIED]:
        cases = convolutions(msgspec.structs.replace(recipe, **{_width_name(recipe): other})).values()
        if len(check.right(cases)) == len(set(cases)):
            return f"the nearest width that it computes right is {other}"
    return "nor does it compute the nearest widths right; train on another machine"


def _width_name(recipe: TrainRecipe) -> str:
    return "head_width" if recipe.pretrained else "width"


def _width(recipe: TrainRecipe) -> int:
    return recipe.head_width if recipe.pretrained else recipe.width


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
