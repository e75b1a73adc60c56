"""Snapshots for late joiners: the request, the reply, and where to ask."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import Meta

from streamseg.errors import UsageError, WireError
from streamseg.wire.fields import Run
from streamseg.wire.message import VERSION

MAX_PREFIXES = 64
"""Topic prefixes in one request."""

MAX_PREFIX = 256
"""Bytes of one prefix."""

MAX_REPLY_HEAD = 64 << 10

SNAPSHOT = b"snapshot"


class ReplyHead(msgspec.Struct, frozen=True, kw_only=True):
    """The second part of a reply: how many parts each of the messages behind it has, in order."""

    version: int
    run: Run
    parts: list[Annotated[int, Meta(ge=2, le=4)]]


def snapshot_request(prefixes: Sequence[bytes]) -> list[bytes]:
    """Ask for the last message of every topic that begins with one of the prefixes."""
    return [SNAPSHOT, *prefixes]


def parse_snapshot_request(parts: Sequence[bytes]) -> list[bytes]:
    """The prefixes asked for; raises WireError."""
    if len(parts) < 2 or parts[0] != SNAPSHOT or len(parts) > 1 + MAX_PREFIXES:
        raise WireError(f"snapshot: a request is b'snapshot' and 1 to {MAX_PREFIXES} topic prefixes")
    if any(len(p) > MAX_PREFIX for p in parts[1:]):
        raise WireError(f"snapshot: a topic prefix has at most {MAX_PREFIX} bytes")
    return list(parts[1:])


def snapshot_reply(run: int, messages: Sequence[Sequence[bytes]]) -> list[bytes]:
    """One multipart reply that holds all messages, one after the other."""
    head = ReplyHead(version=VERSION, run=run, parts=[len(m) for m in messages])
    return [SNAPSHOT, msgspec.msgpack.encode(head), *(part for message in messages for part in message)]


def parse_snapshot_reply(parts: Sequence[bytes]) -> list[list[bytes]]:
    """The messages of a reply, each still to be parsed; raises WireError."""
    if len(parts) < 2 or parts[0] != SNAPSHOT or len(parts[1]) > MAX_REPLY_HEAD:
        raise WireError("snapshot: a reply is b'snapshot', a head and the messages")
    try:
        head = msgspec.msgpack.decode(parts[1], type=ReplyHead)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"snapshot: {error}") from error
    if head.version != VERSION:
        raise WireError(f"version: this reader knows {VERSION}, the snapshot is {head.version}")
    if sum(head.parts) != len(parts) - 2:
        raise WireError(f"snapshot: {sum(head.parts)} parts were announced, {len(parts) - 2} came")
    messages, at = [], 2
    for count in head.parts:
        messages.append(list(parts[at : at + count]))
        at += count
    return messages


def default_snapshot_endpoint(endpoint: str) -> str:
    """Where the snapshots of a publishing endpoint are asked for, unless it was set otherwise.

    The port above for tcp, the path with ".snapshot" behind it for ipc; raises UsageError for anything else.
    """
    tcp = re.fullmatch(r"tcp://(.+):(\d{1,5})", endpoint)
    if tcp and 0 < int(tcp[2]) < 65535:
        return f"tcp://{tcp[1]}:{int(tcp[2]) + 1}"
    if endpoint.startswith("ipc://") and len(endpoint) > len("ipc://"):
        return f"{endpoint}.snapshot"
    raise UsageError(f"endpoint: must be tcp://HOST:PORT or ipc://PATH; is {endpoint!r}")
