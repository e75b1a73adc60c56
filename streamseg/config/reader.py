"""A TOML file → a checked Config, with every problem at once."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamseg.config.redact import redact
from streamseg.config.schema import Config
from streamseg.config.settings import build_settings, toml_tables
from streamseg.config.text_file import read_text
from streamseg.errors import ConfigError


def load_config(path: str | Path) -> Config:
    """Read a TOML file; raise ConfigError with every problem found, each line beginning with its full key."""
    hint = f"write one with: streamseg init, or start from a copy of {examples_folder()}/webcam.toml"
    return parse_config(load_tables(path, hint))


def load_tables(path: str | Path, hint: str) -> dict[str, Any]:
    """The tables of a TOML file; raises ConfigError, for one that cannot be read with what to do instead."""
    try:
        return _tables(read_text(path), str(path))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {hint}") from error
    except UnicodeError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_config(text: str | Mapping[str, Any], where: str = "config") -> Config:
    """Turn TOML text, or its tables as a dict, into a checked Config; raises ConfigError."""
    tree = _tables(text, where) if isinstance(text, str) else dict(text)
    config = build_settings(Config, tree)
    if not config.streams:
        raise ConfigError(
            'streams: no stream is configured; add a table such as [streams.gate] with source = "…"'
        )
    return config


def examples_folder() -> Path:
    """The folder of example configurations, in the installed package or in a checkout."""
    package = Path(__file__).resolve().parents[1]
    folder = package / "configs"
    return folder if folder.is_dir() else package.parent / "configs"


def _tables(text: str, where: str) -> dict[str, Any]:
    try:
        return toml_tables(text)
    except tomllib.TOMLDecodeError as error:
        hint = next((f"; {hint}" for line in text.splitlines() if (hint := _hint(line))), "")
        raise ConfigError(f"{where}: is not valid TOML: {error}{hint}") from error


def _hint(line: str) -> str:
    """What to write where a name or a text should stand in quotes; empty where nothing is to be said."""
    table = re.fullmatch(r"\s*\[([^\[\]]*)\]\s*(#.*)?", line)
    if table:
        parts = re.findall(r'"[^"]*"|[^.]+', table[1])
        bare = [part.strip() for part in parts if not re.fullmatch(r'"[^"]*"|[A-Za-z0-9_-]+', part.strip())]
        return f"a name here must be A-Z, a-z, 0-9, _ and -; is {bare[0]}" if bare else ""
    value = re.fullmatch(r"\s*[A-Za-z_]+\s*=\s*([^\s\"'\[{#][^#]*?)\s*(#.*)?", line)
    if value and not re.fullmatch(r"true|false|[+-]?[0-9.][0-9_.eE+-]*|[+-]?(inf|nan)", value[1]):
        return f'write text in quotes: "{redact(value[1])}"'
    return ""
