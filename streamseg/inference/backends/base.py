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
from streamseg.inference.scaling import scale_picture
from streamseg.inference.spec import Normalisation
from streamseg.types import F32, U8, Size

if TYPE_CHECKING:
    from torch import Tensor


class BaseEngine(ABC):
    """An engine but for its library: a subclass runs one batch, and lets go of what it holds."""

    def __init__(self, spec: BuildSpec, info: EngineInfo) -> None:
        self.info = info
        self._norm = spec.engine.normalisation
        self._limits = spec.limits
        self._closed = False

    def __call__(self, batch: U8) -> F32:
        return self._once(batch) if self._limits == Limits() else self._fitted(batch)

    def _once(self, batch: U8) -> F32:
        feed = batch if self._norm.in_graph else normalised(batch, self._norm)
        with self._running(batch):
            return self._run(feed)

    def warm_up(self, size: Size) -> float:
        begun_s = time.perf_counter()
        self(np.zeros((1, *size, 3), np.uint8))
        return time.perf_counter() - begun_s

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._release()

    @abstractmethod
    def _run(self, feed: U8 | F32) -> F32:
        """Run what the graph takes, (N, H, W, 3) uint8 or (N, 3, H, W) float32; the logits are new."""

    @abstractmethod
    def _release(self) -> None:
        """Let go of the library's objects; called once."""

    def _fitted(self, batch: U8) -> F32:
        """Run more, fewer or other pictures than the graph takes: in parts, filled up, scaled.

        Pictures that are scaled by input_size() have the size already.
        """
        size, count = self._limits.size or batch.shape[1:3], self._limits.batch or len(batch)
        pictures = batch if batch.shape[1:3] == size else np.stack([scale_picture(p, size) for p in batch])
        parts = []
        for start in range(0, len(pictures), count):
            part = pictures[start : start + count]
            short = len(part) < count
            logits = self._once(part[np.minimum(np.arange(count), len(part) - 1)] if short else part)
            parts.append(logits[: len(part)] if short else logits)
        logits = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return logits if batch.shape[1:3] == size else _scaled(logits, size, batch.shape[1:3])

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


def _scaled(logits: F32, size: Size, wanted: Size) -> F32:
    """Logits (N, C, h, w) of pictures of `size` as they would be of pictures of another size."""
    h, w = (
        max(1, round(have * to / of)) for have, to, of in zip(logits.shape[2:], wanted, size, strict=True)
    )
    return np.stack([np.stack([cv2.resize(plane, (w, h)) for plane in one]) for one in logits])


def normalised(batch: U8, norm: Normalisation) -> F32:
    """(N, H, W, 3) uint8 → (N, 3, H, W) float32, for a graph that does not normalise itself."""
    scaled = (batch - np.array(norm.mean, np.float32)) / np.array(norm.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)
