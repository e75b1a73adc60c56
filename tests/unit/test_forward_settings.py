"""The settings of the forwarder: their reference, their examples, and what does not fit together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from streamseg.config import build_settings
from streamseg.errors import ConfigError
from streamseg.forward.reference import forward_reference_toml
from streamseg.forward.settings import ForwardConfig, load_forward_config

ROOT = Path(__file__).resolve().parents[2]


def problems(**tables: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        build_settings(ForwardConfig, tables)
    return caught.value.problems


def test_the_reference_is_what_the_settings_are_and_can_be_read() -> None:
    path = ROOT / "configs/forward-reference.toml"
    assert path.read_text() == forward_reference_toml(), (
        "python -m streamseg.forward.reference > configs/forward-reference.toml"
    )
    assert [name for name, _ in load_forward_config(path).sinks()] == [
        "mqtt home", "webhook pager", "kafka bus", "file log", "apprise phone"
    ]  # fmt: skip


def test_the_example_can_be_read() -> None:
    config = load_forward_config(ROOT / "configs/forward.toml")
    assert config.mqtt["home"].url == "mqtt://127.0.0.1:1883"


@pytest.mark.parametrize(
    ("kind", "settings", "said"),
    [
        ("mqtt", {"url": "http://h"}, "mqtt.a.url: must be mqtt://HOST[:PORT] or mqtts://HOST[:PORT]; is"),
        ("mqtt", {"url": "mqtt://h:99999"}, "mqtt.a.url: must be"),
        ("mqtt", {"url": "mqtt://me@h"}, "mqtt.a.url: must hold no name or password; use username"),
        ("mqtt", {"url": "mqtt://h", "password_file": "x"}, "mqtt.a.password_file: needs username"),
        ("mqtt", {"url": "mqtt://h", "ca_file": "x"}, "mqtt.a.url: is without TLS"),
        ("mqtt", {"url": "mqtts://h", "key_file": "x"}, "mqtt.a.key_file: needs cert_file"),
        (
            "mqtt",
            {"url": "mqtt://h", "device_classes": {"flood": "wet"}},
            "mqtt.a.device_classes.flood: must",
        ),
        ("mqtt", {"url": "mqtt://h", "topic": "a/#"}, "mqtt.a.topic: must be text"),
        ("webhook", {}, "webhook.a.url: give url or url_file, one of them"),
        ("webhook", {"url": "http://h", "url_file": "x"}, "webhook.a.url: give url or url_file"),
        ("webhook", {"url": "ftp://h/"}, "webhook.a.url: must be http(s)://HOST/PATH"),
        (
            "webhook",
            {"url": "http://h/", "username": "m", "token_file": "t"},
            "webhook.a.token_file: there is",
        ),
        ("kafka", {"brokers": "h"}, "kafka.a.brokers: must be HOST:PORT"),
        (
            "kafka",
            {"brokers": "h:1", "username": "m", "mechanism": "PLAIN"},
            "kafka.a.mechanism: PLAIN without",
        ),
        ("kafka", {"brokers": "h:1", "ca_file": "x"}, "kafka.a.tls: is false"),
        ("apprise", {"urls_file": "u", "text": "$wat"}, "apprise.a.text: unknown $wat"),
        ("apprise", {"urls_file": "u", "text": "5 $"}, "apprise.a.text: a $ stands for itself as $$"),
        ("apprise", {"urls_file": "u", "shares_every_s": 5}, "apprise.a.shares_every_s: shares are not"),
    ],
)
def test_what_does_not_fit_is_named_by_its_key(kind: str, settings: dict[str, Any], said: str) -> None:
    (problem,) = problems(**{kind: {"a": settings}})
    assert problem.startswith(said)


def test_two_places_cannot_write_one_file() -> None:
    found = problems(file={"a": {"path": "-"}, "b": {"path": "-"}})
    assert found == tuple(f"file.{n}.path: another one writes -, too" for n in "ab")
