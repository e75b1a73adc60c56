"""The networks that a page may choose for a stream; those that are not here are fetched."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from streamseg.inference.engine_folders import is_missing
from streamseg.inference.spec import list_engines
from streamseg.models.sources import RELEASED
from streamseg.wire.control import Status

log = logging.getLogger(__name__)

MOST = 200
SHOWN_CLASSES = 12


def choices(status: Status) -> list[dict[str, Any]]:
    """Sections of the configuration, installed engines, and released ones to be fetched; reads files."""
    loaded, taken = status.engines, status.engine_names
    sections = [
        {"name": name, "text": f"{loaded[name].id}, loaded" if name in loaded else "as in the configuration"}
        for name in taken
    ]
    installed = (one for one in _installed() if one["name"] not in taken)
    released = (_download(name) for name in RELEASED if is_to_be_fetched(name, status))
    return [*sections, *installed, *released][:MOST]


def is_to_be_fetched(name: str, status: Status) -> bool:
    """Whether a released engine is meant that is not here; a section of its name comes first."""
    return name not in status.engine_names and is_missing(name)


class Fetcher:
    """Fetches released engines in a thread of its own, one after the other; nothing else waits for it."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="fetch")
        self._fetched: dict[str, asyncio.Future[None]] = {}  # while it lasts; all who ask share it

    async def fetch(self, name: str) -> None:
        """Raises what fetch_engine() does."""
        if name not in self._fetched:
            log.info("console: fetching %s", name)
            asked = asyncio.get_running_loop().run_in_executor(self._thread, _fetch, name)
            asked.add_done_callback(lambda _: self._fetched.pop(name))
            self._fetched[name] = asked
        await asyncio.shield(self._fetched[name])

    def close(self) -> None:
        """Forget what waits; a download that has begun is abandoned, and what it got is kept."""
        for asked in list(self._fetched.values()):
            asked.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)


def _fetch(name: str) -> None:
    from streamseg.models.released import fetch_engine

    fetch_engine(name)


def _download(name: str) -> dict[str, Any]:
    released = RELEASED[name]
    height, width = released.input_size
    return {
        "name": name,
        "text": f"{released.network}, {width}x{height}, {released.classes} classes; a download of "
        f"about {released.parameters / 1e6:.0f} MB; {released.source.licence}",
    }


def _installed() -> Iterator[dict[str, Any]]:
    for folder, spec in list_engines(lambda error: log.debug("console: %s", error)):
        names = [one.name for one in spec.classes]
        more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
        height, width = spec.input_size
        yield {
            "name": folder.name,
            "text": f"{spec.network}, {width}x{height}, {len(names)} classes: "
            f"{', '.join(names[:SHOWN_CLASSES])}{more}; {spec.licence}",
        }
