"""A first configuration from a few answers: its text, and the passwords in a file of their own."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

import msgspec

from streamseg.config.reader import examples_folder, parse_config
from streamseg.config.redact import login_of, looks_like_address, redact, remember_value
from streamseg.config.schema import StreamName
from streamseg.errors import UsageError


@dataclass(frozen=True, slots=True)
class DraftStream:
    """A stream of a configuration that is not written yet; source is without the password."""

    name: str
    source: str
    password: str = ""

    @property
    def whole_source(self) -> str:
        """The source with the password in it, as FFmpeg takes it."""
        if not self.password:
            return self.source
        parts = urlsplit(self.source)
        user, _, host = parts.netloc.rpartition("@")
        return parts._replace(netloc=f"{user}:{quote(self.password, safe='')}@{host}").geturl()


def named_source(text: str, free_name: str) -> tuple[str, str]:
    """The name and the source of NAME=SOURCE; free_name where no name is given. Raises UsageError."""
    before, equals, after = text.partition("=")
    if not equals or re.search(r"[/:?@\\]", before):
        return free_name, text
    return checked_name(before), after


def checked_name(name: str) -> str:
    """The name, if a stream may have it; raises UsageError."""
    try:
        return msgspec.convert(name, StreamName)
    except msgspec.ValidationError:
        raise UsageError(
            f"{name}: a stream's name must be letters, digits, '.', '_' and '-', at most 64"
        ) from None


def draft_stream(name: str, source: str) -> DraftStream:
    """Take the password out of an address; a path becomes absolute. Raises UsageError."""
    source = source.strip()
    if not source:
        raise UsageError(f"{name}: the source is empty; write {name}=rtsp://HOST/PATH, /dev/video0 or a file")
    if not looks_like_address(source):
        path = Path(source).expanduser()
        return DraftStream(name, source if source == "demo:" else str(path.absolute()))
    login = login_of(source)
    if login is None or login.unclear:
        return DraftStream(name, source)
    (_, end_of_user), (first, last) = login.user, login.password
    password = unquote(source[first:last])
    if not storable(password) or end_of_user == login.user[0]:
        return DraftStream(name, source)
    remember_value(password)
    return DraftStream(name, source[:end_of_user] + source[last:], password)


def storable(password: str) -> bool:
    """Whether a line of a password file can hold it."""
    return bool(password) and password == password.strip() and len(password.splitlines()) == 1


def write_draft(out: Path, streams: Sequence[DraftStream], engine: str) -> list[Path]:
    """Write the configuration, and its passwords beside it; returns the files, and replaces none.

    Raises UsageError where a file exists or cannot be written, ConfigError where it could not be read back.
    """
    passwords = "".join(f"{one.name} {one.password}\n" for one in streams if one.password)
    beside = password_file_of(out)
    text = _text(streams, engine, beside)
    parse_config(text, str(out))
    secret = any(redact(one.source) != one.source for one in streams)
    files = {beside: (passwords, 0o600)} if passwords else {}
    files[out] = (text, 0o600 if secret else 0o644)
    _write_all(files)
    return list(reversed(files))


def password_file_of(out: Path) -> Path:
    """Where the passwords of a configuration are written."""
    return out.with_name(f"{out.name.removesuffix('.toml')}.passwords")


def refuse_existing(out: Path) -> None:
    """Raise UsageError where a configuration, or its password file, is there already or cannot be."""
    if not out.parent.is_dir():
        raise UsageError(f"{out.parent}: is no folder; make it, or choose another with --out")
    for path in (out, password_file_of(out)):
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path}: exists already and is not overwritten; choose another name with --out")


def _write_all(files: Mapping[Path, tuple[str, int]]) -> None:
    """Write new files, all or none."""
    with ExitStack() as made:
        for path, (text, mode) in files.items():
            try:
                with open(
                    os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", -1, "utf-8"
                ) as file:
                    made.callback(path.unlink, missing_ok=True)
                    file.write(text)
                    os.fsync(file.fileno())
            except FileExistsError:
                raise UsageError(
                    f"{path}: exists already and is not overwritten; choose another name with --out"
                ) from None
            except OSError as error:
                raise UsageError(f"{path}: cannot be written ({error.strerror}); choose --out") from error
        made.pop_all()


def _text(streams: Sequence[DraftStream], engine: str, passwords: Path) -> str:
    lines = [
        f"# Written by streamseg init. Every setting: {examples_folder()}/reference.toml",
        "[engine]",
        f"name = {_quoted(engine)}",
        "",
        "# Where masks go. For other machines see secure.toml in that folder.",
        "# [publish]",
        '# endpoint = "tcp://127.0.0.1:5570"',
    ]
    for one in streams:
        key = _quoted(one.name) if "." in one.name else one.name
        lines += ["", f"[streams.{key}]", f"source = {_quoted(one.source)}"]
        if one.password:
            lines.append(f"password_file = {_quoted(str(passwords.absolute()))}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
