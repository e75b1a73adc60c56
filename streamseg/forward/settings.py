"""The settings of `streamseg forward`: where answers come from, and each place that they go to.

The reader of the file, the command's help and configs/forward-reference.toml all come from these classes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from string import Template
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta

from streamseg.config import LogConfig, Settings, StreamName, build_settings
from streamseg.config.redact import login_of, remember
from streamseg.config.toml_file import read_toml
from streamseg.errors import ConfigError

WORDS = ("stream", "event", "zone", "classes", "state", "why", "percent", "peak", "duration", "time", "id")
"""What a template may name, as $event or ${event}."""

EventState = Literal["begin", "update", "end"]

DeviceClass = Literal[
    "battery", "battery_charging", "carbon_monoxide", "cold", "connectivity", "door", "garage_door", "gas",
    "heat", "light", "lock", "moisture", "motion", "moving", "occupancy", "opening", "plug", "power",
    "presence", "problem", "running", "safety", "smoke", "sound", "tamper", "update", "vibration", "window",
]  # fmt: skip
"""https://www.home-assistant.io/integrations/binary_sensor/#device-class"""


class SinkConfig(Settings, frozen=True):
    """What every kind of place has in common."""

    streams: Annotated[
        tuple[StreamName, ...], Meta(description="Only what comes from these streams; empty: from all.")
    ] = ()
    events: Annotated[tuple[StreamName, ...], Meta(description="Only these events; empty: all.")] = ()
    states: Annotated[tuple[EventState, ...], Meta(description="Of an event, only these messages.")] = (
        "begin", "update", "end",
    )  # fmt: skip
    shares_every_s: Annotated[
        float,
        Meta(ge=0, le=86400, description="The newest shares of each stream at most this often (s); 0: none."),
    ] = 0.0
    cooldown_s: Annotated[
        float,
        Meta(
            ge=0,
            le=604800,
            description="After the begin of an event, none of its further ones for so long (s).",
        ),
    ] = 0.0
    max_age_s: Annotated[
        Annotated[float, Meta(gt=0)] | None,
        Meta(description="An event that waited longer (s) is left out; unset: however long it took."),
    ] = None


class _TlsConfig(SinkConfig, frozen=True, kw_only=True):
    """How a server is known, and how it knows us."""

    ca_file: Annotated[
        str,
        Meta(description="Authorities for the server's certificate; empty: the system's."),
    ] = ""
    cert_file: Annotated[str, Meta(description="Our certificate (PEM), where the server asks for one.")] = ""
    key_file: Annotated[str, Meta(description="Its key; empty: is in cert_file.")] = ""
    username: Annotated[str, Meta(description="Our name at the server; empty: none.")] = ""
    password_file: Annotated[
        str, Meta(description="The file with its password; under systemd $CREDENTIALS_DIRECTORY/NAME.")
    ] = ""

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.key_file and not self.cert_file:
            yield "key_file: needs cert_file"
        if self.password_file and not self.username:
            yield "password_file: needs username"


class MqttConfig(_TlsConfig, frozen=True, kw_only=True):
    """An MQTT 5 broker, with discovery by Home Assistant."""

    url: Annotated[str, Meta(description="mqtt://HOST[:PORT], or mqtts:// for TLS.")]
    client_id: Annotated[
        str,
        Meta(
            pattern=r"^[A-Za-z0-9_-]{0,64}\Z",
            description="Our name at the broker and in topics, one for each forwarder: letters, digits, _ "
            "and -; empty: streamseg.",
        ),
    ] = ""
    topic: Annotated[
        str,
        Meta(pattern=r"^[^#+\s/]+(/[^#+\s/]+)*\Z", description="What all our topics begin with."),
    ] = "streamseg"
    shares_every_s: Annotated[
        float,
        Meta(ge=0, le=86400, description="The newest shares of each stream at most this often (s); 0: none."),
    ] = 5.0
    discovery: Annotated[
        bool, Meta(description="Have Home Assistant find a device for each stream, with its entities.")
    ] = True
    discovery_prefix: Annotated[
        str,
        Meta(pattern=r"^[^#+\s/]+(/[^#+\s/]+)*\Z", description="Home Assistant's own setting of this name."),
    ] = "homeassistant"
    classes: Annotated[
        tuple[str, ...],
        Meta(description="Sensors for shares of these classes; empty: of those that once had 1 % of a zone."),
    ] = ()
    device_classes: Annotated[
        dict[StreamName, DeviceClass],
        Meta(description='What an event is to Home Assistant, by its name, as in { flood = "moisture" }.'),
    ] = msgspec.field(default_factory=dict)
    masks_every_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="The newest mask of each stream, as run lengths, at most this often (s); 0: none.",
        ),
    ] = 0.0
    pictures_every_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="The newest picture of each stream at most this often (s); 0: no picture leaves.",
        ),
    ] = 0.0

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        yield from url_problems(self.url, ("mqtt", "mqtts"), "mqtt://HOST[:PORT] or mqtts://HOST[:PORT]")
        if self.url.startswith("mqtt:") and (self.ca_file or self.cert_file):
            yield "url: is without TLS, so ca_file and cert_file do nothing; write mqtts://"


