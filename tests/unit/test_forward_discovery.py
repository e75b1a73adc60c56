"""What Home Assistant is told, checked by its own published rules."""

from __future__ import annotations

import json
import string
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamseg.forward.discovery import (
    MOST_SENSORS,
    Device,
    Topics,
    device_document,
    read_device,
    slug,
    without,
)
from streamseg.forward.settings import MqttConfig
from tests.homeassistant import checked

NAMES = st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")
CLASSES = st.text(min_size=1, max_size=40)
HOME = MqttConfig(url="mqtt://broker", device_classes={"flood": "moisture"}, pictures_every_s=10)


def document(device: Device, stream: str = "gate", config: MqttConfig = HOME) -> dict[str, Any]:
    made: dict[str, Any] = json.loads(json.dumps(device_document(config, stream, device, "0.2.0")))
    return made


@given(
    NAMES,
    st.dictionaries(NAMES, st.lists(CLASSES, max_size=4, unique=True), max_size=4),
    st.lists(NAMES, max_size=4, unique=True),
)
def test_whatever_streams_zones_classes_and_events_are_called_home_assistant_takes_it(
    stream: str, classes: dict[str, list[str]], events: list[str]
) -> None:
    device = Device(classes=classes, events=events)
    found = document(device, stream)
    known = checked(Topics(HOME).device(stream), found)
    assert len(known.components) == sum(map(len, classes.values())) + len(events) + 1
    said = read_device(found)
    assert said is not None
    assert said[0] == stream
    assert {zone: names for zone, names in said[1].classes.items() if names} == {
        zone: names for zone, names in classes.items() if names
    }
    assert said[1].events == events


def test_names_that_join_to_the_same_words_are_entities_of_their_own() -> None:
    device = Device(classes={"a": ["b_c"], "a_b": ["c"], "a.b": ["c"]}, events=["event_x", "x"])
    components = document(device)["components"]
    assert len(components) == 6
    assert not components.keys() & document(Device(events=["x"]), "gate_event")["components"].keys()


def test_an_entity_has_the_unit_class_and_topics_that_it_needs() -> None:
    components = document(Device(classes={"ramp": ["water"]}, events=["flood", "car"]))["components"]
    sensor = components["streamseg_gate_zone_ramp_water"]
    assert (sensor["unit_of_measurement"], sensor["state_class"]) == ("%", "measurement")
    assert sensor["state_topic"] == "streamseg/gate/zone/ramp"
    assert components["streamseg_gate_event_flood"]["device_class"] == "moisture"
    assert "device_class" not in components["streamseg_gate_event_car"]
    assert components["streamseg_gate_picture"]["image_topic"] == "streamseg/gate/picture"
    without_picture = document(Device(), config=MqttConfig(url="mqtt://broker"))
    assert without_picture["components"] == {}


def test_the_templates_give_what_the_sensors_show() -> None:
    jinja = pytest.importorskip("jinja2")
    name = 'traffic "light"'
    components = document(Device(classes={"ramp": [name]}, events=["flood"]))["components"]

    def shown(key: str, payload: Any) -> str:
        text: str = jinja.Template(components[key]["value_template"]).render(value_json=payload)
        return text

    share = next(key for key in components if "zone" in key)
    assert shown(share, {"percent": {name: 12.5}}) == "12.5"
    assert shown(share, {"percent": {}}) == "0", "a class that is not there covers nothing"
    event = "streamseg_gate_event_flood"
    assert [shown(event, {"state": s}) for s in ("begin", "update", "end")] == ["ON", "ON", "OFF"]


def test_what_is_gone_is_sent_with_its_platform_alone_first() -> None:
    old = document(Device(classes={"ramp": ["water"]}, events=["flood"]))
    new = document(Device(classes={}, events=["flood"]))
    between = without(old, new)
    assert between is not None
    assert between["components"]["streamseg_gate_zone_ramp_water"] == {"platform": "sensor"}
    assert without(new, new) is None
    assert without(new, old) is None, "what is only new needs nothing"


def test_a_class_gets_a_sensor_once_it_had_a_hundredth_of_the_zone_and_keeps_it() -> None:
    device = Device()
    device.take_percents({"ramp": {"water": 0.9, "road": 50.0}}, ())
    assert device.classes == {"ramp": ["road"]}
    device.take_percents({"ramp": {"water": 1.0}}, ())
    assert device.classes == {"ramp": ["road", "water"]}
    device.take_percents({"ramp": {"water": 1.0}}, ["water", "oil"])
    assert device.classes == {"ramp": ["water", "oil"]}, "named ones, present or not"
    device.take_percents({}, ())
    assert device.classes == {}


def test_a_device_has_so_many_sensors_and_no_more() -> None:
    device = Device()
    classes = {f"c{i}": 100.0 for i in range(150)}
    device.take_percents({"a": classes, "b": classes, "c": classes}, ())
    assert sum(map(len, device.classes.values())) == MOST_SENSORS


@given(st.text(min_size=1), st.text(min_size=1))
def test_two_names_never_become_one(one: str, other: str) -> None:
    assert set(slug(one)) <= set(string.ascii_letters + string.digits + "_-")
    assert (slug(one) == slug(other)) == (one == other)


def test_a_document_of_somebody_else_is_none_of_ours() -> None:
    for other in (None, [], {}, {"device": {}}, {"device": {"name": 3}, "components": {}}, {"device": 1}):
        assert read_device(other) is None
