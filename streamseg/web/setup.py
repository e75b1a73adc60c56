"""What the daemon and the console's process send each other at its start. Works without the extra `web`."""

from __future__ import annotations

import importlib.util
import re
import secrets

import msgspec

from streamseg.config import WebConfig
from streamseg.config.redact import remember_value
from streamseg.config.security import is_local
from streamseg.config.text_file import read_text
from streamseg.errors import ConfigError
from streamseg.net.curve_keys import readable_by_all
from streamseg.runtime.files import expand

NEEDS = ("aiohttp", "prometheus_client")
SHORTEST_TOKEN = 16


class Keys(msgspec.Struct, frozen=True):
    """The daemon's public key, and the secret one of a pair that it made for this process."""

    server: str
    secret: str


class WebSetup(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of JSON on the standard input, which stays open as long as the daemon runs."""

    listen: str
    token: str = ""
    insecure: bool = False
    control: str  # endpoint
    log_level: str = "info"


class MaskEndpoints(msgspec.Struct, frozen=True, kw_only=True):
    """The second line, once the sockets are bound: the engine may be loading until then."""

    masks: str  # endpoints to connect to
    snapshots: str
    keys: Keys | None = None


class Listening(msgspec.Struct, frozen=True):
    """One line of JSON on the standard output, when the port is bound."""

    url: str


def missing_extra() -> str:
    """Why the console cannot run: the packages that are not installed; empty when none is missing."""
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    return f"{', '.join(missing)} not installed; pip install 'streamseg[web]'" if missing else ""


def host_and_port(listen: str) -> tuple[str, int]:
    """ "127.0.0.1:5580" or "[::1]:5580" → (host, port); the form was checked with the settings."""
    host, _, port = listen.rpartition(":")
    return host.strip("[]"), int(port)


def read_token(config: WebConfig) -> str:
    """The console's token, empty where none is set; raises ConfigError."""
    if not config.token_file:
        return ""
    path = expand(config.token_file, "web.token_file")
    try:
        token = read_text(path).strip()
    except OSError as error:
        raise ConfigError(f"web.token_file: {path} cannot be read ({error.strerror})") from error
    except UnicodeError as error:
        raise ConfigError(f"web.token_file: {path} {error}") from error
    if not token.isascii():
        raise ConfigError(f"web.token_file: {path} must hold ASCII characters alone")
    if len(token) < SHORTEST_TOKEN or re.search(r"\s", token):
        raise ConfigError(
            f"web.token_file: {path} must hold one word of at least {SHORTEST_TOKEN} characters, such as "
            f"{secrets.token_urlsafe(24)}"
        )
    if readable_by_all(path, "web.token_file"):
        raise ConfigError(f"web.token_file: every user may read it; chmod o= {path}")
    remember_value(token)
    return token


def trusts_its_network(setup: WebSetup) -> bool:
    """Whether everybody who reaches the port may use the console; never so on loopback.

    What others reach on loopback they reach through a browser of this machine, by a name they point here.
    """
    return setup.insecure and not is_local(f"tcp://{setup.listen}")


def connectable(endpoint: str) -> str:
    """Where to connect on this machine to what was bound as endpoint."""
    bound = re.fullmatch(r"tcp://(\*|0\.0\.0\.0|\[::\]):(\d+)", endpoint)
    if bound is None:
        return endpoint
    return f"tcp://{'[::1]' if bound[1] == '[::]' else '127.0.0.1'}:{bound[2]}"
