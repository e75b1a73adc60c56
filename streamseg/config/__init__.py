"""Every setting once: its type, default, unit and sentence, the TOML reader, and the generated reference."""

from streamseg.config.analytics import PICTURE, EventConfig, ZoneConfig
from streamseg.config.engines import BackendName, EngineConfig, Precision, PrecisionSetting
from streamseg.config.labels import LabelsConfig
from streamseg.config.reader import load_config, parse_config
from streamseg.config.refinement import CrfConfig, CrfOn, FusionConfig, RefinementConfig
from streamseg.config.schema import (
    Config,
    ControlConfig,
    LogConfig,
    PublishConfig,
    StreamConfig,
    StreamName,
    WebConfig,
)
from streamseg.config.settings import (
    Name,
    Settings,
    bare_type,
    build_settings,
    describe,
    settings_fields,
)
from streamseg.config.toml_file import parse_toml, read_toml

__all__ = [
    "PICTURE",
    "BackendName",
    "Config",
    "ControlConfig",
    "CrfConfig",
    "CrfOn",
    "EngineConfig",
    "EventConfig",
    "FusionConfig",
    "LabelsConfig",
    "LogConfig",
    "Name",
    "Precision",
    "PrecisionSetting",
    "PublishConfig",
    "RefinementConfig",
    "Settings",
    "StreamConfig",
    "StreamName",
    "WebConfig",
    "ZoneConfig",
    "bare_type",
    "build_settings",
    "describe",
    "load_config",
    "parse_config",
    "parse_toml",
    "read_toml",
    "settings_fields",
]
