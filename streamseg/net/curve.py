"""CURVE, the keys and boxes of ZMTP (https://rfc.zeromq.org/spec/26/), with libsodium. No sockets."""

from __future__ import annotations

import hmac
import os
import struct
from collections.abc import Callable

from nacl.bindings import (
    crypto_box,
    crypto_box_afternm,
    crypto_box_beforenm,
    crypto_box_keypair,
    crypto_box_open,
    crypto_box_open_afternm,
    crypto_scalarmult_base,
)
from nacl.exceptions import CryptoError

from streamseg.net.io import Buffer
from streamseg.net.zmtp import UNKNOWN_KEY, Refused, refused_by

_KEY, _BOX = 32, 16
_MORE, _COMMAND = 1, 2
_NAME = b"\x07MESSAGE"


class _Curve:
    """What both ends have: sealed parts, and nonces that only grow."""

    name = b"CURVE"
    overhead = len(_NAME) + 8 + _BOX + 1
    as_server: bool
    _send_nonce: bytes
    _receive_nonce: bytes

    def __init__(self) -> None:
        self.done = False
        self._public, self._secret = crypto_box_keypair()  # of this connection
        self._shared = b""
        self._nonce = 0
        self._received = 0
        self._metadata = b""

    def seal(self, part: Buffer, *, more: bool = False, command: bool = False) -> bytes:
        flags = bytes([_MORE * more | _COMMAND * command])
        nonce = self._next()
        box = crypto_box_afternm(b"".join((flags, part)), self._send_nonce + nonce, self._shared)
        return b"".join((_NAME, nonce, box))

    def open(self, sealed: bytes) -> tuple[bool, bool, bytes]:
        if len(sealed) < self.overhead or not sealed.startswith(_NAME):
            raise Refused("sent what is not sealed")
        at = len(_NAME)
        self._newer(sealed[at : at + 8])
        part = _opened(
            crypto_box_open_afternm, sealed[at + 8 :], self._receive_nonce + sealed[at : at + 8], self._shared
        )
        return bool(part[0] & _MORE), bool(part[0] & _COMMAND), part[1:]

    def _next(self) -> bytes:
        self._nonce += 1
        return struct.pack(">Q", self._nonce)

    def _newer(self, nonce: bytes) -> None:
        number = int.from_bytes(nonce, "big")
        if number <= self._received:
            raise Refused("sent an old nonce")
        self._received = number


class CurveServer(_Curve):
    """The end that is known by its key. allowed() decides whose key may come in."""

    as_server = True
    _send_nonce, _receive_nonce = b"CurveZMQMESSAGES", b"CurveZMQMESSAGEC"

    def __init__(self, secret: bytes, allowed: Callable[[bytes], bool]) -> None:
        super().__init__()
        self._long_secret = secret
        self._allowed = allowed
        self._cookie = b""
        self._client = b""  # its key of this connection

    def begin(self, metadata: bytes) -> bytes:
        self._metadata = metadata
        return b""

    def take(self, command: bytes) -> tuple[bytes, bytes | None]:
        if not self._cookie and len(command) == 200 and command.startswith(b"\x05HELLO\x01\x00"):
            return self._welcome(command), None
        if self._cookie and len(command) >= 257 and command.startswith(b"\x08INITIATE" + self._cookie):
            return self._admit(command)
        raise refused_by(command)

    def _welcome(self, hello: bytes) -> bytes:
        self._client = hello[80:112]
        self._newer(hello[112:120])
        nonce = b"CurveZMQHELLO---" + hello[112:120]
        if _opened(crypto_box_open, hello[120:], nonce, self._client, self._long_secret) != bytes(64):
            raise Refused("broke the handshake")
        self._cookie, nonce = os.urandom(96), os.urandom(16)
        box = crypto_box(self._public + self._cookie, b"WELCOME-" + nonce, self._client, self._long_secret)
        return b"\x07WELCOME" + nonce + box

    def _admit(self, initiate: bytes) -> tuple[bytes, bytes | None]:
        self._shared = crypto_box_beforenm(self._client, self._secret)
        nonce = initiate[105:113]
        self._newer(nonce)
        inside = _opened(crypto_box_open_afternm, initiate[113:], b"CurveZMQINITIATE" + nonce, self._shared)
        key, vouch_nonce, vouch, metadata = inside[:32], inside[32:48], inside[48:128], inside[128:]
        vouched = _opened(crypto_box_open, vouch, b"VOUCH---" + vouch_nonce, key, self._secret)
        ours = self._client + crypto_scalarmult_base(self._long_secret)
        if not hmac.compare_digest(vouched, ours):
            raise Refused("broke the handshake")
        if not self._allowed(key):
            raise Refused("shows a key that is not listed", UNKNOWN_KEY, b"\x05ERROR\x03400")
        self.done = True
        nonce = self._next()
        box = crypto_box_afternm(self._metadata, b"CurveZMQREADY---" + nonce, self._shared)
        return b"\x05READY" + nonce + box, metadata


class CurveClient(_Curve):
    """The end that connects, with a key of its own; it knows the server's."""

    as_server = False
    _send_nonce, _receive_nonce = b"CurveZMQMESSAGEC", b"CurveZMQMESSAGES"

    def __init__(self, server: bytes, secret: bytes) -> None:
        super().__init__()
        self._server_key = server
        self._long_secret = secret
        self._server = b""  # its key of this connection

    def begin(self, metadata: bytes) -> bytes:
        self._metadata = metadata
        nonce = self._next()
        box = crypto_box(bytes(64), b"CurveZMQHELLO---" + nonce, self._server_key, self._secret)
        return b"\x05HELLO\x01\x00" + bytes(72) + self._public + nonce + box

    def take(self, command: bytes) -> tuple[bytes, bytes | None]:
        if not self._server and len(command) == 168 and command.startswith(b"\x07WELCOME"):
            return self._initiate(command), None
        if self._server and command.startswith(b"\x05READY") and len(command) >= 14 + _BOX:
            self._newer(command[6:14])
            metadata = _opened(
                crypto_box_open_afternm, command[14:], b"CurveZMQREADY---" + command[6:14], self._shared
            )
            self.done = True
            return b"", metadata
        raise refused_by(command)

    def _initiate(self, welcome: bytes) -> bytes:
        inside = _opened(
            crypto_box_open, welcome[24:], b"WELCOME-" + welcome[8:24], self._server_key, self._secret
        )
        self._server, cookie = inside[:_KEY], inside[_KEY:]
        self._shared = crypto_box_beforenm(self._server, self._secret)
        vouch_nonce = os.urandom(16)
        vouch = crypto_box(
            self._public + self._server_key, b"VOUCH---" + vouch_nonce, self._server, self._long_secret
        )
        inside = crypto_scalarmult_base(self._long_secret) + vouch_nonce + vouch + self._metadata
        nonce = self._next()
        return b"\x08INITIATE" + cookie + nonce + crypto_box_afternm(
            inside, b"CurveZMQINITIATE" + nonce, self._shared
        )  # fmt: skip


def _opened(open_box: Callable[..., bytes], *args: bytes) -> bytes:
    try:
        return open_box(*args)
    except (CryptoError, ValueError) as error:
        raise Refused("sent a box that cannot be opened") from error
