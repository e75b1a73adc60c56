"""What every engine does alike: normalise where the graph does not, warm up, and name what failed."""

from __future__ import annotations

import contextlib
import re
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import cv2
import numpy as np

from streamseg.errors import EngineError, one_line
from streamseg.inference.backends.protocol import BuildSpec
from streamseg.inference.engine import EngineInfo, Limits
from streamseg.inference.forms import Array, answer_of, feed_of, fits_letterbox, with_bars, without_bars
from streamseg.types import F32, U8, Size
from streamseg.types.picture import scale_picture

if TYPE_CHECKING:
    from torch import Tensor


class BaseEngine(ABC):
    """An engine but for its library: a subclass runs one batch, and lets go of what it holds."""

    def __init__(self, spec: BuildSpec, info: EngineInfo) -> None:
        self.info = info
        self._form = None if spec.engine.usual else spec.engine
        self._limits = spec.limits
        self._cell = (spec.engine.output_stride or 1) if spec.engine.fit == "letterbox" else 0
        self._closed = False

    def __call__(self, batch: U8) -> F32:
        return self._once(batch) if self._limits == Limits() else self._fitted(batch)

    def _once(self, batch: U8) -> F32:
        if self._form is None:
            with self._running(batch):
                return self._run(batch)
        with self._running(batch):
            return answer_of(self._run(feed_of(batch, self._form)), self._form)

    def warm_up(self, size: Size) -> float:
        begun_s = time.perf_counter()
        self(np.zeros((1, *size, 3), np.uint8))
        return time.perf_counter() - begun_s

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _run(self, feed: Array) -> F32:
        """Run what the graph takes → what the output of engine.toml gives, as new numbers."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of the library's objects; called once."""

    def _fitted(self, batch: U8) -> F32:
        """Run more, fewer or other pictures than the graph takes: in parts, filled up, with bars or scaled.

        Pictures that are scaled by input_size() have the size already, or fit between the bars.
        """
        given = batch.shape[1:3]
        size, count = self._limits.size or given, self._limits.batch or len(batch)
        boxed = given != size and self._cell > 0 and fits_letterbox(given, size, self._cell)
        if boxed:
            pictures = with_bars(batch, size, self._cell)
        else:
            pictures = batch if given == size else np.stack([scale_picture(p, size) for p in batch])
        parts = []
        for start in range(0, len(pictures), count):
            part = pictures[start : start + count]
            short = len(part) < count
            logits = self._once(part[np.minimum(np.arange(count), len(part) - 1)] if short else part)
            parts.append(logits[: len(part)] if short else logits)
        logits = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if boxed:
            return without_bars(logits, given, size, self._cell)
        return logits if given == size else _scaled(logits, size, given, self.info.spec.gives == "labels")

    @contextlib.contextmanager
    def _running(self, batch: U8 | Tensor) -> Iterator[None]:
        """Raise the library's errors as EngineError with the batch's shape; raises it, too, when closed."""
        if self._closed:
            raise EngineError(f"engine {self.info.id}: is closed")
        try:
            yield
        except (EngineError, MemoryError):
            raise
        except Exception as error:
            shape = tuple(batch.shape)
            raise EngineError(
                f"engine {self.info.id}: failed on a batch of {shape}: {reason(error)}"
            ) from error


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Raise what a library raises inside as an EngineError of one line that begins with `what`."""
    try:
        yield
    except (EngineError, MemoryError):
        raise
    except Exception as error:
        raise EngineError(f"{what}: {reason(error)}") from error


_NOISE = re.compile(
    r"\[ONNXRuntimeError\] : \d+ : [A-Z_]+ : |Exception from \S+:\s*|Check '[^']*' failed at \S+:\s*"
    r"|/?(\w+/)*\w+\.(cc|cpp|h):\d+ (onnxruntime::)?\S+\s*"
)


def reason(error: object) -> str:
    """A library's error text on one line, without its codes and its own source files."""
    return one_line(_NOISE.sub("", one_line(error, 2000)) or error)


def _scaled(logits: F32, size: Size, wanted: Size, ids: bool) -> F32:
    """Logits (N, C, h, w) of pictures of `size` as they would be of another size; or class ids."""
    h, w = (
        max(1, round(have * to / of)) for have, to, of in zip(logits.shape[2:], wanted, size, strict=True)
    )
    how = cv2.INTER_NEAREST_EXACT if ids else cv2.INTER_LINEAR
    return np.stack(
        [np.stack([cv2.resize(plane, (w, h), interpolation=how) for plane in one]) for one in logits]
    )
