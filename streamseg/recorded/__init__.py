"""Recorded files: exactly one mask for each frame, with a proof of it.

The public names are loaded when they are first used: `streamseg process --help` needs the settings alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.recorded.events import Event, Failed, Finished, JobResult, Planned, Progressed, Started
    from streamseg.recorded.job import process_file, process_files
    from streamseg.recorded.settings import ProcessConfig

__all__ = [
    "Event",
    "Failed",
    "Finished",
    "JobResult",
    "Planned",
    "ProcessConfig",
    "Progressed",
    "Started",
    "process_file",
    "process_files",
]

_HOME = {"ProcessConfig": "settings", "process_file": "job", "process_files": "job"}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'streamseg.recorded' has no attribute {name!r}")
    return getattr(importlib.import_module(f"streamseg.recorded.{_HOME.get(name, 'events')}"), name)
