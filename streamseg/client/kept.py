"""Masks as they have come, and unpacked ones, so that unchanged frames have their labels without a copy."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from streamseg.types import Mask
from streamseg.wire import Kind, MaskMessage, SameHeader

KEPT_BYTES = 256 << 20
"""Of all streams together; what has not been asked for longest is unpacked again when it is."""

Topic = tuple[str, Kind]


@dataclass(frozen=True, slots=True)
class Arrival:
    """A mask that has come: its message, and a later frame's stamp where it holds for that one, too."""

    message: MaskMessage
    same: SameHeader | None = None

    @property
    def topic(self) -> Topic:
        return self.message.stream, self.message.header.kind

    @property
    def place(self) -> tuple[int, int, int]:
        """Where it stands among those of its stream and run."""
        return self.message.place if self.same is None else self.same.place


class KeptMasks:
    """The last one of each stream and kind. Any thread may call it."""

    def __init__(self, most: int = KEPT_BYTES) -> None:
        self._most = most
        self._bytes = 0
        self._masks: OrderedDict[Topic, tuple[MaskMessage, Mask]] = OrderedDict()
        self._lock = threading.Lock()  # guards both; not held while a mask is unpacked

    def mask_of(self, arrival: Arrival) -> Mask:
        """The mask, with labels that were unpacked now or before; raises WireError."""
        mask = self._unpacked(arrival.topic, arrival.message)
        return mask if arrival.same is None else arrival.same.mask_of(mask)

    def _unpacked(self, topic: Topic, message: MaskMessage) -> Mask:
        with self._lock:
            kept = self._masks.get(topic)
            if kept is not None and kept[0] is message:
                self._masks.move_to_end(topic)
                return kept[1]
        mask = message.decode()
        with self._lock:
            self._bytes += _size(mask) - self._forget(topic)
            self._masks[topic] = message, mask
            while self._bytes > self._most and len(self._masks) > 1:
                self._bytes -= self._forget(next(iter(self._masks)))
        return mask

    def _forget(self, topic: Topic) -> int:
        kept = self._masks.pop(topic, None)
        return 0 if kept is None else _size(kept[1])


def _size(mask: Mask) -> int:
    return mask.labels.nbytes + (0 if mask.confidence is None else mask.confidence.nbytes)
