"""An engine's files of weights: read with every hash checked, and described."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path

from streamseg.config import Precision
from streamseg.config.reading import open_regular, sha256_of
from streamseg.errors import EngineError
from streamseg.inference.onnx_file import OnnxSurface, checked_name, in_one_file, read_surface
from streamseg.inference.spec import EngineSpec, Weights


def read_weights(folder: Path, spec: EngineSpec, precision: Precision) -> bytes:
    """The graph of this precision with all its weights, every SHA-256 checked; raises EngineError.

    Weights that lie in files beside the graph are put into it.
    """
    entry = spec.weights_of(precision)
    data = _checked_bytes(folder / entry.file, entry.sha256, spec.name)
    what = f"engine {spec.name}: {entry.file}"
    surface = read_surface(data, what)
    beside = [checked_name(name, what) for name in surface.beside]
    unproved = [name for name in beside if name not in entry.data]
    if unproved:
        raise EngineError(
            f"{what} has weights in {', '.join(unproved)}, which engine.toml does not prove by a SHA-256; "
            "save it as one file (onnx.save(onnx.load(path), path)), or list them in "
            f"[weights.{'int8' if precision == 'int8' else 'fp32'}] as data = {{ NAME = SHA-256 }}"
        )
    for name in beside:
        _check_file(folder / name, entry.data[name], spec.name)
    return in_one_file(data, folder, what) if beside else data


def _checked_bytes(path: Path, sha256: str, engine: str) -> bytes:
    try:
        with open_regular(path) as file:
            data = file.read()
    except OSError as error:
        raise _unreadable(path, error, engine) from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise _damaged(path, engine)
    return data


def _check_file(path: Path, sha256: str, engine: str) -> None:
    try:
        right = sha256_of(path) == sha256
    except OSError as error:
        raise _unreadable(path, error, engine) from error
    if not right:
        raise _damaged(path, engine)


def _unreadable(path: Path, error: OSError, engine: str) -> EngineError:
    return EngineError(
        f"engine {engine}: {path.name} cannot be read ({error.strerror}); install the engine again"
    )


def _damaged(path: Path, engine: str) -> EngineError:
    return EngineError(
        f"engine {engine}: {path.name} is damaged (its SHA-256 is not the one in engine.toml); "
        "install it again"
    )


def surface_of(folder: Path, spec: EngineSpec, precision: Precision) -> OnnxSurface | None:
    """What the graph of this precision says of itself; None where read_weights() will say what is wrong."""
    path = folder / spec.weights_of(precision).file
    try:
        status = path.stat()
        return _surface(path, status.st_mtime_ns, status.st_size)
    except (OSError, EngineError):
        return None


@functools.lru_cache(maxsize=16)
def _surface(path: Path, _mtime_ns: int, _bytes: int) -> OnnxSurface:
    return read_surface(path.read_bytes(), str(path))


def weights_entry(path: Path, name: str) -> Weights:
    """A graph that is, or will be, called `name`, with its hashes; raises EngineError for another file."""
    beside = (checked_name(one, str(path)) for one in read_surface(path.read_bytes(), str(path)).beside)
    data = {one: sha256_of(path.parent / one) for one in beside}
    return Weights(file=name, sha256=sha256_of(path), data=data)
