"""Where engines lie, by their names; none of them is read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from streamseg.errors import OutputError
from streamseg.runtime.folders import FETCHED_ENGINES, cache_folder

RELEASED_ENGINES = (  # that models/released.py fetches
    "deeplabv3-mobilenet-v2-voc",
    "deeplabv3-mobilenet-v2-dm05-voc",
    "deeplabv3-mobilenet-edgetpu-slim-cityscapes",
)
FOR_SERVICES = Path("/var/lib/engines")  # where a service and who fetches for it both look


def engine_folders() -> list[Path]:
    """Where engines are looked for: $STREAMSEG_ENGINES, ./engines, the package, a checkout, the cache.

    What cannot be looked at is not there.
    """
    package = Path(__file__).resolve().parents[1]
    named = [Path(p) for p in os.environ.get("STREAMSEG_ENGINES", "").split(os.pathsep) if p]
    folders = [*named, Path("engines"), package / "engines", package.parent / "engines"]
    with contextlib.suppress(OutputError):  # a user without a home
        folders.append(cache_folder(FETCHED_ENGINES))
    return [folder for folder in folders if os.path.isdir(folder)]


def engine_folder(name: str) -> Path | None:
    """The folder of the engine of this name, or this folder; None where there is no such engine."""
    if os.sep in name or holds_engine(Path(name)):
        return Path(name)
    return next((f / name for f in engine_folders() if holds_engine(f / name)), None)


def found_engines() -> dict[str, Path]:
    """The engines that are here, name → folder, in the order of engine_folders(); of one name the first."""
    found: dict[str, Path] = {}
    for folder in engine_folders():
        for name in _listed(folder):
            if name not in found and holds_engine(folder / name):
                found[name] = folder / name
    return found


def holds_engine(folder: Path) -> bool:
    """Whether a folder is an engine's, as far as it can be looked at."""
    return os.path.isfile(folder / "engine.toml")


def is_missing(name: str) -> bool:
    """Whether this is the name of a released engine that is not here yet."""
    return name in RELEASED_ENGINES and engine_folder(name) is None


def how_to_fetch(name: str) -> str:
    """The command that brings a released engine to where this process looks."""
    if os.environ.get("CACHE_DIRECTORY"):
        return fetch_for_a_service(name)
    return f"streamseg model fetch {name}"


def fetch_for_a_service(name: str) -> str:
    """The command for a service, whose cache nobody else fills: the engine gets a folder of its own."""
    folder = FOR_SERVICES / name
    return f'streamseg model fetch {name} --out {folder}, and name = "{folder}"'


def _listed(folder: Path) -> Iterator[str]:
    with contextlib.suppress(OSError):
        yield from sorted(os.listdir(folder))
