"""The engines that streams ask for, and what keeps streams from running on them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping

from streamseg.config import EngineConfig, StreamConfig
from streamseg.config.engines import DEFAULT, engine_settings
from streamseg.errors import ConfigError, EngineError, did_you_mean, nearest
from streamseg.inference.engine_folders import engine_folder, holds_engine
from streamseg.inference.label_view import view_of
from streamseg.inference.spec import find_engine


def wanted_engines(
    streams: Mapping[str, StreamConfig], default: EngineConfig, sections: Mapping[str, EngineConfig]
) -> dict[str, EngineConfig]:
    """The engines that these streams need, that of [engine] first. Raises ConfigError for unknown names."""
    problems = []
    found: dict[str, EngineConfig] = {}
    for stream, config in streams.items():
        name, settings = engine_settings(config.engine, default, sections)
        if problem := engine_problem(name, sections):
            problems.append(f"streams.{stream}.engine: {problem}")
        else:
            problems += label_problems(stream, config, name, settings)
        found[name] = settings
    if problems:
        raise ConfigError(*dict.fromkeys(problems))
    return dict(sorted(found.items(), key=lambda item: item[0] != DEFAULT))


def engine_problem(name: str, sections: Mapping[str, EngineConfig]) -> str:
    """Why a stream cannot be run on the engine of this name; empty where one is known by it."""
    if name == DEFAULT or name in sections:
        return ""
    try:
        find_engine(name)
    except EngineError as error:
        if nearest(name, sections) is not None:
            return f"unknown engine {name!r}; {did_you_mean(name, sections)}"
        return str(error) if os.sep in name else f"{error}; or add a section [engines.{name}]"
    return ""


def absent_engines(wanted: Mapping[str, EngineConfig]) -> Iterator[str]:
    """A line for each of these engines that is not there, whatever the folders of the others hold."""
    for name, settings in wanted.items():
        folder = engine_folder(settings.name)
        if folder is not None and holds_engine(folder):
            continue
        try:
            find_engine(settings.name)
        except EngineError as error:
            yield f"{_section(name)}.name: {error}"


def label_problems(stream: str, config: StreamConfig, name: str, settings: EngineConfig) -> Iterator[str]:
    """What of the labels that a stream is to have does not fit the engine; nothing where that is unknown."""
    try:
        _, spec = find_engine(settings.name)
    except EngineError:  # loading it says so
        return
    section = _section(name)
    own = config.labels.given

    def key(field: str) -> str:
        return f"streams.{stream}.labels.{field}" if field in own else f"{section}.labels.{field}"

    try:
        view_of(spec.labels, config.labels.over(settings.labels), spec.gives, key)
    except ConfigError as error:
        yield from error.problems


def _section(name: str) -> str:
    return "engine" if name == DEFAULT else f"engines.{name}"
