"""A network ready to run: found by name, loaded by a backend, called with pictures.

An engine is a resource: it is owned by one thread, and closing it twice is fine.
"""

from __future__ import annotations

from typing import Protocol

from streamseg.config import EngineConfig
from streamseg.engine.spec import (
    EngineInfo,
    EngineSpec,
    find_engine,
    list_engines,
    read_spec,
    read_weights,
)
from streamseg.types import F32, U8, Size

__all__ = [
    "Engine",
    "EngineInfo",
    "EngineSpec",
    "find_engine",
    "list_engines",
    "load_engine",
    "read_spec",
    "read_weights",
]


class Engine(Protocol):
    """What every backend offers."""

    info: EngineInfo

    def __call__(self, batch: U8) -> F32:
        """Run RGB pictures (N, H, W, 3) → logits (N, C, h, w), h = H / output_stride; raises EngineError."""
        ...

    def warm_up(self, size: Size) -> float:
        """Run once at this input size, so that the first frame does not pay for it; returns seconds."""
        ...

    def close(self) -> None: ...


def load_engine(config: EngineConfig) -> Engine:
    """Load the engine that the settings name; raises EngineError with what is missing or damaged."""
    from streamseg.engine.onnx import OnnxEngine

    folder, spec = find_engine(config.name)
    return OnnxEngine(
        spec,
        read_weights(folder, spec, config.precision),
        precision=config.precision,
        threads=config.threads,
        input_size=config.input_size or spec.input_size,
    )