class WebhookConfig(_TlsConfig, frozen=True, kw_only=True):
    """An HTTP server that is sent a POST for each event."""

    url: Annotated[str, Meta(description="http(s)://HOST/PATH; who knows a secret one writes url_file.")] = ""
    url_file: Annotated[str, Meta(description="A file with the address alone, instead of url.")] = ""
    secret_file: Annotated[
        str,
        Meta(
            description="A file with whsec_ and base64: each POST is signed with it (HMAC-SHA256, "
            "standardwebhooks.com); empty: unsigned."
        ),
    ] = ""
    token_file: Annotated[str, Meta(description="A file with a token that is sent as Bearer.")] = ""
    states: Annotated[tuple[EventState, ...], Meta(description="Of an event, only these messages.")] = (
        "begin", "end",
    )  # fmt: skip
    timeout_s: Annotated[
        float, Meta(gt=0, le=300, description="An answer that takes longer (s) is none.")
    ] = 10.0

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if bool(self.url) == bool(self.url_file):
            yield "url: give url or url_file, one of them"
        elif self.url:
            yield from url_problems(self.url, ("http", "https"), "http(s)://HOST/PATH", path=True)
        if self.username and self.token_file:
            yield "token_file: there is a username, too; remove one of the two"


class KafkaConfig(_TlsConfig, frozen=True, kw_only=True):
    """A Kafka cluster (extra `kafka`)."""

    brokers: Annotated[str, Meta(min_length=1, description="HOST:PORT, several divided by commas.")]
    events_topic: Annotated[str, Meta(pattern=r"^[\w.-]{1,249}\Z", description="The topic of events.")] = (
        "streamseg-events"
    )
    shares_topic: Annotated[str, Meta(pattern=r"^[\w.-]{1,249}\Z", description="The topic of shares.")] = (
        "streamseg-zones"
    )
    shares_every_s: Annotated[
        float,
        Meta(ge=0, le=86400, description="The newest shares of each stream at most this often (s); 0: none."),
    ] = 1.0
    masks_topic: Annotated[str, Meta(pattern=r"^[\w.-]{1,249}\Z", description="The topic of masks.")] = (
        "streamseg-masks"
    )
    masks_every_s: Annotated[
        float,
        Meta(
            ge=0,
            le=86400,
            description="The newest mask of each stream, as run lengths, at most this often (s); 0: none.",
        ),
    ] = 0.0
    tls: Annotated[bool, Meta(description="Encrypt the connection.")] = False
    mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        Meta(description="How the password is shown, where there is a username."),
    ] = "SCRAM-SHA-512"

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        for broker in self.brokers.split(","):
            if not re.fullmatch(r"\s*(\[[0-9A-Fa-f:.]+\]|[\w.-]+):\d{1,5}\s*", broker):
                yield f"brokers: must be HOST:PORT, several divided by commas; is {self.brokers!r}"
                break
        if not self.tls and (self.ca_file or self.cert_file):
            yield "tls: is false, so ca_file and cert_file do nothing; write tls = true"
        if self.username and self.mechanism == "PLAIN" and not self.tls:
            yield "mechanism: PLAIN without TLS shows the password to the network; write tls = true"


class FileConfig(SinkConfig, frozen=True, kw_only=True):
    """A file, or standard output, with a line of JSON for each message."""

    path: Annotated[str, Meta(min_length=1, description="The file, which is appended to; - is stdout.")]
    shares_every_s: Annotated[
        float,
        Meta(ge=0, le=86400, description="The newest shares of each stream at most this often (s); 0: none."),
    ] = 1.0


