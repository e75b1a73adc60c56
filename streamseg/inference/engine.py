"""An engine: a network ready to run, and its properties."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

import msgspec

from streamseg.config import Precision
from streamseg.inference.spec import EngineSpec
from streamseg.types import F32, U8, AnswerKind, LabelSet, Size

if TYPE_CHECKING:
    from torch import Tensor


class Engine(Protocol):
    """A network ready to run. Belongs to one thread at a time."""

    @property
    def info(self) -> EngineInfo: ...

    def __call__(self, batch: U8) -> F32:
        """Run RGB pictures (N, H, W, 3) → logits (N, C, h, w), h = H / output_stride; raises EngineError."""
        ...

    def warm_up(self, size: Size) -> float:
        """Run once at this input size, so that the first frame does not pay for it; returns seconds."""
        ...

    def close(self) -> None: ...


class Queued(NamedTuple):
    """Logits (N, C, h, w) in torch, which may still be computed."""

    logits: Tensor
    ready: Any = None  # a CUDA event after which they are there; None: they are

    def wait(self) -> Tensor:
        """Have the current stream wait for them; on the host it takes no time."""
        if self.ready is not None:
            import torch

            torch.cuda.current_stream().wait_event(self.ready)
        return self.logits


class TensorEngine(Engine, Protocol):
    """An engine that also takes pictures that are already on its device, and leaves the logits on it."""

    def on_device(self, batch: Tensor) -> Queued | F32:
        """The same for uint8 (N, H, W, 3) in torch → logits in torch; of a SwitchEngine also on the host.

        batch is on the device of info.tensors or on the host; the logits are on the device, and the caller
        owns them. Returns when they are queued, on a GPU with at most one batch before them; what is wrong
        with that one may be raised now, as EngineError.
        """
        ...


class Shapes(msgspec.Struct, frozen=True):
    """The batches (N, H, W) that a plan takes: from smallest to largest, fastest at usual."""

    smallest: tuple[int, int, int]
    usual: tuple[int, int, int]
    largest: tuple[int, int, int]

    def take(self, batch: tuple[int, int, int]) -> bool:
        """Whether a plan takes a batch of this shape."""
        return all(a <= b <= c for a, b, c in zip(self.smallest, batch, self.largest, strict=True))


class Limits(msgspec.Struct, frozen=True):
    """The batch and the size (height, width) that a graph's input fixes; None where it is free."""

    batch: int | None = None
    size: Size | None = None


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True, dict=True):
    """The properties of a loaded engine."""

    id: str  # name/precision/backend, as in masks
    spec: EngineSpec
    backend: str
    precision: Precision
    device: str
    threads: int
    input_size: Size  # frames are scaled to about this many pixels; to this size, where limits have one
    limits: Limits = Limits()
    shapes: Shapes | None = None  # None: it takes all batches
    kind: AnswerKind = "logits"  # what it gives; class ids are (N, 1, h, w)
    # The device of batches and logits in torch, for a TensorEngine; else empty.
    tensors: Literal["", "cpu", "cuda"] = ""

    @cached_property
    def labels(self) -> LabelSet:
        """The classes of what it gives; one object for all its answers."""
        return self.spec.labels

    @property
    def weights_sha256(self) -> str:
        """Of the graph that this precision starts from, with its weights."""
        return self.spec.weights_of(self.precision).digest
