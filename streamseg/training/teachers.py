"""Teachers: engines and finished runs of ours, asked what they see, in the recipe's classes."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import numpy as np
import torch
from torch import nn

from streamseg.config import EngineConfig, Precision
from streamseg.config.reading import sha256_of
from streamseg.crf import CrfParams
from streamseg.errors import EngineError, TrainingError
from streamseg.evaluation.engines import need_logits
from streamseg.inference.engine import Engine
from streamseg.inference.infer import input_size
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import fit_size
from streamseg.inference.spec import find_engine
from streamseg.models.slim import SIZE_MULTIPLE
from streamseg.training.checkpoint import load_checkpoint, recipe_of, trained_network
from streamseg.training.networks import normalise
from streamseg.training.recipe import TrainRecipe
from streamseg.training.soft import Known
from streamseg.types import F32, U8, Size
from streamseg.types.picture import scale_picture


class Teacher(Protocol):
    """A network that has learnt already."""

    @property
    def identity(self) -> str: ...  # its name and the digest of its weights

    @property
    def classes(self) -> tuple[str, ...]: ...

    @property
    def crf(self) -> CrfParams: ...

    def __call__(self, rgb: U8, scale: float, mirrored: bool) -> F32:
        """RGB (H, W, 3) → logits (C, h, w), of the picture as it is also where it was looked at mirrored."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Teachers that know the same classes of the recipe."""

    known: Known
    teachers: tuple[Teacher, ...]

    def probabilities(self, rgb: U8, grid: Size, recipe: TrainRecipe) -> F32:
        """The mean of what they see in a picture, (n, h, w) on `grid`; sums to less than 1 where they see
        other classes, too.
        """
        distil = recipe.distil
        views = [(s, m) for s in distil.scales for m in ((False, True) if distil.mirrored else (False,))]
        total = np.zeros((len(self.known.classes), *grid), np.float32)
        for teacher in self.teachers:
            names = _named(teacher, recipe)
            for scale, mirrored in views:
                logits = teacher(rgb, scale, mirrored)
                scaled = [cv2.resize(p, grid[::-1], interpolation=cv2.INTER_LINEAR) for p in logits]
                seen = np.stack(scaled)
                seen = np.exp(seen - seen.max(0))
                seen /= seen.sum(0)
                for row, known in enumerate(self.known.classes):
                    total[row] += seen[[i for i, ours in enumerate(names) if ours == known]].sum(0)
        total /= len(self.teachers) * len(views)
        if not np.isfinite(total).all():
            raise TrainingError(f"--teacher {self.teachers[0].identity}: computes NaN or infinity")
        return total


@contextlib.contextmanager
def open_teachers(names: Sequence[str], recipe: TrainRecipe, device: torch.device) -> Iterator[list[Group]]:
    """Load teachers by their names and group them by what they know; closes their engines at the end.

    A name is an engine's, its folder, a best.pt, or the folder of a run. Raises StreamsegError of one line.
    """
    with contextlib.ExitStack() as engines:
        teachers: list[Teacher] = []
        for name in names:
            try:
                teachers.append(_open(name, recipe, device, engines))
            except EngineError as error:
                raise EngineError(f"--teacher {name}: {error}") from error
        if double := {t.identity for t in teachers if [o.identity for o in teachers].count(t.identity) > 1}:
            raise TrainingError(f"--teacher {double.pop()}: is given twice")
        yield _grouped(teachers, recipe)


def _grouped(teachers: Sequence[Teacher], recipe: TrainRecipe) -> list[Group]:
    grouped: dict[tuple[int, ...], list[Teacher]] = {}
    for teacher in teachers:
        known = tuple(sorted({ours for ours in _named(teacher, recipe) if ours is not None}))
        if len(known) < 2:
            raise TrainingError(
                f"--teacher {teacher.identity.partition(' ')[0]}: {len(known)} of its classes "
                f"({_some(teacher.classes)}) are classes of the recipe ({_some(recipe.class_names)}); must "
                "be 2 or more: name the others in [distil.classes]"
            )
        grouped.setdefault(known, []).append(teacher)
    if strange := set(recipe.distil.classes) - {name for t in teachers for name in t.classes}:
        raise TrainingError(f"distil.classes.{sorted(strange)[0]}: no teacher has this class")
    return [Group(Known(k, len(g) / len(teachers)), tuple(g)) for k, g in grouped.items()]


def _named(teacher: Teacher, recipe: TrainRecipe) -> list[int | None]:
    """For each class of the teacher the recipe's class of the same name, or of that in distil.classes."""
    ours = {_plain(name): number for number, name in enumerate(recipe.class_names)}
    return [ours.get(_plain(recipe.distil.classes.get(name, name))) for name in teacher.classes]


def _plain(name: str) -> str:
    return name.casefold().replace("_", " ").replace("-", " ")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (", …" if len(names) > 6 else "")


def _open(name: str, recipe: TrainRecipe, device: torch.device, engines: contextlib.ExitStack) -> Teacher:
    run = Path(name) / "best.pt"
    path = run if run.is_file() else Path(name)
    if path.is_file():
        return _Network(path, device)
    folder, spec = find_engine(name)
    precision: Precision = "fp32" if "fp32" in spec.weights else "int8"
    config = EngineConfig(
        name=f"{folder.absolute()}{os.sep}",
        precision=precision,
        threads=recipe.threads,
    )
    engine = load_engine(config)
    engines.callback(engine.close)
    need_logits(spec)
    return _Engine(engine)


class _Engine:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        spec = engine.info.spec
        self.identity = f"{spec.name} {engine.info.weights_sha256}"
        self.classes = spec.labels.names
        self.crf = spec.crf

    def __call__(self, rgb: U8, scale: float, mirrored: bool) -> F32:
        info = self._engine.info
        size = _scaled(rgb, info.input_size, scale, info.spec.size_multiple)
        if info.limits.size is not None:
            size = input_size(self._engine, (rgb.shape[0], rgb.shape[1]))
        answer = _looked_at(lambda picture: self._engine(picture)[0], rgb, size, mirrored)
        return answer if info.kind == "logits" else np.log(np.maximum(answer, np.float32(1e-6)))


class _Network:
    """A checkpoint's averaged weights."""

    def __init__(self, path: Path, device: torch.device) -> None:
        checkpoint = load_checkpoint(path)
        self._recipe = recipe_of(checkpoint)
        self._network: nn.Module = trained_network(checkpoint).to(device)
        self._device = device
        self.identity = f"{self._recipe.network} {sha256_of(path)}"
        self.classes = self._recipe.class_names
        self.crf = CrfParams()

    @torch.no_grad()
    def __call__(self, rgb: U8, scale: float, mirrored: bool) -> F32:
        size = _scaled(rgb, self._recipe.input_size, scale, SIZE_MULTIPLE)
        return _looked_at(self._logits, rgb, size, mirrored)

    def _logits(self, picture: U8) -> F32:
        x = normalise(picture, self._network, self._device).contiguous(memory_format=torch.channels_last)
        logits: F32 = self._network(x)[0].float().cpu().numpy()
        return logits


def _scaled(rgb: U8, target: Size, scale: float, multiple: int) -> Size:
    wanted = (max(1, round(target[0] * scale)), max(1, round(target[1] * scale)))
    return fit_size((rgb.shape[0], rgb.shape[1]), wanted, multiple)


def _looked_at(network: Callable[[U8], F32], rgb: U8, size: Size, mirrored: bool) -> F32:
    picture = scale_picture(rgb, size)
    if not mirrored:
        return network(picture[None])
    return network(np.ascontiguousarray(picture[None, :, ::-1]))[..., ::-1]
