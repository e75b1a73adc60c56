"""What a changed configuration means for a running daemon; computed, not applied."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from streamseg.config import Config, EngineConfig, FusionConfig, Settings, StreamConfig
from streamseg.config.sharing import sharing_problems
from streamseg.errors import ConfigError, SourceError
from streamseg.sources.target import detail_of, target_of

S = TypeVar("S", bound=Settings)

# Settings that a running daemon applies; all others take effect at the next start.
LIVE = frozenset(
    {
        "log.level",
        *(f"refinement.{key}" for key in ("level", "every", "max_age_s", "timeout_s", "crf.on")),
        *(f"refinement.fusion.{key}" for key in FusionConfig.__struct_fields__),
        *(f"engine.{key}" for key in EngineConfig.__struct_fields__),
    }
)


@dataclass(frozen=True, slots=True)
class Change:
    """The difference between the settings in force and those of a file."""

    config: Config  # in force afterwards: the new one, except what needs a restart
    added: dict[str, StreamConfig]
    removed: list[str]
    changed: dict[str, StreamConfig]
    applied: list[str]  # keys of settings outside of streams
    needs_restart: list[str]


def plan_change(running: Config, streams: Mapping[str, StreamConfig], new: Config) -> Change:
    """Compare the settings in force, and the present streams, with new settings."""
    keys = [key for key in differing(running, new) if not key.startswith("streams")]
    applied = [key for key in keys if _is_live(key)]
    return Change(
        config=_with_keys(running, new, applied),
        added={name: config for name, config in new.streams.items() if name not in streams},
        removed=[name for name in streams if name not in new.streams],
        changed={n: c for n, c in new.streams.items() if n in streams and streams[n] != c},
        applied=applied,
        needs_restart=[key for key in keys if not _is_live(key)],
    )


def _is_live(key: str) -> bool:
    return key in LIVE or key.startswith(("engines.", "engine.labels."))


def differing(before: Settings, after: Settings, prefix: str = "") -> Iterator[str]:
    """The full keys of the settings that differ."""
    for name in before.__struct_fields__:
        one, other = getattr(before, name), getattr(after, name)
        if isinstance(one, Settings) and isinstance(other, Settings):
            yield from differing(one, other, f"{prefix}{name}.")
        elif isinstance(one, dict):
            names = [*one, *(new for new in other if new not in one)]
            yield from (f"{prefix}{name}.{key}" for key in names if one.get(key) != other.get(key))
        elif one != other:
            yield prefix + name


def check_sources(
    streams: Mapping[str, StreamConfig], present: Mapping[str, StreamConfig] | None = None
) -> None:
    """Raise a ConfigError that names each source that can never work; present: those that there are."""
    problems = list(sharing_problems(streams, present))
    for name, config in streams.items():
        for key, one in (("source", config), ("detail_source", detail_of(config))):
            try:
                if one is not None:
                    target_of(one, name)
            except SourceError as error:
                problems.append(f"streams.{name}.{key}: {error}")
    if problems:
        raise ConfigError(*problems)


def _with_keys(running: Config, new: Config, keys: list[str]) -> Config:
    """The settings in force with these keys, and the streams, of the new ones."""
    taken = msgspec.structs.replace(running, streams=new.streams, engines=new.engines)
    for key in keys:
        if key.startswith("engines."):
            continue
        taken = _with(taken, new, key)
    return taken


def _with(settings: S, new: S, key: str) -> S:
    """The settings with one key, such as refinement.fusion.decay, of the new ones; of a table all."""
    name, _, rest = key.partition(".")
    value = getattr(new, name)
    if rest and isinstance(value, Settings):
        value = _with(getattr(settings, name), value, rest)
    return msgspec.structs.replace(settings, **{name: value})
