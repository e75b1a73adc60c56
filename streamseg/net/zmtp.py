"""ZMTP 3.1, what ZeroMQ's sockets speak, as pure code: bytes in, whole messages out. No sockets.

Of https://rfc.zeromq.org/spec/37/ it has what masks, snapshots and control need. Everything that the other
end sends is held against bounds before it is kept: a peer can end its own connection, and nothing else.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from streamseg.net.io import COMMAND, LONG, MORE, Buffer, Outgoing, frame_head, joined

GREETING_BYTES = 64
MOST_COMMAND = 2048  # bytes of a command of a handshake; CURVE's longest has about 300
MOST_PING = 2 + 16  # what follows the name: a time to live, and what the answer repeats

_LONGEST_NAME = len(b"\x09SUBSCRIBE")
_SIGNATURE = b"\xff" + bytes(7) + b"\x01\x7f"


class Refused(Exception):
    """Why a connection is ended; `reason` is for who can act on it, where there is one."""

    def __init__(self, text: str, reason: str = "", answer: bytes = b"") -> None:
        """answer: a last command to the other end."""
        super().__init__(text)
        self.reason = reason
        self.answer = answer


NO_KEYS, OTHER_KEYS, UNKNOWN_KEY = "no keys", "other keys", "unknown key"
"""Reasons: the other end has no keys, or keys where we have none, or does not list ours."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one message of a peer may have."""

    sizes: tuple[int, ...]  # bytes of its parts, in order; the last is for all further ones
    parts: int
    total: int  # bytes
    first: bytes = b""  # what the first part has to be, where that is known

    def check(self, parts: int, bytes_before: int, size: int) -> None:
        """Whether a part of this size may follow so many; raises Refused."""
        if parts >= self.parts:
            raise Refused(f"sent a message of more than {self.parts} parts")
        if size > self.sizes[min(parts, len(self.sizes) - 1)]:
            raise Refused(f"sent a part of {size} bytes")
        if bytes_before + size > self.total:
            raise Refused(f"sent a message of more than {self.total} bytes")


class Mechanism(Protocol):
    """Who the two ends are to each other, and how parts are sealed; `Null` below, or one of curve.py."""

    name: bytes
    as_server: bool
    overhead: int  # bytes that sealing adds to a part; 0 where parts travel open
    done: bool  # the handshake has succeeded

    def begin(self, metadata: bytes) -> bytes:
        """Our first command, sent when the other end's greeting has come; b"" when it speaks first."""

    def take(self, command: bytes) -> tuple[bytes, bytes | None]:
        """Answer a command of the handshake: (our next one or b"", their metadata once it has come)."""

    def seal(self, part: Buffer, *, more: bool = False, command: bool = False) -> bytes: ...
    def open(self, sealed: bytes) -> tuple[bool, bool, bytes]:
        """(more parts follow, it is a command, the part); raises Refused."""


class Null:
    """No keys: each end says what it is, and parts travel as they are."""

    name = b"NULL"
    as_server = False
    overhead = 0

    def __init__(self) -> None:
        self.done = False

    def begin(self, metadata: bytes) -> bytes:
        return b"\x05READY" + metadata

    def take(self, command: bytes) -> tuple[bytes, bytes | None]:
        if not command.startswith(b"\x05READY"):
            raise refused_by(command)
        self.done = True
        return b"", command[6:]

    def seal(self, part: Buffer, *, more: bool = False, command: bool = False) -> bytes:
        return bytes(part)

    def open(self, sealed: bytes) -> tuple[bool, bool, bytes]:
        return False, False, sealed


