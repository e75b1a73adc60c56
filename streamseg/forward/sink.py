"""What a place of any kind can do, and the errors of one that is away."""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from streamseg.config.reading import read_file
from streamseg.config.redact import remember_value
from streamseg.config.text_file import decode_text
from streamseg.errors import ConfigError, StreamsegError, one_line
from streamseg.forward.store import Event
from streamseg.runtime.files import expand
from streamseg.wire.event import EventDocument


class SinkError(StreamsegError):
    """The place is away or refuses us: tried again, after pause_s at least."""

    def __init__(self, problem: str, pause_s: float = 0.0) -> None:
        super().__init__(problem)
        self.pause_s = pause_s


@dataclass(frozen=True, slots=True)
class Message:
    """An event message to be sent: as it came, and what it says."""

    event: Event
    said: EventDocument


@dataclass(frozen=True, slots=True)
class News:
    """What is newest of the streams, as far as a place has not got it."""

    zones: Mapping[str, bytes]  # documents of docs/protocol.md, by stream
    masks: Mapping[str, bytes]  # the same, with run lengths
    pictures: Mapping[str, bytes]  # JPEG, by stream
    delivering: Mapping[str, bool]  # every stream that is known


Taken = Callable[[Message, str], None]
"""Called for each message, in order, when the place has it, or refuses it for good: then the text is why."""


class Sink(Protocol):
    """A place that answers are forwarded to. Belongs to one thread; every call may block for seconds.

    open() connects, or raises SinkError, or ConfigError where a file of ours cannot be read; after close()
    it may be opened again.
    """

    where: str  # for messages: without anything secret
    connects: bool  # open() succeeds only when the place is there
    masks_every_s: float  # 0 where it takes none
    pictures_every_s: float

    def open(self) -> None: ...
    def send(self, messages: Sequence[Message], taken: Taken) -> None: ...
    def show(self, news: News) -> None: ...

    def keep(self) -> None:
        """Raise SinkError when the connection has ended while nothing was sent."""
        ...

    def close(self) -> None: ...

    def check(self) -> str:
        """Try the connection, send nothing; what would be sent, in words. Raises as open() does."""
        ...


class _TlsFiles(Protocol):
    @property
    def ca_file(self) -> str: ...
    @property
    def cert_file(self) -> str: ...
    @property
    def key_file(self) -> str: ...


def read_secret(path: str, setting: str) -> str:
    """The one line of a file, remembered as secret; raises ConfigError, also when other users may read it."""
    lines = read_secret_lines(path, setting)
    if len(lines) != 1:
        raise ConfigError(f"{setting}: {path} must hold one line; holds {len(lines)}")
    return lines[0]


def read_secret_lines(path: str, setting: str) -> list[str]:
    """The lines of a secret file that are not empty; raises as read_secret() does."""
    file = Path(expand(path, setting))
    try:
        content = read_file(file, most_bytes=64 << 10)
        text = decode_text(content.data)
    except UnicodeError as error:
        raise ConfigError(f"{setting}: {file} {error}") from None
    except OSError as error:
        raise ConfigError(f"{setting}: {file} cannot be read ({error.strerror})") from error
    if content.info.st_mode & 0o077 and not given_by_systemd(file):
        raise ConfigError(f"{setting}: other users can read {file}; run chmod 600 {file}")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for line in lines:
        remember_value(line)
    return lines


def given_by_systemd(file: Path) -> bool:
    """Whether this is one of our credentials, which systemd protects itself."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    return bool(credentials) and file.is_relative_to(credentials)


def tls_context(config: _TlsFiles) -> ssl.SSLContext:
    """What connections are encrypted with; raises ConfigError for a file that cannot be used."""
    ca_file = expand(config.ca_file, "ca_file") if config.ca_file else None
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"ca_file: {ca_file} cannot be used ({one_line(error)})") from error
    if config.cert_file:
        cert_file = expand(config.cert_file, "cert_file")
        key_file = expand(config.key_file, "key_file") if config.key_file else None
        try:
            context.load_cert_chain(cert_file, key_file, password=lambda: "")
        except (OSError, ssl.SSLError) as error:
            raise ConfigError(f"cert_file: {cert_file} cannot be used ({one_line(error)})") from error
    return context