class AppriseConfig(SinkConfig, frozen=True, kw_only=True):
    """Messages to people: e-mail, ntfy, Telegram and a hundred more by apprise (extra `apprise`)."""

    urls_file: Annotated[
        str, Meta(min_length=1, description="A file with apprise's addresses, one a line; they are secret.")
    ]
    title: Annotated[str, Meta(description="The title; $event and the like are replaced.")] = (
        "$stream: $event $state"
    )
    text: Annotated[str, Meta(description=f"The text; may name ${', $'.join(WORDS)}.")] = (
        "$zone: $classes $percent %, at most $peak %, since $duration ($time)"
    )
    states: Annotated[tuple[EventState, ...], Meta(description="Of an event, only these messages.")] = (
        "begin", "end",
    )  # fmt: skip

    def conflicts(self) -> Iterator[str]:
        yield from super().conflicts()
        if self.shares_every_s:
            yield "shares_every_s: shares are not for people; must be 0"
        for key in ("title", "text"):
            template = Template(getattr(self, key))
            if not template.is_valid():
                yield f"{key}: a $ stands for itself as $$"
            elif wrong := sorted(set(template.get_identifiers()) - set(WORDS)):
                yield f"{key}: unknown ${', $'.join(wrong)}; known: ${', $'.join(WORDS)}"


class ForwardConfig(Settings, frozen=True):
    """Everything that `streamseg forward` needs to know."""

    endpoint: Annotated[
        str, Meta(description="The daemon's publish.endpoint, or a relay's: tcp://HOST:PORT or ipc://PATH.")
    ] = "tcp://127.0.0.1:5570"
    server_key: Annotated[str, Meta(description="Its public key, or the file that holds it (NAME.pub).")] = ""
    client_key_file: Annotated[str, Meta(description="Our secret key (streamseg keygen).")] = ""
    state: Annotated[
        str,
        Meta(
            description="The folder of the queue, one for each forwarder; empty: systemd's $STATE_DIRECTORY, "
            "else the queue is in memory, and ends with the process."
        ),
    ] = ""
    queue_mb: Annotated[
        int,
        Meta(
            ge=1,
            le=65536,
            description="Events that wait for a place that is unreachable: at most so many MB, then the "
            "oldest are lost.",
        ),
    ] = 64
    past: Annotated[
        bool,
        Meta(
            description="On first meeting a stream, forward also its events that are over already; the "
            "daemon keeps 256 messages of each."
        ),
    ] = False
    mqtt: Annotated[dict[StreamName, MqttConfig], Meta(description="MQTT brokers, by name.")] = msgspec.field(
        default_factory=dict
    )
    webhook: Annotated[dict[StreamName, WebhookConfig], Meta(description="HTTP servers, by name.")] = (
        msgspec.field(default_factory=dict)
    )
    kafka: Annotated[dict[StreamName, KafkaConfig], Meta(description="Kafka clusters, by name.")] = (
        msgspec.field(default_factory=dict)
    )
    file: Annotated[dict[StreamName, FileConfig], Meta(description="Files, by name.")] = msgspec.field(
        default_factory=dict
    )
    apprise: Annotated[dict[StreamName, AppriseConfig], Meta(description="People, by name.")] = msgspec.field(
        default_factory=dict
    )
    log: LogConfig = LogConfig()

    def conflicts(self) -> Iterator[str]:
        paths = [sink.path for sink in self.file.values()]
        for name, sink in self.file.items():
            if paths.count(sink.path) > 1:
                yield f"file.{name}.path: another one writes {sink.path}, too"

    def sinks(self) -> Iterator[tuple[str, SinkConfig]]:
        """Each place by its name, such as "mqtt home"."""
        for kind in ("mqtt", "webhook", "kafka", "file", "apprise"):
            for name, sink in getattr(self, kind).items():
                yield f"{kind} {name}", sink


def load_forward_config(path: Path) -> ForwardConfig:
    """Read a TOML file; raises ConfigError with every problem found."""
    config = build_settings(ForwardConfig, read_toml(path, "start from a copy of configs/forward.toml"))
    if not any(config.sinks()):
        raise ConfigError(
            f"{path}: names no place to forward to; add a table such as [mqtt.home] with url = "
            '"mqtt://BROKER:1883"'
        )
    return config


def url_problems(url: str, schemes: tuple[str, ...], form: str, *, path: bool = False) -> Iterator[str]:
    """What is wrong with an address, if anything."""
    remember(url)
    if (login := login_of(url)) is not None or "@" in url.partition("://")[2].partition("/")[0]:
        hint = " and password_file" if login is not None else ""
        yield f"url: must hold no name or password; use username{hint}"
        return
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:
        yield f"url: must be {form}; is {url!r}"
        return
    if parts.scheme not in schemes or not parts.hostname or (not path and parts.path.strip("/")):
        yield f"url: must be {form}; is {url!r}"
