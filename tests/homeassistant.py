"""What Home Assistant accepts as a device's discovery over MQTT, as its documentation and sources publish it.

From https://www.home-assistant.io/integrations/mqtt/#discovery-messages-and-payloads and
homeassistant/components/mqtt of home-assistant/core (schemas.py: DEVICE_DISCOVERY_SCHEMA, discovery.py:
TOPIC_MATCHER, sensor.py, binary_sensor.py, image.py): which keys there are, which are required, what may be
in them. What it would only pass over (unknown keys) is refused here.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from streamseg.forward.settings import DeviceClass

TOPIC = re.compile(r"(\w+)/(?:([a-zA-Z0-9_-]+)/)?([a-zA-Z0-9_-]+)/config")

SubscribeTopic = Annotated[str, Meta(min_length=1, max_length=65535, pattern=r"^[^\x00+#]+$")]
Text = Annotated[str, Meta(min_length=1)]
Url = Annotated[str, Meta(pattern=r"^(https?|homeassistant)://")]
Icon = Annotated[str, Meta(pattern=r"^[a-z]+:[a-z0-9-]+$")]


class _Strict(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    pass


class Origin(_Strict, kw_only=True):
    name: Text
    sw_version: Text | None = None
    support_url: Url | None = None


class DeviceInfo(_Strict, kw_only=True):
    identifiers: Annotated[list[Text], Meta(min_length=1)]  # or connections, which we have none of
    name: Text
    manufacturer: Text | None = None
    model: Text | None = None
    sw_version: Text | None = None


class Availability(_Strict, kw_only=True):
    topic: SubscribeTopic
    payload_available: str = "online"
    payload_not_available: str = "offline"
    value_template: str | None = None


class Entity(_Strict, tag_field="platform", kw_only=True):
    unique_id: Text  # required where a device is given
    name: Text | None = None
    icon: Icon | None = None
    json_attributes_topic: SubscribeTopic | None = None


class Sensor(Entity, tag="sensor", kw_only=True):
    state_topic: SubscribeTopic
    value_template: str | None = None
    unit_of_measurement: str | None = None
    state_class: Literal["measurement", "measurement_angle", "total", "total_increasing"] | None = None
    suggested_display_precision: Annotated[int, Meta(ge=0)] | None = None


class BinarySensor(Entity, tag="binary_sensor", kw_only=True):
    state_topic: SubscribeTopic
    value_template: str | None = None
    device_class: DeviceClass | None = None
    payload_on: str = "ON"
    payload_off: str = "OFF"


class Image(Entity, tag="image", kw_only=True):
    image_topic: SubscribeTopic
    content_type: str = "image/jpeg"


class Discovery(_Strict, kw_only=True):
    device: DeviceInfo
    origin: Origin
    components: dict[Text, Sensor | BinarySensor | Image]
    availability: list[Availability]
    availability_mode: Literal["all", "any", "latest"] = "latest"


def checked(topic: str, document: Any, prefix: str = "homeassistant") -> Discovery:
    """Raise where Home Assistant would not take this document from this topic."""
    match = TOPIC.fullmatch(topic.removeprefix(f"{prefix}/"))
    assert match is not None, topic
    assert match[1] == "device"
    found = msgspec.convert(document, Discovery)
    ids = [component.unique_id for component in found.components.values()]
    assert len(set(ids)) == len(ids)
    return found
