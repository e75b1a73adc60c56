"""The keys that a subscriber shows, where the daemon asks for them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

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

    def use(self, sock: zmq.Socket[Any]) -> None:
        """Make a socket talk CURVE; before it connects."""
        sock.setsockopt(zmq.CURVE_SERVERKEY, self.server)
        sock.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        sock.setsockopt(zmq.CURVE_SECRETKEY, self.secret)


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
                "the daemon speaks without keys; leave ours away, or set publish.curve_secret_key_file there"
            )
        return "the daemon asks for keys; give its public one (server key) and our own (client key)"
    if event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL and keys is not None:
        return (
            "hung up on our keys; the server key must be the public one of this daemon (its NAME.pub), "
            "and it must have keys at all (publish.curve_secret_key_file)"
        )
    return ""
