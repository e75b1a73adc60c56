"""What subscribers ask for, so that nothing else is computed."""

from __future__ import annotations

import threading
import time

from streamseg.wire import TopicKind, topic_of


class Demand:
    """The topic prefixes that somebody subscribes to. Written by the publish thread, read by any."""

    def __init__(self) -> None:
        self._prefixes: frozenset[bytes] = frozenset()  # replaced whole, so readers need no lock
        self._changed = threading.Condition()

    def wants(self, kind: TopicKind, stream: str) -> bool:
        """Whether somebody subscribes to this topic now; takes microseconds and no lock."""
        topic = topic_of(kind, stream)
        return any(topic.startswith(prefix) for prefix in self._prefixes)

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

    def note(self, event: bytes) -> bytes | None:
        """Take in what an XPUB socket received; returns the prefix when somebody subscribed to it.

        libzmq reports each subscription (XPUB_VERBOSE), and the end of the last one of a prefix.
        """
        action, prefix = event[:1], event[1:]
        with self._changed:
            if action == b"\x01":
                self._prefixes |= {prefix}
            elif action == b"\x00":
                self._prefixes -= {prefix}
            self._changed.notify_all()
        return prefix if action == b"\x01" else None
