"""What a `source` setting names: decided from its text, with the password from its file."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

import msgspec

from streamseg.config import StreamConfig
from streamseg.config.reading import read_file
from streamseg.config.redact import login_of, looks_like_address, redact, remember_value
from streamseg.config.sharing import SHARED
from streamseg.config.text_file import decode_text
from streamseg.errors import ConfigError, SourceError
from streamseg.runtime.files import expand

Kind = Literal["file", "camera", "network", "stream"]

NETWORK_SCHEMES = ("rtsp", "rtsps", "rtmp", "rtmps", "http", "https", "udp")
DEMO = "demo:"
DEMO_CLIP = Path(__file__).with_name("demo.clip")
"""A drive down a drawn street: 10 s of H.264 in MP4, 480x360, 30 fps. tools/demo draws it.

Not named .mp4, so that it is taken for a file of the package and not for a recording left in the tree.
"""

MOST_BYTES = 64 << 10  # of a password file

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_ENDS_AUTHORITY = re.compile("[/?#]")
_CAMERA = re.compile(r"^/dev/(video\d+|v4l/.+)$")


@dataclass(frozen=True, slots=True)
class Target:
    """A source by its kind; `name` goes to FFmpeg (it may hold a password), `shown` to people."""

    kind: Kind
    name: str
    shown: str
    scheme: str = ""
    udp: bool = False  # RTSP that carries its media so
    prompt: bool = False  # reading it, too, ends as soon as its thread is asked to stop

    @property
    def path(self) -> Path:
        """The file or device; only for kinds "file" and "camera"."""
        return Path(self.name)


def is_live(config: StreamConfig) -> bool:
    """Whether the newest frame wins: a camera, an address, or a file played in real time."""
    return config.realtime or resolve(config.source).kind != "file"


def resolve(source: str) -> Target:
    """Decide what `source` names; raise SourceError for an address that cannot work in this build."""
    if source == DEMO:
        return Target("file", str(DEMO_CLIP), DEMO, "demo")
    if source.startswith(SHARED):
        return Target("stream", source.removeprefix(SHARED), source, "stream")
    if match := _SCHEME.match(source.strip()):
        scheme = match[1].lower()
        source = scheme + source.strip()[len(scheme) :]  # FFmpeg knows RTSP:// only as rtsp://
        if scheme == "file":
            path = unquote(source[len("file://") :])
            if "\0" in path:
                raise SourceError(f"{source}: names no file; %00 is in no file's name")
            return Target("file", path, path)
        if scheme in NETWORK_SCHEMES:
            if problem := address_problem(source):
                raise SourceError(f"{redact(source)}: {problem}")
            return Target("network", source, redact(source), scheme)
        if scheme == "srt":
            raise SourceError(
                f"{redact(source)}: SRT is not in this build of FFmpeg; "
                "send it as RTSP, or as MPEG-TS to a udp:// address"
            )
        known = ", ".join(f"{s}://" for s in NETWORK_SCHEMES)
        raise SourceError(f"{redact(source)}: {scheme}:// is not known; use a file, /dev/videoN, or {known}")
    if _CAMERA.match(source):
        return Target("camera", source, source, "v4l2")
    if shown(source) != source or (looks_like_address(source) and not Path(source).exists()):
        raise SourceError(
            f"{shown(source)}: is no file, and an address begins with its scheme; "
            "write rtsp://USER@HOST/PATH, or http:// and so on"
        )
    path = str(Path(source).expanduser())
    return Target("file", path, path)


def shown(source: str) -> str:
    """What people are shown of a source: an address without its secrets, a path as it is."""
    if not looks_like_address(source) or ("://" not in source and os.path.exists(source)):
        return source
    return redact(source)


def address_problem(address: str) -> str | None:
    """What is wrong with an address, as far as its text shows; None if nothing is."""
    login = login_of(address)
    if login is not None and not login.unclear:
        typed = address[login.user[0] : login.password[1]]
        if _ENDS_AUTHORITY.search(typed):
            return "has / or ? or # in front of its @; write special letters of the password as %XX, # as %23"
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "is not a valid address; " + (
            "write special letters of the password as %XX" if login else "a port is a number up to 65535"
        )
    return None if host or parts.scheme == "udp" else f"has no host; write {parts.scheme}://HOST/PATH"


def detail_of(config: StreamConfig) -> StreamConfig | None:
    """How a stream's detail_source is opened, by its own address; None where it has none."""
    if not config.detail_source:
        return None
    return msgspec.structs.replace(config, source=config.detail_source, detail_source="", hwaccel="none")


def target_of(config: StreamConfig, stream: str) -> Target:
    """What a stream's settings name, its password filled in where it has a file of its own.

    The file is read each time, so that a new password is used when the camera is next connected. Raises
    SourceError in one line, without the password.
    """
    target = resolve(config.source)
    if target.scheme in ("rtsp", "rtsps") and config.rtsp_transport == "udp":
        target = replace(target, udp=True)
    if not config.password_file:
        return target
    try:
        name = _with_password(target, read_password(config.password_file, stream))
    except ConfigError as error:
        raise SourceError(f"{target.shown}: {error}") from None
    return replace(target, name=name)


def read_password(path: str, stream: str) -> str:
    """A stream's password: the line that begins with its name, or the only line there is.

    Lines that are empty or begin with '#' are passed over. Raises ConfigError, also when others than the
    file's owner may read it.
    """
    setting = "password_file"
    file = Path(expand(path, setting))
    try:
        content = read_file(file, most_bytes=MOST_BYTES)
        _check_private(file, content.info, setting)
        text = decode_text(content.data)
    except UnicodeError as error:
        raise ConfigError(f"{setting}: {file} {error}") from None
    except OSError as error:
        raise ConfigError(f"{setting}: {file} cannot be read ({error.strerror})") from error
    lines = [line.strip() for line in text.splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    for line in lines:
        name, _, password = line.partition(" ")
        if name == stream and password.strip():
            return password.strip()
    if len(lines) == 1 and " " not in lines[0]:
        return lines[0]
    raise ConfigError(
        f"{setting}: {file} has no line that begins with {stream}, then a space and the password"
    )


def _check_private(file: Path, info: os.stat_result, setting: str) -> None:
    """Raise a ConfigError for what other users may read. systemd protects its credentials itself."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if credentials and file.is_relative_to(credentials):
        return
    if info.st_mode & 0o077:
        raise ConfigError(f"{setting}: other users can read {file}; run chmod 600 {file}")


def _with_password(target: Target, password: str) -> str:
    """The address with the password behind the user; raises ConfigError where that cannot be."""
    parts = urlsplit(target.name) if target.kind == "network" else None
    user, at, host = parts.netloc.rpartition("@") if parts is not None else ("", "", "")
    if parts is None or not at or not user:
        raise ConfigError("password_file: needs a user in the address, as in rtsp://USER@HOST/PATH")
    if ":" in user:
        raise ConfigError("password_file: the address already has a password; remove one of the two")
    remember_value(password, user)
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{host}").geturl()
