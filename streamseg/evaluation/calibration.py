"""Is confidence 0.8 right in 80 % of the pixels? Measured on labelled images, and how it becomes so.

Guo, Pleiss, Sun, Weinberger, "On calibration of modern neural networks", 2017.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import cv2
import msgspec
import numpy as np
import numpy.typing as npt

from streamseg.config import EngineConfig
from streamseg.config.text_file import read_text
from streamseg.errors import EngineError, TrainingError
from streamseg.evaluation.dataset import IGNORE, LabelledFolder
from streamseg.evaluation.engines import picture_frame
from streamseg.evaluation.metrics import percent
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.spec import find_engine, parse_spec, read_spec
from streamseg.runtime.files import write_file
from streamseg.types import F32, U8

BINS = 15
MOST_PIXELS = 400_000  # that the temperature is fitted on, evenly over the images
LOWEST, HIGHEST = 0.1, 10.0  # temperature
_GOLDEN = (5**0.5 - 1) / 2


class Reliability(msgspec.Struct, frozen=True, kw_only=True):
    """How confidence and truth go together at one temperature, in per cent."""

    temperature: float
    confidence: float  # its mean
    ece: float  # expected calibration error: mean distance of confidence and accuracy over BINS bins


class CalibrationReport(msgspec.Struct, frozen=True, kw_only=True):
    """The engine's confidence as it is, without a temperature, and with the best one."""

    images: int
    pixels: int
    accuracy: float
    now: Reliability
    plain: Reliability
    best: Reliability

    def to_json(self) -> str:
        return msgspec.json.encode(self).decode()


class _Sample(NamedTuple):
    """Labelled pixels: how far each class lies below the best one, and whether the best is right."""

    below: F32  # (pixels, classes), 0 for the best
    truth: npt.NDArray[np.intp]
    right: npt.NDArray[np.bool_]


def measure_calibration(
    config: EngineConfig, data: Path, progress: Callable[[int, int], None] | None = None
) -> CalibrationReport:
    """Measure on labelled images, which the network should not know; raises EngineError, TrainingError."""
    _, spec = find_engine(config.name)
    if spec.gives != "logits":
        raise EngineError(f"engine {spec.name}: gives {spec.gives}, which no temperature can calibrate")
    engine = load_engine(config)
    try:
        folder = LabelledFolder(data, len(spec.classes))
        samples = []
        for done, sample in enumerate(folder, start=1):
            (logits,) = infer(engine, [picture_frame(sample.rgb)])
            samples.append(_sampled(logits.array, sample.labels, MOST_PIXELS // len(folder)))
            if progress is not None:
                progress(done, len(folder))
    finally:
        engine.close()
    whole = _Sample(*(np.concatenate(part) for part in zip(*samples, strict=True)))
    if not len(whole.truth):
        raise TrainingError(f"{data}: has no labelled pixel to measure confidence on")
    return CalibrationReport(
        images=len(folder),
        pixels=len(whole.truth),
        accuracy=_percent(whole.right.mean()),
        now=reliability(whole, spec.temperature),
        plain=reliability(whole, 1.0),
        best=reliability(whole, fit_temperature(whole)),
    )


def reliability(sample: _Sample, temperature: float) -> Reliability:
    confidence = 1 / np.exp(sample.below / np.float32(temperature)).sum(1)
    bins = np.minimum((confidence * BINS).astype(np.intp), BINS - 1)
    sure = np.bincount(bins, confidence, BINS)
    right = np.bincount(bins, sample.right, BINS)
    return Reliability(
        temperature=temperature,
        confidence=_percent(confidence.mean()),
        ece=_percent(np.abs(sure - right).sum() / len(bins)),
    )


def fit_temperature(sample: _Sample) -> float:
    """The temperature with the least cross-entropy, by golden-section search; three digits."""

    def loss(log_temperature: float) -> float:
        scores = sample.below / np.float32(np.exp(log_temperature))
        of_truth = scores[np.arange(len(sample.truth)), sample.truth]
        return float((np.log(np.exp(scores).sum(1)) - of_truth).mean())

    low, high = np.log(LOWEST), np.log(HIGHEST)
    first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    at_first, at_second = loss(first), loss(second)
    while high - low > 1e-3:
        if at_first < at_second:
            high, second, at_second = second, first, at_first
            first = high - _GOLDEN * (high - low)
            at_first = loss(first)
        else:
            low, first, at_first = first, second, at_second
            second = low + _GOLDEN * (high - low)
            at_second = loss(second)
    return float(f"{np.exp((low + high) / 2):.3g}")


def write_temperature(folder: Path, temperature: float) -> None:
    """Put the temperature into FOLDER/engine.toml, leaving the rest; raises EngineError, OutputError."""
    path = folder / "engine.toml"
    before = read_spec(folder)
    tables = re.split(r"(?m)^(?=\[)", read_text(path), maxsplit=1)
    top = re.sub(r"(?m)^temperature\s*=.*\n", "", tables[0]).rstrip()
    line = f"temperature = {temperature:g}  # of the confidence; by: streamseg engine calibrate"
    after = f"{top}\n{line}\n\n{''.join(tables[1:])}"
    if parse_spec(after, folder) != msgspec.structs.replace(before, temperature=temperature):
        raise EngineError(f"{path}: is not laid out so that temperature can be written into it")
    write_file(path, after)


def _sampled(logits: F32, labels: U8, most: int) -> _Sample:
    """At most about `most` labelled pixels of an image, on a lattice, at its full size."""
    height, width = labels.shape
    step = max(1, int(np.ceil((height * width / max(most, 1)) ** 0.5)))
    lattice = (slice(step // 2, None, step), slice(step // 2, None, step))
    planes = [cv2.resize(plane, (width, height), interpolation=cv2.INTER_LINEAR)[lattice] for plane in logits]
    truth = labels[lattice]
    counted = truth != IGNORE
    scores = np.stack(planes, axis=-1)[counted]
    below = scores - scores.max(1, keepdims=True)
    at = truth[counted].astype(np.intp)
    return _Sample(below, at, scores.argmax(1) == at)


def _percent(share: Any) -> float:
    return cast(float, percent(float(share)))
