"""What every engine does alike: normalise where the graph does not, warm up, and name what failed."""

from __future__ import annotations

import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from streamseg.errors import EngineError, one_line
from streamseg.inference.backends.protocol import BuildSpec
from streamseg.inference.engine import EngineInfo
from streamseg.inference.spec import Normalisation
from streamseg.types import F32, U8, Size

if TYPE_CHECKING:
    from torch import Tensor


class BaseEngine(ABC):
    """An engine but for its library: a subclass runs one batch, and lets go of what it holds."""

    def __init__(self, spec: BuildSpec, info: EngineInfo) -> None:
        self.info = info
        self._norm = spec.engine.normalisation
        self._closed = False

    def __call__(self, batch: U8) -> F32:
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
                f"engine {self.info.id}: failed on a batch of {shape}: {one_line(error)}"
            ) from error


@contextlib.contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Raise what a library raises inside as an EngineError of one line that begins with `what`."""
    try:
        yield
    except (EngineError, MemoryError):
        raise
    except Exception as error:
        raise EngineError(f"{what}: {one_line(error)}") from error


def normalised(batch: U8, norm: Normalisation) -> F32:
    """(N, H, W, 3) uint8 → (N, 3, H, W) float32, for a graph that does not normalise itself."""
    scaled = (batch - np.array(norm.mean, np.float32)) / np.array(norm.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)
