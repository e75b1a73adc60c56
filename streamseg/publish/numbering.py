"""Which n a mask has: counted for each stream, and remembered for what comes later of the same frame."""

from __future__ import annotations

from collections import OrderedDict

KEYFRAMES_KNOWN = 4096  # masks of a stream whose n is remembered for their refinement
STREAMS_KNOWN = 4096  # removed streams whose next n is remembered


class Numbers:
    """n of every stream in a run. Used by one thread."""

    def __init__(self) -> None:
        self._next: OrderedDict[str, int] = OrderedDict()
        self._of: dict[str, OrderedDict[tuple[int, int], int]] = {}  # n by (epoch, seq), the latest ones

    def give(self, stream: str, epoch: int, seq: int) -> int:
        """The n of a new mask of revision 0."""
        n = self._next.get(stream, 0)
        self._next[stream] = n + 1
        known = self._of.setdefault(stream, OrderedDict())
        known[epoch, seq] = n
        if len(known) > KEYFRAMES_KNOWN:
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
        """Drop a removed stream, but for its next n: subscribers would take smaller ones for repeats."""
        self._of.pop(stream, None)
        if stream in self._next:
            self._next.move_to_end(stream)
        while len(self._next) > STREAMS_KNOWN + len(self._of):
            oldest = next(name for name in self._next if name not in self._of)
            del self._next[oldest]
