"""What the publisher knows of its topics: their subscribers, the n of masks, last messages. No sockets."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Literal

from streamseg.errors import WireError
from streamseg.types import LabelSet, Mask
from streamseg.wire import (
    KINDS,
    Encoding,
    KeptEvent,
    Kind,
    TopicKind,
    encode_labels,
    encode_mask,
    encode_payload,
    encode_same,
    replied_events,
    topic_of,
)

log = logging.getLogger(__name__)

KNOWN_MASKS = 4096  # of a stream, whose n is remembered for their refinement
KNOWN_STREAMS = 4096  # removed ones, whose next n is remembered


class Demand:
    """The topic prefixes with a subscriber. Written by the publish thread, read by any."""

    def __init__(self) -> None:
        self._prefixes: set[bytes] = set()  # each operation on it is whole, so readers need no lock
        self._changed = threading.Condition()

    def wants(self, kind: TopicKind, stream: str) -> bool:
        """Whether this topic has a subscriber now; takes microseconds and no lock."""
        topic = topic_of(kind, stream)
        prefixes = self._prefixes  # of which strangers may have put in many: the topic has only few
        return any(topic[:end] in prefixes for end in range(len(topic) + 1))

    def wait(self, kind: TopicKind, stream: str, timeout_s: float) -> bool:
        """Wait until wants() is true; False when it is not after timeout_s."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self.wants(kind, stream):
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def note(self, subscribing: bool, prefix: bytes) -> None:
        """A prefix has one more subscriber, or lost its last."""
        with self._changed:
            (self._prefixes.add if subscribing else self._prefixes.discard)(prefix)
            self._changed.notify_all()


class MaskNumbers:
    """n of every stream in a run: counted, and remembered for what comes later of the same frame.

    Used by one thread.
    """

    def __init__(self) -> None:
        self._next: OrderedDict[str, int] = OrderedDict()
        self._of: dict[str, OrderedDict[tuple[int, int], int]] = {}  # n by (epoch, seq), the latest ones

    def give(self, stream: str, epoch: int, seq: int) -> int:
        """The n of a new mask of revision 0."""
        n = self._next.get(stream, 0)
        self._next[stream] = n + 1
        return self.note(stream, epoch, seq, n)

    def note(self, stream: str, epoch: int, seq: int, n: int) -> int:
        """Remember that what comes later of this frame has this n, which is no new one."""
        known = self._of.setdefault(stream, OrderedDict())
        known[epoch, seq] = n
        if len(known) > KNOWN_MASKS:
            known.popitem(last=False)
        return n

    def of(self, stream: str, epoch: int, seq: int) -> int | None:
        """The n that a frame's mask was given; None when it had none, or too long ago."""
        known = self._of.get(stream)
        return known.get((epoch, seq)) if known is not None else None

    def latest(self, stream: str) -> int:
        """The n of the stream's last mask, 0 before the first."""
        return max(self._next.get(stream, 0) - 1, 0)

    def forget(self, stream: str) -> None:
        """Drop a removed stream, except its next n: subscribers would take smaller ones for repeats."""
        self._of.pop(stream, None)
        if stream in self._next:
            self._next.move_to_end(stream)
        while len(self._next) > KNOWN_STREAMS + len(self._of):
            oldest = next(name for name in self._next if name not in self._of)
            del self._next[oldest]


