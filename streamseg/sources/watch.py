"""Noticing that an endless source stands still: no data, no picture, or a clock that does not run."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from streamseg.errors import SourceEnded
from streamseg.sources.edge import LiveEdge
from streamseg.sources.events import SourceEvent, Waiting
from streamseg.sources.target import Target

INTRA_S = 120.0
"""Longest wait for an intra frame while data comes."""


class Watched(Protocol):
    """What is asked of an opened source."""

    target: Target
    timeout_s: float
    edge: LiveEdge | None

    @property
    def report(self) -> Callable[[SourceEvent], None]: ...

    @property
    def url(self) -> str: ...


class Watch:
    """Notices an endless source that sends bytes but no new picture, or one whose clock stands still.

    While its packets come, an intra frame is waited for up to INTRA_S where connecting again would not bring
    one sooner: before the `first` picture, where no connection is, and where we skip to one ourselves.
    """

    def __init__(
        self, source: Watched, clock: Callable[[], float] = time.monotonic, first: bool = False
    ) -> None:
        self.source, self.clock, self.first = source, clock, first
        self.last_picture = self.last_change = self.last_packet = clock()
        self.pts: int | None = None
        self.told = False

    def sent(self) -> None:
        """A packet of the video has come."""
        self.last_packet = self.clock()

    def seen(self, pts: int | None) -> None:
        """A picture with this time stamp has been decoded."""
        self.last_picture = self.clock()
        if pts is None or pts != self.pts:
            self.pts, self.last_change = pts, self.last_picture

    def excuse(self, seconds: float) -> None:
        """Leave out the time that the reader of the pictures took."""
        self.last_picture += seconds
        self.last_change += seconds
        self.last_packet += seconds

    def silent(self, asked: float) -> bool:
        """Whether the read begun at `asked` took as long as FFmpeg waits for data.

        FFmpeg has as many errors for silence as it has protocols, and none at first when it still held a
        packet: that comes out late instead, and only the next read, after waiting once more, fails.
        """
        return self.clock() - asked >= 0.95 * self.source.timeout_s

    def check(self) -> None:
        now, limit = self.clock(), self.source.timeout_s
        silent_s = now - self.last_picture
        if limit < silent_s <= INTRA_S and now - self.last_packet <= limit and self._awaits_intra():
            if not self.told:
                self.told = True
                self.source.report(Waiting(self.source.url, limit, INTRA_S))
            return
        if silent_s > limit:
            raise SourceEnded(f"{self.source.url}: sent no picture for {limit:g} s")
        if now - self.last_change > limit:
            raise SourceEnded(f"{self.source.url}: its clock has stood still for {limit:g} s")

    def _awaits_intra(self) -> bool:
        edge = self.source.edge
        skips = edge is not None and (edge.doing == "skip" or edge.thin == "intra")
        return self.first or skips or self.source.target.scheme == "udp"
