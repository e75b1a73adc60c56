"""Released engines: a published file is fetched and becomes an engine, once, in the cache."""

from __future__ import annotations

from pathlib import Path

from streamseg.crf.presets import preset
from streamseg.errors import OutputError, StreamsegError
from streamseg.inference.engine_folders import holds_engine
from streamseg.models.sources import RELEASED
from streamseg.models.tflite_engine import write_tflite_engine
from streamseg.models.weights.download import OnProgress, fetch, one_at_a_time
from streamseg.runtime.files import make_folder
from streamseg.runtime.folders import FETCHED_ENGINES, FETCHED_WEIGHTS, cache_folder


def fetch_engine(
    name: str,
    progress: OnProgress | None = None,
    *,
    weights: Path | None = None,
    out: Path | None = None,
    again: bool = False,
) -> Path:
    """Fetch a released engine and make it in `out`, by default where find_engine() finds it; its folder.

    weights: where its file is kept; unset, in the cache. again: make it also where it is there. Of several
    calls at once, in whatever processes, one makes it and the others wait. Blocks. Raises WeightsError,
    EngineError and OutputError; then there is no engine.
    """
    folder = (out or cache_folder(FETCHED_ENGINES) / name).absolute()
    make_folder(folder.parent)
    try:
        with one_at_a_time(folder):
            if again or not holds_engine(folder):
                file = fetch(name, weights or cache_folder(FETCHED_WEIGHTS), progress)
                write_released(name, file, folder)
    except StreamsegError:
        raise
    except OSError as error:
        raise OutputError(f"{folder}: cannot be written ({error.strerror})") from error
    return folder


def write_released(name: str, file: Path, out: Path) -> Path:
    """Make the engine of the fetched file of a released one in `out`; gives the folder.

    Raises WeightsError, EngineError and OutputError.
    """
    released = RELEASED[name]
    return write_tflite_engine(
        file,
        out,
        network=released.network,
        licence=released.source.licence,
        input_size=released.input_size,
        crf=preset(released.crf_preset) if released.crf_preset else None,
    )
