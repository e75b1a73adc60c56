"""A TOML file → a checked Config, with every problem at once."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamseg.config.schema import Config
from streamseg.config.settings import build_settings
from streamseg.config.toml_file import parse_toml, read_toml
from streamseg.errors import ConfigError


def load_config(path: str | Path) -> Config:
    """Read a TOML file; raise ConfigError with every problem found, each line beginning with its full key."""
    hint = f"write one with: streamseg init, or start from a copy of {examples_folder()}/webcam.toml"
    return parse_config(read_toml(path, hint))


def parse_config(text: str | Mapping[str, Any], where: str = "config") -> Config:
    """Turn TOML text, or its tables as a dict, into a checked Config; raises ConfigError."""
    tree = parse_toml(text, where) if isinstance(text, str) else dict(text)
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
