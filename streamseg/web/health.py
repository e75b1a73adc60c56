"""Whether the route moves and masks go out, told from the daemon's status."""

from __future__ import annotations

import time

from streamseg.wire.control import Status
from streamseg.wire.status import StreamStatus

STUCK_AFTER_S = 10.0

_BEFORE_DECODE = frozenset({"skipped", "corrupt", "disconnected"})  # drops of frames never counted as decoded


class Movement:
    """Looks at one status after the other, however far apart."""

    def __init__(self) -> None:
        self._done = -1
        self._moved_s = time.monotonic()

    def look(self, status: Status) -> str:
        """What is wrong with the route; empty when it moves, or has nothing to do."""
        streams = status.streams.values()
        done = sum(s.published + sum(_dropped(s).values()) for s in streams)
        if done != self._done or all(_waiting(s) <= 0 for s in streams):
            self._done, self._moved_s = done, time.monotonic()
        stuck_s = time.monotonic() - self._moved_s
        return f"frames wait, and none went out for {stuck_s:.0f} s" if stuck_s > STUCK_AFTER_S else ""


def unready(status: Status) -> str:
    """Why no masks can be had yet or any more; empty when the engine is loaded and the sockets are bound."""
    if status.state != "running":
        return f"{status.state}: engine {status.engine.id} {status.engine.state}"
    if status.publisher is None:
        return "the sockets are not bound"
    return ""


def _dropped(stream: StreamStatus) -> dict[str, int]:
    return {cause: count for cause, count in stream.drops.items() if cause not in _BEFORE_DECODE}


def _waiting(stream: StreamStatus) -> int:
    return stream.decoded - stream.published - sum(_dropped(stream).values())
