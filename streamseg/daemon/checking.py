"""What keeps a configuration from running on this machine, as far as it shows without opening a source."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from functools import partial
from typing import get_args

from streamseg.config import Config, EngineConfig, Precision, StreamConfig
from streamseg.config.sharing import sharing_problems
from streamseg.daemon.wanted import absent_engines, wanted_engines
from streamseg.errors import ConfigError, OutputError, SourceError, StreamsegError
from streamseg.inference.backends.select import choices
from streamseg.inference.engine_folders import RELEASED_ENGINES, engine_folder, fetch_for_a_service
from streamseg.inference.spec import EngineSpec, find_engine
from streamseg.inference.weights import read_weights
from streamseg.net.allow_list import AllowedClients
from streamseg.net.curve_keys import read_key
from streamseg.refinement.crf_step import crf_setup, need_crf
from streamseg.runtime.folders import FETCHED_ENGINES, cache_folder
from streamseg.sources.explain import camera_problem, file_problem
from streamseg.sources.target import detail_of, resolve, target_of
from streamseg.web.setup import missing_extra, read_token

CREDENTIALS = "$CREDENTIALS_DIRECTORY"


def config_problems(config: Config) -> Iterator[str]:
    """Each thing that keeps this from running here, a line that begins with its setting."""
    for name, stream in config.streams.items():
        yield from _source_problems(name, stream)
    yield from sharing_problems(config.streams)
    yield from _key_problems(config)
    yield from _web_problems(config)
    yield from _engine_problems(config)


def config_notes(config: Config) -> Iterator[str]:
    """What could not be looked at here, is tried again while the daemon runs, or is not used."""
    used = {stream.engine for stream in config.streams.values()}
    for name in config.engines:
        if name not in used:
            yield f"engines.{name}: no stream has engine = {name!r}, so it is not loaded"
    yield from _engine_notes(config)
    for name, stream in config.streams.items():
        if _given_by_systemd(stream.password_file):
            yield f"streams.{name}.password_file: {CREDENTIALS} is set by systemd; not looked at"
        try:
            target = resolve(stream.source)
        except SourceError:
            continue
        if target.kind == "camera" and (problem := camera_problem(target.path)):
            yield f"streams.{name}.source: {target.shown}: {problem}"


def _source_problems(name: str, stream: StreamConfig) -> Iterator[str]:
    without_file = _given_by_systemd(stream.password_file)
    for key, one in (("source", stream), ("detail_source", detail_of(stream))):
        if one is None:
            continue
        try:
            target = resolve(one.source) if without_file else target_of(one, name)
        except SourceError as error:
            yield f"streams.{name}.{key}: {error}"
            continue
        if target.kind == "file" and (problem := file_problem(target.path)):
            yield f"streams.{name}.{key}: {target.shown}: {problem}"


def _key_problems(config: Config) -> Iterator[str]:
    for section, settings in (("publish", config.publish), ("control", config.control)):
        setting = f"{section}.curve_secret_key_file"
        if settings.curve_secret_key_file and not _given_by_systemd(settings.curve_secret_key_file):
            yield from _said(partial(read_key, settings.curve_secret_key_file, setting))
        if settings.allowed_clients:
            allowed = f"{section}.allowed_clients"
            yield from _said(partial(AllowedClients, settings.allowed_clients, setting=allowed))


def _web_problems(config: Config) -> Iterator[str]:
    if not config.web.listen:
        return
    if missing := missing_extra():
        yield f"web.listen: {missing}"
    if not _given_by_systemd(config.web.token_file):
        yield from _said(lambda: read_token(config.web))


def _engine_problems(config: Config) -> Iterator[str]:
    try:
        wanted = wanted_engines(config.streams, config.engine, config.engines)
    except ConfigError as error:
        yield from error.problems
        return
    if absent := list(absent_engines(wanted)):
        yield from absent
        return
    for settings in wanted.values():
        yield from _said(partial(_look_at_engine, config, settings))


def _engine_notes(config: Config) -> Iterator[str]:
    """The fetched engines that lie in this user's cache, where no other user looks for them."""
    with contextlib.suppress(ConfigError, OutputError):  # problems of their own; a user without a home
        cache = cache_folder(FETCHED_ENGINES)
        for settings in wanted_engines(config.streams, config.engine, config.engines).values():
            if settings.name in RELEASED_ENGINES and engine_folder(settings.name) == cache / settings.name:
                yield (
                    f"engine {settings.name}: lies in this user's cache; a service has its own, and needs: "
                    f"{fetch_for_a_service(settings.name)}"
                )


def _look_at_engine(config: Config, settings: EngineConfig) -> None:
    folder, spec = find_engine(settings.name)
    auto: tuple[Precision, ...] = tuple(p for p in get_args(Precision) if p in spec.weights)
    for precision in auto if settings.precision == "auto" else (settings.precision,):
        read_weights(folder, spec, precision)
    choices(settings)
    if config.refinement.level != "off":
        _look_at_crf(config, spec)


def _look_at_crf(config: Config, spec: EngineSpec) -> None:
    need_crf(crf_setup(config.refinement.crf, spec))


def _said(look: Callable[[], object]) -> Iterator[str]:
    try:
        look()
    except ConfigError as error:
        yield from error.problems
    except StreamsegError as error:
        yield str(error)


def _given_by_systemd(path: str) -> bool:
    """Whether only the service can read it: systemd hands it over when it starts."""
    return CREDENTIALS in path.replace("${CREDENTIALS_DIRECTORY}", CREDENTIALS) and (
        "CREDENTIALS_DIRECTORY" not in os.environ
    )
