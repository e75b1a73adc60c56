"""Which streams a page or a client of control.endpoint may add, who are not the daemon's own user.

What lies on the daemon's machine is named on that machine; a password goes only where its operator sends it.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from streamseg.config import StreamConfig
from streamseg.config.engines import DEFAULT
from streamseg.errors import ControlError, SourceError
from streamseg.inference.engine_folders import found_engines
from streamseg.sources import resolve
from streamseg.sources.target import DEMO, Target


def check_remote(name: str, wanted: StreamConfig, own: Iterable[StreamConfig]) -> None:
    """Raise a ControlError for what only the daemon's own user may set; own: the configured streams.

    Allowed are addresses of the network, with whatever login they bring along, demo:, the cameras that are
    configured, and files beside configured ones. Whether a file exists is not told.
    """
    if wanted.password_file:  # its password would be sent to any address
        raise _refused(name, "password_file", "may only be set on the daemon's machine")
    known = [one for one in map(_target, own) if one is not None]
    _check_source(name, "source", wanted.source, known)
    if wanted.detail_source:
        _check_source(name, "detail_source", wanted.detail_source, known)


def check_remote_engine(name: str, engine: str, sections: Iterable[str]) -> None:
    """Raise a ControlError for an engine that is named by its folder, and not by a known name."""
    known = {"", DEFAULT, *sections, *found_engines()}
    if engine not in known:
        raise _refused(
            name, "engine", "may only be a section [engines.NAME] or one of `streamseg engine list` there"
        )


def _check_source(name: str, key: str, source: str, own: Iterable[Target]) -> None:
    try:
        target = resolve(source)
    except SourceError:  # check_sources says why
        return
    if target.kind in ("network", "stream") or source == DEMO:
        return
    configured = [_real(one) for one in own if one.kind == target.kind]
    path = _real(target)
    if target.kind == "camera":
        what, known = "camera of the daemon's machine that is not configured", path in configured
    else:
        what, known = (
            "file outside the folders of configured files",
            path.parent in {p.parent for p in configured},
        )
    if not known:
        raise _refused(
            name, key, f"{target.shown} is a {what}; add it there: streamseg ctl add {name} --source …"
        )


def _target(config: StreamConfig) -> Target | None:
    """What a configured stream names on this machine; None for what is no way to anything."""
    try:
        return resolve(config.source) if config.source != DEMO else None
    except SourceError:
        return None


def _real(target: Target) -> Path:
    return Path(os.path.realpath(target.name))


def _refused(name: str, key: str, problem: str) -> ControlError:
    return ControlError("bad settings", f"streams.{name}.{key}: {problem}")
