"""Real-time video segmentation: streams in, label masks out.

The public names are loaded when they are first used, so that `import streamseg` stays light.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from streamseg.client import EventSubscription, Subscription, subscribe, subscribe_events
    from streamseg.config import Config, load_config, parse_config
    from streamseg.daemon import Daemon
    from streamseg.errors import StreamsegError
    from streamseg.recorded import ProcessConfig, process_file, process_files
    from streamseg.types import IGNORE, ClassInfo, Frame, LabelSet, Mask

__all__ = [
    "IGNORE",
    "ClassInfo",
    "Config",
    "Daemon",
    "EventSubscription",
    "Frame",
    "LabelSet",
    "Mask",
    "ProcessConfig",
    "StreamsegError",
    "Subscription",
    "load_config",
    "parse_config",
    "process_file",
    "process_files",
    "subscribe",
    "subscribe_events",
]

_HOME = {
    "Config": "config",
    "Daemon": "daemon",
    "EventSubscription": "client",
    "ProcessConfig": "recorded",
    "StreamsegError": "errors",
    "Subscription": "client",
    "load_config": "config",
    "parse_config": "config",
    "process_file": "recorded",
    "process_files": "recorded",
    "subscribe": "client",
    "subscribe_events": "client",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("streamseg")
    if name not in __all__:
        raise AttributeError(f"module 'streamseg' has no attribute {name!r}")
    return getattr(importlib.import_module(f"streamseg.{_HOME.get(name, 'types')}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
