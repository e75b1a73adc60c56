"""What happened in a zone ⇄ the parts of an `event/<stream>/` message: an event begins, goes on, ends."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from streamseg.errors import WireError
from streamseg.wire.fields import Count, Pts, Run, StreamText, TimeBase, UnixNs
from streamseg.wire.message import read_document, topic_of

MAX_EVENT = 64 << 10
"""Bytes of an event's document."""

KEPT_EVENTS = 256
"""Begins and ends of a stream that a snapshot brings; those of open events come in any case."""

MOST_EVENTS_REPLIED = 4096
"""Event messages in one snapshot's reply."""

EventState = Literal["begin", "update", "end"]

Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=1e12)]


class EventDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The second part of an event message.

    event_n counts the event messages of a stream within a journal: drop one that is not above the last.
    previous_n is that of the last begin or end before this message: who has not got that one, or a later
    one, has lost something, and asks for a snapshot; between the two there were updates only.
    """

    version: int
    kind: Literal["event"]
    stream: StreamText
    run: Run  # of the publisher that sent it first; a snapshot brings those of earlier runs
    journal: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]  # another one counts from 0 again
    event_n: Count
    previous_n: Count | None
    id: Annotated[str, Meta(min_length=1, max_length=128)]  # the same from begin to end
    event: StreamText
    zone: StreamText
    classes: Annotated[list[Annotated[str, Meta(max_length=256)]], Meta(max_length=255)]
    state: EventState
    why: Annotated[str, Meta(max_length=64)] = ""  # it ended
    no_data: bool = False
    value: Share  # what is compared: the share of the zone; of changes_by, how far it has changed
    peak: Share  # the farthest value since it began: the highest, of `disappears` the lowest
    begun_unix_ns: UnixNs  # when the first frame that it held on was captured
    at_unix_ns: UnixNs  # when this message's frame was captured
    duration_s: Seconds  # between the two, in media time
    epoch: Count
    seq: Count
    pts: Pts | None
    time_base: TimeBase
    published_unix_ns: UnixNs


class KeptEvent(NamedTuple):
    """A message that snapshots bring."""

    parts: list[bytes]
    open: bool  # of an event that has not ended


class _Told(msgspec.Struct):
    id: str
    state: EventState


def kept_events(messages: Sequence[list[bytes]]) -> list[KeptEvent]:
    """The event messages of a stream as another publisher keeps them; what cannot be read is left out."""
    found: list[tuple[list[bytes], _Told]] = []
    for parts in messages:
        with contextlib.suppress(msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            found.append((parts, msgspec.json.decode(parts[1], type=_Told)))
    over = {told.id for _, told in found if told.state == "end"}
    return [KeptEvent(parts, told.id not in over) for parts, told in found]


def replied_events(streams: Sequence[Sequence[KeptEvent]]) -> list[list[bytes]]:
    """What one reply brings of the events of these streams.

    All, unless they are more than it holds: then the last ones of each stream, and those of open events.
    """
    if sum(map(len, streams)) > MOST_EVENTS_REPLIED:
        most = MOST_EVENTS_REPLIED // len(streams)
        streams = [[one for i, one in enumerate(kept) if one.open or i >= len(kept) - most]
                   for kept in streams]  # fmt: skip
    return [one.parts for kept in streams for one in kept][:MOST_EVENTS_REPLIED]


def encode_event(event: EventDocument) -> list[bytes]:
    """Make the parts of the message; raises WireError for what no message may carry."""
    document = msgspec.json.encode(event)
    if len(document) > MAX_EVENT:
        raise WireError(f"event: {len(document)} bytes of JSON; the most is {MAX_EVENT}")
    return [topic_of("event", event.stream), document]


def parse_event(parts: Sequence[bytes]) -> EventDocument:
    """Read an event message; raises WireError, and nothing else, on what is not one."""
    if len(parts) != 2:
        raise WireError(f"message: event must have 2 parts, has {len(parts)}")
    event = read_document(parts[1], EventDocument, MAX_EVENT, json=True)
    if parts[0] != topic_of("event", event.stream):
        raise WireError(f"topic: {parts[0][:80]!r} carries an event of stream {event.stream!r}")
    if event.previous_n is not None and event.previous_n >= event.event_n:
        raise WireError(f"previous_n: must be below event_n {event.event_n}; is {event.previous_n}")
    return event
