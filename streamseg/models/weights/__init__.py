"""Weights of others: fetched, read from Caffe's and torch's files, matched by name; ONNX graphs taken in.

`fetch` and ONNX graphs (onnx_import.py) need nothing heavy; the rest needs the torch extra, and loads it when
it is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from streamseg.models.sources import RELEASED, SOURCES, Released, Source, find_source
from streamseg.models.weights.download import fetch

if TYPE_CHECKING:
    from streamseg.models.weights.files import import_weights

__all__ = ["RELEASED", "SOURCES", "Released", "Source", "fetch", "find_source", "import_weights"]


def __getattr__(name: str) -> Any:
    if name == "import_weights":
        from streamseg.models.weights.files import import_weights

        return import_weights
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
