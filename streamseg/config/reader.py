"""A TOML file → a checked Config, with every problem at once."""

from __future__ import annotations

import tomllib
from pathlib import Path

from streamseg.config.schema import Config
from streamseg.config.settings import build_settings
from streamseg.errors import ConfigError


def load_config(path: str | Path) -> Config:
    """Read a TOML file; raise ConfigError with every problem found, each line beginning with its full key."""
    path = Path(path)
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot be read ({error.strerror}); start from a copy of configs/webcam.toml"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    return parse_config(text, str(path))


def parse_config(text: str, where: str = "config") -> Config:
    """Turn TOML text into a checked Config; raises ConfigError."""
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: is not valid TOML: {error}") from error
    config = build_settings(Config, tree)
    if not config.streams:
        raise ConfigError(
            'streams: no stream is configured; add a table such as [streams.gate] with source = "…"'
        )
    return config
