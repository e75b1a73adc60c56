"""Where pictures come from: a file, a camera or a network address, opened and closed by one thread."""

from streamseg.sources.events import Connected, Corrupt, Disconnected, Ended, Skipped, SourceEvent
from streamseg.sources.opening import open_source
from streamseg.sources.reading import OpenSource
from streamseg.sources.target import Target, is_live, resolve

__all__ = [
    "Connected",
    "Corrupt",
    "Disconnected",
    "Ended",
    "OpenSource",
    "Skipped",
    "SourceEvent",
    "Target",
    "is_live",
    "open_source",
    "resolve",
]
