"""Released engines: a published file is fetched and becomes an engine, once, in the cache."""

from __future__ import annotations

from pathlib import Path

from streamseg.crf.presets import preset
from streamseg.models.sources import RELEASED
from streamseg.models.tflite_engine import write_tflite_engine
from streamseg.models.weights.download import OnProgress, fetch
from streamseg.runtime.folders import FETCHED_ENGINES, FETCHED_WEIGHTS, cache_folder


def fetch_engine(name: str, progress: OnProgress | None = None) -> Path:
    """Fetch a released engine and make it where find_engine() finds it; gives its folder.

    Blocks. Raises WeightsError, EngineError and OutputError; then there is no engine.
    """
    return write_released(name, fetch(name, cache_folder(FETCHED_WEIGHTS), progress))


def write_released(name: str, file: Path, out: Path | None = None) -> Path:
    """Make the engine of the fetched file of a released one, in `out` or the cache; gives the folder.

    Raises WeightsError, EngineError and OutputError.
    """
    released = RELEASED[name]
    return write_tflite_engine(
        file,
        out or cache_folder(FETCHED_ENGINES) / name,
        network=released.network,
        licence=released.source.licence,
        input_size=released.input_size,
        crf=preset(released.crf_preset) if released.crf_preset else None,
    )