class LastValueCache:
    """Each stream's last mask of revision 0 and of revision 1, the last unchanged frame since, what was
    counted in one, and the label sets.

    A message is made when it is asked for and kept until the next mask replaces it. Used by one thread.
    """

    def __init__(self, encoding: Encoding, label_sets: Sequence[LabelSet]) -> None:
        self._encoding = encoding
        self._label_sets = {labels.id: labels for labels in label_sets}
        self._masks: dict[tuple[Kind, str], Mask] = {}
        self._messages: dict[tuple[Kind, str], list[bytes]] = {}
        self._unchanged: dict[str, Mask] = {}
        self._documents: dict[tuple[str, str], list[bytes]] = {}

    def add_label_set(self, labels: LabelSet) -> bool:
        """Take one more set of classes; False where it is known."""
        known = self._label_sets.get(labels.id) == labels
        self._label_sets[labels.id] = labels
        return not known

    def remember(self, mask: Mask) -> None:
        if not mask.revision:
            self._unchanged.pop(mask.stream, None)
        for kind in kinds_of(mask):
            self._masks[kind, mask.stream] = mask
            self._messages.pop((kind, mask.stream), None)

    def mask(self, kind: Kind, stream: str) -> Mask | None:
        """The last mask of a kind; may be asked by any thread, since it is one look into a dictionary."""
        return self._masks.get((kind, stream))

    def remember_document(
        self, kind: Literal["zones", "polygons"], stream: str, message: list[bytes]
    ) -> None:
        """Keep what was published of a stream's last mask."""
        self._documents[kind, stream] = message

    def forget(self, stream: str) -> None:
        """Drop a stream's masks, and what was published of them."""
        self._unchanged.pop(stream, None)
        for key in [key for key in self._documents if key[1] == stream]:
            del self._documents[key]
        for kind in KINDS:
            self._masks.pop((kind, stream), None)
            self._messages.pop((kind, stream), None)

    def message(self, kind: Kind, stream: str, payload: list[bytes] | None = None) -> list[bytes]:
        """The parts of the last message on a topic; payload saves the packing where it was done."""
        message = self._messages.get((kind, stream))
        if message is None:
            mask = self._masks[kind, stream]
            message = self._messages[kind, stream] = encode_mask(
                mask,
                self._encoding,
                kind=kind,
                label_set=self._label_sets.get(mask.label_set),
                payload=payload,
            )
        return message

    def published(self, mask: Mask, demand: Demand) -> Iterator[list[bytes]]:
        """Remember a mask as published now, and make its message for each topic that has a subscriber.

        The labels are packed once for all of them; raises WireError for a mask that no message may carry.
        """
        wanted = [kind for kind in kinds_of(mask) if demand.wants(kind, mask.stream)]
        payload: list[bytes] = []
        if set(wanted) - {"rle"}:
            begun_ns = time.monotonic_ns()
            payload = encode_payload(mask, self._encoding, confidence="mask+confidence" in wanted)
            encode_us = (time.monotonic_ns() - begun_ns) // 1000
            mask = replace(mask, stage_us=mask.stage_us | {"encode": encode_us})
        self.remember(mask.stamped(published_unix_ns=time.time_ns()))
        for kind in wanted:
            yield self.message(kind, mask.stream, payload if kind == "mask+confidence" else payload[:1])

    def holding(self, mask: Mask) -> Mask | None:
        """The stream's last mask where `mask` says that its labels hold, else None.

        One that was published whole for want of the mask that holds stands for that one from then on.
        """
        last = self._masks.get(("mask", mask.stream))
        if last is None or last.epoch != mask.epoch or mask.same_as not in (last.seq, last.same_as):
            return None
        made = (last.size, last.engine, last.label_set)
        return last if made == (mask.size, mask.engine, mask.label_set) else None

    def unchanged(self, mask: Mask) -> list[bytes]:
        """Remember an unchanged frame as published now, and make its message."""
        mask = mask.stamped(published_unix_ns=time.time_ns())
        self._unchanged[mask.stream] = mask
        return encode_same(mask)

    def label_messages(self, prefix: bytes) -> Iterator[list[bytes]]:
        """The messages of the label sets whose topic begins with prefix."""
        for labels in self._label_sets.values():
            message = encode_labels(labels)
            if message[0].startswith(prefix):
                yield message

    def matching(self, prefixes: Sequence[bytes]) -> list[list[bytes]]:
        """The last message of every topic that begins with one of the prefixes, label sets first."""
        found = {message[0]: message for prefix in prefixes for message in self.label_messages(prefix)}
        for kind, stream in self._masks:
            topic = topic_of(kind, stream)
            if any(topic.startswith(prefix) for prefix in prefixes):
                try:
                    found[topic] = self.message(kind, stream)
                except WireError as error:  # logged when it was published, too
                    log.debug("%s: no snapshot of %s: %s", stream, kind, error)
        for mask in self._unchanged.values():  # behind their masks
            topic = topic_of("same", mask.stream)
            if any(topic.startswith(prefix) for prefix in prefixes):
                found[topic] = encode_same(mask)
        for message in self._documents.values():
            if any(message[0].startswith(prefix) for prefix in prefixes):
                found[message[0]] = message
        return list(found.values())


def kinds_of(mask: Mask) -> tuple[Kind, ...]:
    """The kinds of message that a mask is published as, where they have subscribers."""
    if mask.revision:
        return ("refined",)
    without = {"refined"} if mask.confidence is not None else {"refined", "mask+confidence"}
    return tuple(kind for kind in KINDS if kind not in without)


class KeptEvents:
    """What snapshots bring of each stream's events. Used by one thread."""

    def __init__(self, kept: Mapping[str, Sequence[KeptEvent]]) -> None:
        self._kept = dict(kept)

    def replace(self, stream: str, kept: Sequence[KeptEvent]) -> None:
        self._kept[stream] = kept

    def matching(self, prefixes: Sequence[bytes]) -> list[list[bytes]]:
        """The messages of every topic that begins with one of the prefixes, those of a stream in order."""
        topics = {stream: topic_of("event", stream) for stream in self._kept}
        return replied_events(
            [kept for stream, kept in self._kept.items()
             if any(topics[stream].startswith(prefix) for prefix in prefixes)]
        )  # fmt: skip
