"""The networks that a page may choose for a stream."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

from streamseg.errors import StreamsegError
from streamseg.inference.spec import engine_folders, is_missing, read_spec
from streamseg.models.sources import RELEASED
from streamseg.wire.control import Status

log = logging.getLogger(__name__)

MOST = 200
SHOWN_CLASSES = 12


def choices(status: Status) -> list[dict[str, Any]]:
    """Sections of the configuration, installed engines, and released ones to be fetched; reads files."""
    loaded = status.engines
    sections = [
        {"name": name, "text": f"{loaded[name].id}, loaded" if name in loaded else "as in the configuration"}
        for name in status.engine_names
    ]
    taken = set(status.engine_names)
    return [*sections, *(one for one in (*_installed(), *_released()) if one["name"] not in taken)][:MOST]


def _released() -> Iterator[dict[str, Any]]:
    for name, released in RELEASED.items():
        if is_missing(name):
            height, width = released.input_size
            yield {
                "name": name,
                "text": f"{released.network}, {width}x{height}, {released.classes} classes; a download of "
                f"about {released.parameters / 1e6:.0f} MB; {released.source.licence}",
            }


def _installed() -> Iterator[dict[str, Any]]:
    seen: set[str] = set()
    for folder in engine_folders():
        for toml in sorted(folder.glob("*/engine.toml")):
            name = toml.parent.name
            if name in seen:
                continue
            seen.add(name)
            try:
                spec = read_spec(toml.parent)
            except StreamsegError as error:  # loading it would say the same to the person who tries
                log.debug("console: engine %s: %s", name, error)
                continue
            names = [one.name for one in spec.classes]
            more = f" and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
            height, width = spec.input_size
            yield {
                "name": name,
                "text": f"{spec.network}, {width}x{height}, {len(names)} classes: "
                f"{', '.join(names[:SHOWN_CLASSES])}{more}; {spec.licence}",
            }
