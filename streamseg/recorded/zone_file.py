"""FILE of --zones → zones and events: of a file of their own, or of a stream in a configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from streamseg.config import build_settings
from streamseg.config.toml_file import read_toml
from streamseg.errors import ConfigError, did_you_mean
from streamseg.recorded.settings import ZoneTables

_HOLDS = "write [zones.NAME] and [events.NAME] tables"


def read_zones(file: str) -> ZoneTables:
    """Read the zones and events of a TOML file; FILE#STREAM takes a stream's, where there are several.

    Raises ConfigError with every problem, each with the file's name.
    """
    name, stream = file, ""
    if "#" in file and not Path(file).exists():
        name, _, stream = file.rpartition("#")
    tree, prefix = _of_stream(read_toml(name, _HOLDS), name, stream)
    if not any(tree.values()):
        where, holds = prefix.rstrip(".") + " " * bool(prefix), _HOLDS.replace("[", f"[{prefix}")
        raise ConfigError(f"{name}: {where}has neither zones nor events; {holds}")
    try:
        return build_settings(ZoneTables, tree)
    except ConfigError as error:
        raise ConfigError(*(f"{name}: {prefix}{problem}" for problem in error.problems)) from error


def _of_stream(tree: dict[str, Any], name: str, stream: str) -> tuple[dict[str, Any], str]:
    """The tables of zones and events, and what their keys begin with in the file."""
    streams = tree.get("streams")
    if not isinstance(streams, dict) or not streams:
        if stream:
            raise ConfigError(f"{name}: has no streams; leave out #{stream}")
        return tree, ""
    if not stream:
        having = [one for one, table in streams.items() if isinstance(table, dict) and _part(table)]
        if len(having) != 1:
            found = f"streams {', '.join(having)} have zones" if having else "none of its streams has zones"
            tables = _HOLDS.replace("[", f"[streams.{next(iter(streams))}.")
            what = f"name one: {name}#{having[0]}" if having else tables
            raise ConfigError(f"{name}: {found}; {what}")
        stream = having[0]
    if not isinstance(streams.get(stream), dict):
        hint = did_you_mean(stream, streams, kind="streams", shown=str)
        raise ConfigError(f"{name}: has no stream {stream}; {hint}")
    return _part(streams[stream]), f"streams.{stream}."


def _part(table: dict[str, Any]) -> dict[str, Any]:
    return {key: table[key] for key in ("zones", "events") if table.get(key)}
