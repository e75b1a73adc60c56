"""The mistakes that people make with `forward`; docs/operating.md has a row for each."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

from tests.brokers import Broker
from tests.integration.mistakes import MISTAKES, Place, Words

FORWARD_HEARD: dict[str, Callable[[Place], Words]] = {}
"""What a forwarder logs, and goes on."""


def private(place: Place, name: str, text: str) -> Path:
    path = place.file(name, text)
    path.chmod(0o600)
    return path


def forwarding(place: Place, text: str) -> Words:
    """streamseg forward --config with this file; no daemon is there."""
    endpoint = f"tcp://127.0.0.1:{place.port(answers=False)}"
    place.file("forward.toml", f'endpoint = "{endpoint}"\n{text}')
    return ["forward", "--config", "forward.toml"]


MISTAKES |= {
    "no place to forward to": lambda p: ["forward", "tcp://127.0.0.1:5570"],
    "a file of places without one": lambda p: forwarding(p, ""),
    "a place of an unknown kind": lambda p: forwarding(p, '[mqqt.home]\nurl = "mqtt://h"\n'),
    "a broker without its scheme": lambda p: ["forward", "--mqtt", "broker:1883"],
    "a password in a broker's address": lambda p: ["forward", "--mqtt", "mqtt://me:hunter22@broker:1883"],
    "a password file that others can read": lambda p: forwarding(
        p, f'[webhook.p]\nurl = "http://127.0.0.1/"\nsecret_file = "{p.file("hook.secret", "whsec_AAAA")}"\n'
    ),
    "a secret that is none": lambda p: forwarding(
        p, f'[webhook.p]\nurl = "http://127.0.0.1/"\nsecret_file = "{private(p, "s", "mysecret")}"\n'
    ),
    "a template with an unknown word": lambda p: forwarding(
        p, f'[apprise.me]\nurls_file = "{private(p, "urls", "json://127.0.0.1")}"\ntext = "$colour"\n'
    ),
    "a state folder that cannot be made": lambda p: [
        "forward", "tcp://127.0.0.1:1", "--out", "-", "--state", str(p.file("file") / "state")
    ],
}  # fmt: skip


def broker(place: Place) -> Broker:
    """A broker that knows one user, me, and lets nobody else in."""
    passwords = place.folder / "passwords"
    made = Broker(place.folder, "allow_anonymous false", f"password_file {passwords}")
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(passwords), "me", "right"], check=True)
    return place.owned.enter_context(made)


FORWARD_HEARD |= {
    "no broker there": lambda p: forwarding(
        p, f'[mqtt.home]\nurl = "mqtt://127.0.0.1:{p.port(answers=False)}"\n'
    ),
    "a wrong password of a broker": lambda p: forwarding(
        p,
        f'[mqtt.home]\nurl = "{broker(p).url}"\nusername = "me"\n'
        f'password_file = "{private(p, "mqtt.password", "wrong")}"\n',
    ),
    "a file in a folder that is gone": lambda p: forwarding(p, '[file.f]\npath = "gone/out.jsonl"\n'),
}
