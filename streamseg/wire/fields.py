"""Fields that headers and documents share: their types, and what each message of a frame or a mask says."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from streamseg.types import Clock

Count = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Run = Annotated[int, Meta(ge=1, le=2**53 - 1)]
UnixNs = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Side = Annotated[int, Meta(ge=1, le=2**31)]
Pts = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
TimeBase = tuple[Side, Side]
StreamText = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}\Z")]
EngineText = Annotated[str, Meta(max_length=256)]
LabelSetText = Annotated[str, Meta(pattern=r"^[^/\s]{1,128}\Z")]


class OfFrame(msgspec.Struct, frozen=True, kw_only=True):
    """The stamp of a frame, in front of what a message says of it."""

    version: int
    kind: str
    stream: StreamText
    run: Run
    epoch: Count
    seq: Count
    n: Count
    pts: Pts | None
    time_base: TimeBase
    captured_unix_ns: UnixNs
    clock: Clock
    published_unix_ns: UnixNs
    shape: tuple[Side, Side]


class OfMask(OfFrame, frozen=True, kw_only=True):
    """The same, and whose mask it was."""

    engine: EngineText
    label_set: LabelSetText
