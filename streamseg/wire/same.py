"""An unchanged frame ⇄ the parts of a `same/<stream>/` message: an earlier mask holds for it, too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import msgspec

from streamseg.errors import WireError
from streamseg.types import Mask
from streamseg.wire.codec import MAX_HEADER, check_size
from streamseg.wire.fields import Count, OfMask, UnixNs
from streamseg.wire.message import VERSION, Header, read_of_stream, stamp_fields, stamp_of, topic_of


class SameHeader(OfMask, frozen=True, kw_only=True):
    """The second part of the message; n, shape, engine and label_set are those of the mask that holds."""

    kind: Literal["same"]
    same_as: Count  # seq of that mask, in the same epoch
    stage_us: dict[str, UnixNs] = msgspec.field(default_factory=dict)

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands among the messages of its stream and run: behind its mask, before the next one."""
        return self.n, self.epoch, self.seq

    def holds(self, mask: Header) -> bool:
        """Whether this is the mask, of any kind, whose labels hold."""
        place = (mask.stream, mask.run, mask.epoch, mask.seq, mask.n)
        made = (mask.shape, mask.engine, mask.label_set)
        return place == (self.stream, self.run, self.epoch, self.same_as, self.n) and made == (
            self.shape,
            self.engine,
            self.label_set,
        )

    def mask_of(self, mask: Mask) -> Mask:
        """That mask with the stamp and times of the unchanged frame; the arrays are not copied."""
        return replace(mask, stamp=stamp_of(self), stage_us=self.stage_us, same_as=self.same_as)


def encode_same(mask: Mask) -> list[bytes]:
    """Make the parts of the message of a mask that has same_as, and the n of the mask that holds."""
    if mask.same_as is None:
        raise WireError("same_as: the mask has labels of its own")
    check_size(*mask.size)
    header = SameHeader(
        version=VERSION,
        kind="same",
        **stamp_fields(mask.stamp),
        shape=mask.size,
        engine=mask.engine,
        label_set=mask.label_set,
        same_as=mask.same_as,
        stage_us=mask.stage_us,
    )
    return [topic_of("same", mask.stream), msgspec.msgpack.encode(header)]


def parse_same(parts: Sequence[bytes]) -> SameHeader:
    """Read the message; raises WireError, and nothing else, on what is not one."""
    header = read_of_stream(parts, "same", SameHeader, MAX_HEADER, json=False)
    if header.same_as >= header.seq:
        raise WireError(f"same_as: must be below seq, {header.seq}; is {header.same_as}")
    check_size(*header.shape)
    return header
