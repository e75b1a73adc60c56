"""Streams that were asked for by name, and that the daemon does not have."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

ROUNDS = 2
"""The states of all streams come once a second; the first round may be cut by the moment of subscribing."""


MOST_STREAMS = 4096  # more can only be an attack


class UnknownStreams:
    """Finds them by the states of all streams. One thread notes; any may read `text`."""

    def __init__(self, wanted: Collection[str]) -> None:
        self.text = ""  # what is wrong, once it is known
        self.settled = not wanted  # nothing more is to be found out
        self._missing = list(dict.fromkeys(wanted))
        self._rounds: Counter[str] = Counter()  # of the daemon's streams

    def note(self, stream: str) -> None:
        """A state or a mask of this stream has come."""
        if self.settled:
            return
        self._rounds[stream] += 1
        if stream in self._missing:
            self._missing.remove(stream)
        if not self._missing or len(self._rounds) > MOST_STREAMS:
            self.settled = True
        elif self._rounds[stream] > ROUNDS:
            self.settled = True
            names = " and ".join(repr(name) for name in self._missing)
            self.text = f"no stream {names}; this service has {', '.join(sorted(self._rounds))}"
