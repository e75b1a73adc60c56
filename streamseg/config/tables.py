"""Zones and events of a stream as plain tables: as a person writes them, as text, and from a file."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from streamseg.config.analytics import PICTURE, EventConfig, ZoneConfig
from streamseg.config.schema import Config, StreamConfig
from streamseg.config.settings import Settings, build_settings, settings_fields
from streamseg.config.toml_file import read_toml
from streamseg.errors import ConfigError

Tables = dict[str, dict[str, Any]]


class AnswerTables(msgspec.Struct, frozen=True):
    """The zones and events of a stream, without what is as by default."""

    zones: Tables = {}
    events: Tables = {}

    @property
    def revision(self) -> str:
        """Differs where they differ; empty where there are none."""
        if not self.zones and not self.events:
            return ""
        text = json.dumps([self.zones, self.events], sort_keys=False, ensure_ascii=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def tables_of(config: StreamConfig) -> AnswerTables:
    """The tables of a stream's zones and events."""
    return _plain_tables(config.zones, config.events)


def normal_tables(stream: str, zones: Mapping[str, Any], events: Mapping[str, Any]) -> AnswerTables:
    """Tables as somebody wrote them → as they are shown; raises ConfigError as checked_tables()."""
    return _plain_tables(*checked_tables(stream, zones, events))


def checked_tables(
    stream: str, zones: Mapping[str, Any], events: Mapping[str, Any]
) -> tuple[dict[str, ZoneConfig], dict[str, EventConfig]]:
    """Plain tables → settings; raises ConfigError with every problem, each by its full key."""
    tree = {"source": "demo:", "zones": dict(zones), "events": dict(events)}
    config = build_settings(Config, {"streams": {stream: tree}}).streams[stream]
    return config.zones, config.events


def toml_of(stream: str, tables: AnswerTables) -> str:
    """The tables as they are written in a configuration."""
    return "\n\n".join(_sections(stream, tables)) + ("\n" if tables.revision else "")


def zone_text(zone: Mapping[str, Any]) -> str:
    """A zone's table in a few words."""
    if "line" in zone:
        return f"a line of {len(zone['line'])} points, {zone['width']:.1%} of the height wide"
    holes = len(zone.get("holes", ()))
    text = f"a polygon of {len(zone['polygon'])} points"
    text += f" with {holes} hole{'s' if holes > 1 else ''}" if holes else ""
    if "ground_size_m" in zone:
        wide, deep = zone["ground_size_m"]
        text += f", on ground of {wide:g} x {deep:g} m"
    return text


def event_text(event: Mapping[str, Any]) -> str:
    """An event's table in a few words."""
    what = f"{' + '.join(event['classes'])} in {event.get('zone', PICTURE)}"
    if "above" in event:
        how = f"at least {event['above']:.4g}, until below {event.get('below', event['above']):.4g}"
    elif "changes_by" in event:
        how = f"changes by {event['changes_by']:.4g} within {event['within_s']:g} s"
    else:
        kind = "appears" if "appears" in event else "disappears"
        how = f"{kind} ({event[kind]:.4g})"
    waits = f" for {event['for_s']:g} s" if event.get("for_s") else ""
    waits += f", then none for {event['cooldown_s']:g} s" if event.get("cooldown_s") else ""
    return f"{what}: {how}{waits}"


def read_tables(path: Path, stream: str) -> AnswerTables:
    """A file with [zones.NAME] and [events.NAME], or with the same below [streams.STREAM].

    Raises ConfigError; whether the tables are right is not looked at.
    """
    tree = read_toml(path)
    streams = tree.get("streams")
    if isinstance(streams, dict):
        inner = streams.get(stream)
        if not isinstance(inner, dict):
            names = ", ".join(map(repr, streams)) or "none"
            raise ConfigError(f"{path}: has no [streams.{stream}]; streams: {names}")
        tree = {key: inner[key] for key in ("zones", "events") if key in inner}
    if unknown := [key for key in tree if key not in ("zones", "events")]:
        raise ConfigError(
            f"{path}: {unknown[0]}: unknown table; known: [zones.NAME], [events.NAME], and both below "
            f"[streams.{stream}]"
        )
    for key in ("zones", "events"):
        table = tree.get(key, {})
        if not isinstance(table, dict) or not all(isinstance(one, dict) for one in table.values()):
            raise ConfigError(
                f"{path}: {key}: must be a table of its own for each name, such as [{key}.ramp]"
            )
    return AnswerTables(tree.get("zones", {}), tree.get("events", {}))


def _plain_tables(zones: Mapping[str, ZoneConfig], events: Mapping[str, EventConfig]) -> AnswerTables:
    return AnswerTables(
        {name: _plain(zone) for name, zone in zones.items()},
        {name: _plain(event) for name, event in events.items()},
    )


def _plain(settings: Settings) -> dict[str, Any]:
    values = msgspec.json.decode(msgspec.json.encode(settings))  # with lists, not tuples
    defaults = {name: default for name, _, default, _ in settings_fields(type(settings))}
    return {name: value for name, value in values.items() if getattr(settings, name) != defaults[name]}


def _sections(stream: str, tables: AnswerTables) -> Iterator[str]:
    for kind, named in (("zones", tables.zones), ("events", tables.events)):
        for name, table in named.items():
            lines = [f"{key} = {_literal(value)}" for key, value in table.items()]
            yield "\n".join([f"[streams.{_key(stream)}.{kind}.{_key(name)}]", *lines])


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _literal(name)


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
