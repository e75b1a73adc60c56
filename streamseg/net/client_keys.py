"""The keys that a subscriber shows, where the daemon asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import zmq

from streamseg.errors import UsageError
from streamseg.net.curve_keys import key_or_file, need_curve, public_of, read_key


@dataclass(frozen=True, slots=True)
class ClientKeys:
    """The daemon's public key and our own secret one, each as the 40 characters."""

    server: bytes
    secret: bytes

    @property
    def public(self) -> bytes:
        return public_of(self.secret)


def client_keys(server_key: str | Path | None, client_key_file: str | Path | None) -> ClientKeys | None:
    """Read them, or None where neither is given; raises UsageError when one is missing or wrong."""
    if server_key is None and client_key_file is None:
        return None
    if server_key is None:
        raise UsageError("server_key: is missing; it is the daemon's public key, or the file that holds it")
    if client_key_file is None:
        raise UsageError("client_key_file: is missing; make a pair of keys with: streamseg keygen --out NAME")
    need_curve()
    secret = read_key(client_key_file, "client_key_file")
    return ClientKeys(key_or_file(str(server_key), "server_key"), secret)


def refusal(event: int, keys: ClientKeys | None) -> str:
    """Why a handshake failed, in words and with the way out; empty for any other event."""
    if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH and keys is not None:
        return f"the daemon does not know our key; its operator must allow {keys.public.decode()}"
    if event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
        if keys is not None:
            return (
                "the daemon uses no keys; drop server_key and client_key_file, "
                "or set publish.curve_secret_key_file on the daemon"
            )
        return "the daemon requires keys; give its public key (server_key) and your own (client_key_file)"
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and keys is not None:
        return (
            "the daemon closed the connection because of our keys; server_key must be the public key of this "
            "daemon (its NAME.pub), and the daemon must use keys (publish.curve_secret_key_file)"
        )
    return ""
