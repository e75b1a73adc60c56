"""MQTT discovery messages for Home Assistant: it makes a device of each stream. Pure.

One document for each device: https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload.
The document is retained by the broker, and read back from there: what was announced before, by a forwarder
that was killed, is known again, and can be taken back.
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from streamseg.forward.settings import MqttConfig

MOST_SENSORS = 200  # of one device
LEAST_PERCENT = 1.0  # of a zone: a class that never had so much gets no sensor, where none were named
URL = "https://github.com/streamseg/streamseg"


@dataclass(slots=True)
class Device:
    """What is announced of one stream."""

    classes: dict[str, list[str]] = field(default_factory=dict)  # with a sensor, by zone
    events: list[str] = field(default_factory=list)

    def take_percents(self, zones: Mapping[str, Mapping[str, float]], wanted: Iterable[str]) -> None:
        """The zones of a stream, with the share of each class in percent; zones that are gone go."""
        named = list(wanted)
        known = self.classes
        self.classes = {}
        for zone, shares in zones.items():
            before = [name for name in known.get(zone, ()) if not named or name in named]
            seen = sorted(name for name, share in shares.items() if share >= LEAST_PERCENT)
            new = [name for name in named or seen if name not in before]
            room = MOST_SENSORS - sum(len(names) for names in self.classes.values())
            self.classes[zone] = [*before, *new][: max(0, room)]


class Topics:
    """Where everything of one forwarder is published."""

    def __init__(self, config: MqttConfig) -> None:
        self._base = config.topic
        self._id = config.client_id or "streamseg"
        self._prefix = config.discovery_prefix

    @property
    def forwarder(self) -> str:
        """ "online", and by last will "offline"; no stream's name begins like this one."""
        return f"{self._base}/_forward/{self._id}"

    def delivers(self, stream: str) -> str:
        return f"{self._base}/{stream}/availability"

    def zone(self, stream: str, zone: str) -> str:
        return f"{self._base}/{stream}/zone/{zone}"

    def event(self, stream: str, event: str) -> str:
        return f"{self._base}/{stream}/event/{event}"

    @property
    def every_event(self) -> str:
        return f"{self._base}/+/event/+"

    def mask(self, stream: str) -> str:
        return f"{self._base}/{stream}/mask"

    def picture(self, stream: str) -> str:
        return f"{self._base}/{stream}/picture"

    def device(self, stream: str) -> str:
        return f"{self._prefix}/device/{self._id}/{slug(stream)}/config"

    @property
    def every_device(self) -> str:
        return f"{self._prefix}/device/{self._id}/+/config"

    def unique(self, *parts: str) -> str:
        """A name for these parts of a forwarder's; other parts never give the same one."""
        name = "_".join((self._id, *map(slug, parts)))
        if not any("_" in part for part in (self._id, *parts)):
            return name
        whole = "/".join((self._id, *parts))  # where one part ends is not seen in the name
        return f"{name}_{zlib.crc32(whole.encode()):08x}"


def device_document(config: MqttConfig, stream: str, device: Device, version: str) -> dict[str, Any]:
    """The discovery payload of a stream's device."""
    topics = Topics(config)
    components: dict[str, Any] = {}
    for zone, names in device.classes.items():
        for name in names:
            key = topics.unique(stream, "zone", zone, name)
            components[key] = {
                "platform": "sensor",
                "unique_id": key,
                "name": f"{zone} {name}",
                "state_topic": topics.zone(stream, zone),
                "value_template": f"{{{{ value_json.percent[{_quoted(name)}] | default(0) }}}}",
                "unit_of_measurement": "%",
                "state_class": "measurement",
                "suggested_display_precision": 1,
                "icon": "mdi:texture-box",
            }
    for event in device.events:
        key = topics.unique(stream, "event", event)
        components[key] = {
            "platform": "binary_sensor",
            "unique_id": key,
            "name": event,
            "state_topic": topics.event(stream, event),
            "value_template": "{{ 'OFF' if value_json.state == 'end' else 'ON' }}",
            "json_attributes_topic": topics.event(stream, event),
        }
        if event in config.device_classes:
            components[key]["device_class"] = config.device_classes[event]
    if config.pictures_every_s:
        key = topics.unique(stream, "picture")
        components[key] = {
            "platform": "image",
            "unique_id": key,
            "name": "picture",
            "image_topic": topics.picture(stream),
            "content_type": "image/jpeg",
        }
    return {
        "device": {
            "identifiers": [topics.unique(stream)],
            "name": stream,
            "manufacturer": "streamseg",
            "model": "video stream",
            "sw_version": version,
        },
        "origin": {"name": "streamseg forward", "sw_version": version, "support_url": URL},
        "availability": [{"topic": topics.forwarder}, {"topic": topics.delivers(stream)}],
        "availability_mode": "all",
        "components": components,
    }


def without(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any] | None:
    """The document to send before `new`, which takes back what only `old` has; None where that is nothing.

    Home Assistant removes a component whose entry holds its platform alone.
    """
    gone = {
        key: {"platform": component.get("platform", component.get("p"))}
        for key, component in old.get("components", {}).items()
        if key not in new["components"] and isinstance(component, dict)
    }
    return {**new, "components": {**new["components"], **gone}} if gone else None


def read_device(document: Any) -> tuple[str, Device] | None:
    """What a document of ours announces, and of which stream; None for another one."""
    try:
        stream = document["device"]["name"]
        device = Device()
        for component in document["components"].values():
            topic = component.get("state_topic", "").rpartition("/")
            if component["platform"] == "sensor" and topic[2]:
                name = component["name"].removeprefix(f"{topic[2]} ")
                device.classes.setdefault(topic[2], []).append(name)
            elif component["platform"] == "binary_sensor" and topic[2]:
                device.events.append(topic[2])
    except (KeyError, TypeError, AttributeError):
        return None
    return (stream, device) if isinstance(stream, str) else None


def slug(name: str) -> str:
    """A name of letters, digits, _ and - alone; two names never become one."""
    plain = re.sub(r"[^A-Za-z0-9_-]", "_", name)
    return plain if plain == name else f"{plain}_{zlib.crc32(name.encode()):08x}"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
