"""Networks ready to run: found by name, built for this machine, loaded by a backend, called with pictures.

An engine is a resource: it is owned by one thread at a time, and closing it twice is fine.
"""

from __future__ import annotations

from streamseg.engine.backend import (
    BACKENDS,
    Backend,
    BuildSpec,
    Engine,
    TensorEngine,
    backend_of,
    build_spec,
)
from streamseg.engine.choice import Choice, choices, load_engine
from streamseg.engine.spec import (
    EngineInfo,
    EngineSpec,
    Shapes,
    find_engine,
    list_engines,
    read_spec,
    read_weights,
)

__all__ = [
    "BACKENDS",
    "Backend",
    "BuildSpec",
    "Choice",
    "Engine",
    "EngineInfo",
    "EngineSpec",
    "Shapes",
    "TensorEngine",
    "backend_of",
    "build_spec",
    "choices",
    "find_engine",
    "list_engines",
    "load_engine",
    "read_spec",
    "read_weights",
]
