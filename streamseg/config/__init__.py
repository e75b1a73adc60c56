"""Every setting once: its type, default, unit and sentence, the TOML reader, and the generated reference."""

from streamseg.config.reader import load_config, parse_config
from streamseg.config.schema import (
    BackendName,
    Config,
    ControlConfig,
    CrfConfig,
    EngineConfig,
    FusionConfig,
    LogConfig,
    Precision,
    PublishConfig,
    RefineConfig,
    StreamConfig,
    StreamName,
    WebConfig,
)
from streamseg.config.settings import Settings, bare_type, build_settings, describe, settings_fields

__all__ = [
    "BackendName",
    "Config",
    "ControlConfig",
    "CrfConfig",
    "EngineConfig",
    "FusionConfig",
    "LogConfig",
    "Precision",
    "PublishConfig",
    "RefineConfig",
    "Settings",
    "StreamConfig",
    "StreamName",
    "WebConfig",
    "bare_type",
    "build_settings",
    "describe",
    "load_config",
    "parse_config",
    "settings_fields",
]
