"""From a place's settings to what sends to it."""

from __future__ import annotations

import importlib.util

from streamseg.errors import ConfigError, UsageError
from streamseg.forward.kafka import Kafka
from streamseg.forward.lines import Lines
from streamseg.forward.mqtt import Mqtt
from streamseg.forward.notify import Notify
from streamseg.forward.settings import (
    AppriseConfig,
    FileConfig,
    KafkaConfig,
    MqttConfig,
    SinkConfig,
    WebhookConfig,
)
from streamseg.forward.sink import Sink
from streamseg.forward.webhook import Webhook

NEEDS = {
    "mqtt": ("paho", "forward"),
    "webhook": ("aiohttp", "forward"),
    "kafka": ("confluent_kafka", "kafka"),
    "apprise": ("apprise", "apprise"),
}
"""The package that each kind of place needs, and the extra that has it."""


def make_sink(name: str, config: SinkConfig) -> Sink:
    """What sends to the place of this name; raises UsageError for a missing package, and ConfigError."""
    if problem := missing_extra(name.partition(" ")[0]):
        raise UsageError(f"{name}: {problem}")
    try:
        match config:
            case MqttConfig():
                return Mqtt(config)
            case WebhookConfig():
                return Webhook(config)
            case KafkaConfig():
                return Kafka(config)
            case FileConfig():
                return Lines(config)
            case AppriseConfig():
                return Notify(config)
    except ConfigError as error:
        key = name.replace(" ", ".")
        raise ConfigError(*(f"{key}.{problem}" for problem in error.problems)) from error
    raise TypeError(type(config).__name__)


def missing_extra(kind: str) -> str:
    """Why places of this kind cannot be used here, and what to do; empty when they can."""
    package, extra = NEEDS.get(kind, ("", ""))
    if not package or importlib.util.find_spec(package) is not None:
        return ""
    return f"{package} is not installed; pip install 'streamseg[{extra}]'"
