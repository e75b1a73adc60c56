"""CURVE keys: made and read in files, alone and in lists, and the pair of keys that a client uses.

A key is 40 characters of Z85 (https://rfc.zeromq.org/spec/32/). A key file holds one; lines that are empty or
begin with '#' and a space are comments. NAME.key is secret; NAME.pub is public.
"""

from __future__ import annotations

import errno
import os
import stat
import string
from dataclasses import dataclass
from pathlib import Path

from streamseg.config.text_file import read_text
from streamseg.errors import ConfigError, OutputError, UsageError
from streamseg.runtime.files import expand

_Z85 = string.digits + string.ascii_letters + ".-:+=^!/*?&<>()[]{}@%$#"


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """The daemon's public key and our own secret one, each as the 40 characters."""

    server: bytes
    secret: bytes

    @property
    def public(self) -> bytes:
        return public_of(self.secret)


def make_keys(name: str | Path) -> tuple[Path, Path]:
    """Write NAME.key, which only the owner may read, and NAME.pub; existing files are never replaced.

    Raises OutputError.
    """
    secret_path, public_path = Path(f"{name}.key"), Path(f"{name}.pub")
    public, secret = make_pair()
    what = Path(name).name
    try:
        _write_new(secret_path, f"# Secret key of {what}: keep it secret.\n{secret.decode()}\n", 0o600)
    except OSError as error:
        raise OutputError(f"{secret_path}: {_unwritable(error)}") from error
    try:
        _write_new(public_path, f"# Public key of {what}.\n{public.decode()}\n", 0o644)
    except OSError as error:
        secret_path.unlink()
        raise OutputError(f"{public_path}: {_unwritable(error)}") from error
    return secret_path, public_path


def public_of(secret: bytes) -> bytes:
    """The public key that belongs to a secret one."""
    from nacl.bindings import crypto_scalarmult_base  # loads libsodium

    return to_z85(crypto_scalarmult_base(from_z85(secret)))


def make_pair() -> tuple[bytes, bytes]:
    """A new public key, and the secret one."""
    from nacl.bindings import crypto_box_keypair  # loads libsodium

    public, secret = crypto_box_keypair()
    return to_z85(public), to_z85(secret)


def to_z85(key: bytes) -> bytes:
    """The 40 characters of 32 bytes."""
    numbers = (int.from_bytes(key[at : at + 4], "big") for at in range(0, len(key), 4))
    return "".join(_Z85[number // 85**place % 85] for number in numbers for place in (4, 3, 2, 1, 0)).encode()


def from_z85(text: bytes) -> bytes:
    """The 32 bytes behind 40 characters."""
    key = b""
    for at in range(0, len(text), 5):
        number = 0
        for character in text[at : at + 5].decode():
            number = number * 85 + _Z85.index(character)
        key += (number & 0xFFFFFFFF).to_bytes(4, "big")  # more is nobody's key
    return key


def read_key(path: str | Path, setting: str) -> bytes:
    """The one key in a file; $VARIABLES are expanded. Raises ConfigError that begins with the setting."""
    where = expand(str(path), setting)
    keys, wrong = parse_keys(_read(where, setting))
    if wrong or len(keys) != 1:
        raise ConfigError(f"{setting}: {where} must hold one key of 40 characters; make one with: "
                          "streamseg keygen --out NAME")  # fmt: skip
    return next(iter(keys))


def readable_by_all(path: str, setting: str) -> bool:
    """Whether every user of the machine may read a key file."""
    return bool(os.stat(expand(path, setting)).st_mode & stat.S_IROTH)


def key_or_file(value: str, setting: str) -> bytes:
    """A public key that was given as such, or by the file that holds it; raises ConfigError."""
    return value.encode() if is_key(value) else read_key(value, setting)


def client_keys(server_key: str | Path | None, client_key_file: str | Path | None) -> ClientKeys | None:
    """Read them, or None where neither is given; raises UsageError when one is missing or wrong."""
    if server_key is None and client_key_file is None:
        return None
    if server_key is None:
        raise UsageError("server_key: is missing; it is the daemon's public key, or the file that holds it")
    if client_key_file is None:
        raise UsageError("client_key_file: is missing; make a pair of keys with: streamseg keygen --out NAME")
    secret = read_key(client_key_file, "client_key_file")
    return ClientKeys(key_or_file(str(server_key), "server_key"), secret)


def parse_keys(text: str) -> tuple[dict[bytes, str], list[int]]:
    """The keys that begin lines, each with the text behind it; and the numbers of wrong lines."""
    keys: dict[bytes, str] = {}
    wrong: list[int] = []
    for number, line in enumerate(text.splitlines(), 1):
        first, _, rest = line.strip().partition(" ")
        if is_key(first):
            keys[first.encode()] = rest.strip()
        elif first and first != "#":
            wrong.append(number)
    return keys, wrong


def is_key(text: str) -> bool:
    """Whether this has the form of a CURVE key."""
    return len(text) == 40 and frozenset(_Z85).issuperset(text)


def _read(path: str, setting: str) -> str:
    try:
        return read_text(path)
    except UnicodeError as error:
        raise ConfigError(f"{setting}: {path} {error}") from error
    except OSError as error:
        raise ConfigError(
            f"{setting}: {path} cannot be read ({error.strerror}); streamseg keygen --out NAME makes keys"
        ) from error


def _unwritable(error: OSError) -> str:
    way_out = (
        "keys are never replaced, so choose another name"
        if error.errno == errno.EEXIST
        else ("choose a folder that exists and can be written")
    )
    return f"cannot be written ({error.strerror}); {way_out}"


def _write_new(path: Path, text: str, mode: int) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
