"""The last masks of every stream, for those who come late."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from streamseg.errors import WireError
from streamseg.types import LabelSet, Mask
from streamseg.wire import KINDS, Encoding, Kind, encode_labels, encode_mask, topic_of

log = logging.getLogger(__name__)


class LastValueCache:
    """Each stream's last mask of revision 0 and of revision 1, and the label sets.

    A message is made when somebody asks and kept until the next mask replaces it. Used by one thread.
    """

    def __init__(self, encoding: Encoding, label_sets: Sequence[LabelSet]) -> None:
        self._encoding = encoding
        self._label_sets = {labels.id: labels for labels in label_sets}
        self._masks: dict[tuple[Kind, str], Mask] = {}
        self._messages: dict[tuple[Kind, str], list[bytes]] = {}

    def remember(self, mask: Mask) -> None:
        for kind in kinds_of(mask):
            self._masks[kind, mask.stream] = mask
            self._messages.pop((kind, mask.stream), None)

    def mask(self, kind: Kind, stream: str) -> Mask | None:
        """The last mask of a kind; may be asked by any thread, since it is one look into a dictionary."""
        return self._masks.get((kind, stream))

    def forget(self, stream: str) -> None:
        """Drop a stream's masks."""
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
                except WireError as error:  # said when it was published, too
                    log.debug("%s: no snapshot of %s: %s", stream, kind, error)
        return list(found.values())


def kinds_of(mask: Mask) -> tuple[Kind, ...]:
    """The kinds of message that a mask is published as, where somebody wants them."""
    if mask.revision:
        return ("refined",)
    without = {"refined"} if mask.confidence is not None else {"refined", "mask+confidence"}
    return tuple(kind for kind in KINDS if kind not in without)