class Peer:
    """Our end of one connection: receive() what comes, send `outgoing` and what encode() gives."""

    def __init__(self, kind: bytes, peers: Collection[bytes], bounds: Bounds, mechanism: Mechanism) -> None:
        """kind: our type of socket; peers: those that may connect to it."""
        self.ready = False  # the handshake is over; from now on there are messages
        self.greeted = False
        self.outgoing: list[bytes] = []  # of the handshake; the owner takes them
        self.pong = b""  # the answer to the last PING, framed; the owner takes it, too
        self._kind, self._peers, self._bounds = kind, peers, bounds
        self._mechanism = mechanism
        self._held = b""  # the beginning of a frame's head
        self._flags, self._left = 0, 0  # of the frame whose body is on its way
        self._body = bytearray()
        self._parts: list[bytes] = []  # of the message that is on its way
        self._size = 0
        as_server = bytes([mechanism.as_server])
        self.outgoing.append(
            _SIGNATURE + b"\x03\x01" + mechanism.name.ljust(20, b"\0") + as_server + bytes(31)
        )

    def receive(self, data: bytes) -> list[list[bytes]]:
        """Take in what has come, and give the messages that are whole now; raises Refused.

        Subscriptions are messages of one part, as in ZMTP 3.0: b"\\x01" and the prefix; b"\\x00" ends one.
        """
        messages: list[list[bytes]] = []
        if self._left > len(data):
            self._body += data
            self._left -= len(data)
            return messages
        if self._held:
            data = self._held + data
        if not self.greeted and not self._take_greeting(data):
            self._held = data
            return messages
        at = self._begin
        self._begin = 0
        if self._left:
            self._body += memoryview(data)[: self._left]
            at, self._left, body = self._left, 0, bytes(self._body)
            self._body = bytearray()
            self._take(self._flags, body, messages)
        size_of_data = len(data)
        while size_of_data - at >= 2:
            flags = data[at]
            if flags & LONG:
                if size_of_data - at < 9:
                    break
                size, start = int.from_bytes(data[at + 1 : at + 9], "big"), at + 9
            else:
                size, start = data[at + 1], at + 2
            self._check(flags, size)
            at = start + size
            if at > size_of_data:
                self._flags, self._left = flags, at - size_of_data
                self._body += memoryview(data)[start:]
                break
            self._take(flags, data[start:at], messages)
        self._held = data[at:]
        return messages

    _begin = 0  # where frames begin in the data that holds the end of the greeting

    def encode(self, message: Outgoing) -> list[Buffer]:
        """The bytes of a message for this peer, in pieces; where sealed is true."""
        last = len(message.parts) - 1
        pieces: list[Buffer] = []
        for at, part in enumerate(message.parts):
            sealed = self._mechanism.seal(part, more=at < last)
            pieces += (frame_head(0, len(sealed)), sealed)
        return joined(pieces)

    @property
    def sealed(self) -> bool:
        """Whether messages do not travel open."""
        return self._mechanism.overhead > 0

    def _take_greeting(self, data: bytes) -> bool:
        """Whether the greeting is whole."""
        if data[:1] not in (b"", b"\xff") or (len(data) > 9 and not data[9] & 1):
            raise Refused("does not speak ZeroMQ")
        if len(data) > 10 and data[10] < 3:
            raise Refused("speaks a ZeroMQ older than 4.0")
        if len(data) < GREETING_BYTES:
            return False
        mechanism = self._mechanism
        theirs = data[12:32].rstrip(b"\0")
        if theirs != mechanism.name:
            reason = NO_KEYS if theirs == b"NULL" else OTHER_KEYS if mechanism.name == b"NULL" else ""
            name = theirs.decode("ascii", "replace")
            raise Refused(f"connected with the mechanism {name!r}", reason)
        self.greeted = True
        self._begin = GREETING_BYTES
        if first := mechanism.begin(self._metadata()):
            self.outgoing.append(_command(first))
        return True

    def _metadata(self) -> bytes:
        identity = _property(b"Identity", b"") if self._kind in (b"DEALER", b"ROUTER", b"REQ") else b""
        return _property(b"Socket-Type", self._kind) + identity

    def _check(self, flags: int, size: int) -> None:
        """Hold the head of a frame against the bounds, before any of its body is kept."""
        if flags > 6 or flags & (MORE | COMMAND) == MORE | COMMAND:
            raise Refused("sent a frame that is not of ZMTP")
        if not self.ready:
            if not flags & COMMAND or size > MOST_COMMAND:
                raise Refused("broke the handshake")
        elif self._mechanism.overhead:
            # What it is, a part or a command, is known when it has been opened.
            self._bounds.check(len(self._parts), self._size, size - self._mechanism.overhead - _LONGEST_NAME)
        elif flags & COMMAND:
            if size > max(MOST_PING, self._bounds.sizes[0]) + _LONGEST_NAME:
                raise Refused(f"sent a command of {size} bytes")
        else:
            self._bounds.check(len(self._parts), self._size, size)

    def _take(self, flags: int, body: bytes, messages: list[list[bytes]]) -> None:
        more, command = bool(flags & MORE), bool(flags & COMMAND)
        if not self.ready:
            self._shake(body)
            return
        if self._mechanism.overhead:
            more, command, body = self._mechanism.open(body)
        if command:
            self._obey(body, messages)
            return
        if self._mechanism.overhead:
            self._bounds.check(len(self._parts), self._size, len(body))
        if not self._parts and self._bounds.first and body != self._bounds.first:
            raise Refused("sent what is no answer")
        self._parts.append(body)
        self._size += len(body)
        if not more:
            messages.append(self._parts)
            self._parts, self._size = [], 0

    def _shake(self, command: bytes) -> None:
        try:
            answer, metadata = self._mechanism.take(command)
        except Refused as error:
            if error.answer:
                self.outgoing.append(_command(error.answer))
            raise
        if answer:
            self.outgoing.append(_command(answer))
        if metadata is not None and _properties(metadata).get(b"socket-type", b"") not in self._peers:
            raise Refused("is another type of socket")
        self.ready = self._mechanism.done

    def _obey(self, command: bytes, messages: list[list[bytes]]) -> None:
        """PINGs are answered and subscriptions handed on; the rest asks nothing of us."""
        if command.startswith(b"\x09SUBSCRIBE"):
            self._bounds.check(0, 0, len(command) - 9)
            messages.append([b"\x01" + command[10:]])
        elif command.startswith(b"\x06CANCEL"):
            self._bounds.check(0, 0, len(command) - 6)
            messages.append([b"\x00" + command[7:]])
        elif command.startswith(b"\x04PING"):
            body = b"\x04PONG" + command[7 : 7 + 16]
            if self._mechanism.overhead:
                body = self._mechanism.seal(body, command=True)
                self.pong = frame_head(0, len(body)) + body
            else:
                self.pong = _command(body)


def refused_by(command: bytes) -> Refused:
    """The error for what the other end sends in place of the next command of the handshake."""
    if command.startswith(b"\x05ERROR"):
        said = command[7:].decode("ascii", "replace")
        return Refused(f"refused us: {said}", UNKNOWN_KEY)
    return Refused("broke the handshake")


def _command(body: bytes) -> bytes:
    return frame_head(COMMAND, len(body)) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes([len(name)]) + name + struct.pack(">I", len(value)) + value


def _properties(metadata: bytes) -> dict[bytes, bytes]:
    """Names (in lower case) and values; raises Refused."""
    found: dict[bytes, bytes] = {}
    at = 0
    while at < len(metadata):
        name_end = at + 1 + metadata[at]
        size = int.from_bytes(metadata[name_end : name_end + 4], "big")
        end = name_end + 4 + size
        if name_end == at + 1 or end > len(metadata):
            raise Refused("broke the handshake")
        found[metadata[at + 1 : name_end].lower()] = metadata[name_end + 4 : end]
        at = end
    return found
