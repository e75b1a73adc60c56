"""The state of a stream, for subscribers of `status/<stream>/` and for the control socket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from streamseg.errors import WireError
from streamseg.runtime.counters import State
from streamseg.wire.fields import Count, Run, StreamText, UnixNs
from streamseg.wire.message import VERSION, read_document, topic_of

MAX_STATUS = 64 << 10
"""Bytes of a status document."""

Number = Annotated[float, Meta(ge=0)]
Text = Annotated[str, Meta(max_length=2048)]


class Histogram(msgspec.Struct, frozen=True, kw_only=True):
    """Times of one stage since the stream was added."""

    counts: Annotated[list[Count], Meta(max_length=64)]  # one for each of BOUNDS_US, and one for above
    sum_us: Count


class StreamStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One stream's counters and state. Counters begin at 0 when the stream is added."""

    stream: StreamText
    source: Text  # without passwords
    state: State
    error: Text = ""  # why it delivers no frames; empty when it does
    size: tuple[Count, Count] | None = None  # (height, width) of its pictures; None before the first
    source_fps: Number | None = None  # as the source states it
    fps: Number = 0.0  # masks published a second, over the last 5 s
    age_ms: float | None = None  # of the last mask when it was published: since its frame was captured
    silent_s: Number | None = None  # since the last mask was published; None before the first
    engine: Text | msgspec.UnsetType = msgspec.UNSET  # the network's name: `default`, or the setting
    max_age_ms: Number | None = None  # the setting
    epoch: Count = 0
    decoded: Count = 0
    published: Count = 0
    unchanged: Count | msgspec.UnsetType = msgspec.UNSET  # of the published, where there is a gate
    unchanged_share: Number | msgspec.UnsetType = msgspec.UNSET  # of the last ones
    refined: Count = 0  # keyframes that the CRF answered in time
    drops: dict[str, Count] = {}  # by cause: skipped, stale, corrupt, behind, disconnected, slow engine
    unrefined: dict[str, Count] = {}  # keyframes left out by the CRF, by cause
    connects: Count = 0
    reconnects: Count = 0  # connects after the first
    stage_us: dict[str, Count] = {}  # medians over the last masks
    histograms: dict[str, Histogram] = {}  # by stage, and "age"; on the control socket only


class StatusDocument(StreamStatus, frozen=True, kw_only=True):
    """The second part of a status message."""

    version: int
    kind: Literal["status"]
    run: Run
    unix_ns: UnixNs


def status_topic(stream: str) -> bytes:
    return topic_of("status", stream)


def encode_status(status: StreamStatus, run: int, unix_ns: int) -> list[bytes]:
    """Make the parts of a status message; without histograms."""
    fields = msgspec.structs.asdict(status) | {"histograms": {}}
    document = StatusDocument(**fields, version=VERSION, kind="status", run=run, unix_ns=unix_ns)
    return [status_topic(status.stream), msgspec.msgpack.encode(document)]


def parse_status(parts: Sequence[bytes]) -> StatusDocument:
    """Read a status message; raises WireError, and nothing else, on what is not one."""
    if len(parts) != 2:
        raise WireError(f"message: status must have 2 parts, has {len(parts)}")
    status = read_document(parts[1], StatusDocument, MAX_STATUS)
    if parts[0] != status_topic(status.stream):
        raise WireError(f"topic: {parts[0][:80]!r} carries the status of stream {status.stream!r}")
    return status
