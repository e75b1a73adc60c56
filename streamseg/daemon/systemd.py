"""How the service is, told to systemd: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html

One datagram to $NOTIFY_SOCKET for each message. Without that variable nothing is sent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
import weakref
from collections.abc import Iterator, Mapping

from streamseg.runtime.counters import Stats, StreamStats

log = logging.getLogger(__name__)

EXTEND_EVERY_S = 5.0
EXTEND_BY_S = 20.0
EXTEND_AT_MOST_S = 3600.0  # an engine that takes longer to build is taken for stuck
STATUS_EVERY_S = 5.0

_BEFORE_DECODE = frozenset(
    {"skipped", "corrupt", "disconnected"}
)  # drops of pictures never counted as decoded
_OVERTAKEN = "slow engine"  # a drop that happens without the engine doing anything


class Service:
    """Our side of Type=notify and of the watchdog. Used by the main thread, but for what says otherwise."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._sock: socket.socket | None = None
        if self._address:  # kept: a watchdog that is not fed for want of a file descriptor would end us
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._sock.settimeout(1.0)
            weakref.finalize(self, self._sock.close)
        self._name = ""
        self._rates: _Rates | None = None
        self._progress: Progress | None = None
        self._moved_s = time.monotonic()
        ours = environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        usec = environ.get("WATCHDOG_USEC", "")
        self.watchdog_s = int(usec) / 1e6 if ours and usec.isdecimal() and int(usec) else None
        self.tick_s = min(1.0, self.watchdog_s / 4) if self.watchdog_s else 1.0

    def notify(self, *assignments: str) -> None:
        """Send assignments such as "READY=1" in one datagram; failing is logged, and not raised."""
        if self._sock is None:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            self._sock.sendto("\n".join(assignments).encode(), address)
        except OSError as error:
            log.warning("systemd: %s cannot be told %s (%s)", self._address, assignments[0], error.strerror)

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """While the body runs, say what takes so long and ask for more time to start."""
        if not self._address:
            yield
            return
        done = threading.Event()

        def extend() -> None:
            give_up_s = time.monotonic() + EXTEND_AT_MOST_S
            while time.monotonic() < give_up_s:
                self.notify(f"EXTEND_TIMEOUT_USEC={int(EXTEND_BY_S * 1e6)}", f"STATUS={what}")
                if done.wait(EXTEND_EVERY_S):
                    return

        thread = threading.Thread(target=extend, name="systemd", daemon=True)
        thread.start()
        try:
            yield
        finally:
            done.set()
            thread.join()

    @contextlib.contextmanager
    def reloading(self) -> Iterator[None]:
        """While the body runs, the configuration is read again. From any thread."""
        self.notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            yield
        finally:
            self.notify("READY=1")

    def say(self, status: str) -> None:
        """What `systemctl status` shows until there is something new. From any thread."""
        self.notify(f"STATUS={status}")

    def ready(self, stats: Stats) -> None:
        """Masks are published from now on; `stats` is what alive() looks at."""
        self._progress = Progress(stats)
        self._rates = _Rates(stats, time.monotonic())
        self.notify("READY=1", "STATUS=publishing; waiting for the first pictures")

    def alive(self) -> None:
        """To be called every tick_s. Pings the watchdog only when the route moves or has nothing to do."""
        now_s = time.monotonic()
        if self._progress is not None and self._progress.moves():
            self._moved_s = now_s
            if self.watchdog_s is not None:
                self.notify("WATCHDOG=1")
        status = self._rates.status(now_s) if self._rates is not None else ""
        if status:
            stuck = now_s - self._moved_s >= STATUS_EVERY_S
            self.notify("STATUS=" + ("stuck: pictures wait, and none is published" if stuck else status))

    def stopping(self) -> None:
        self.notify("STOPPING=1", "STATUS=stopping")


class Progress:
    """Whether the route moves, told from its counters."""

    def __init__(self, stats: Stats) -> None:
        self._stats = stats
        self._done_before = -1

    def moves(self) -> bool:
        """True when a frame left the route since the last call, or when none is on its way."""
        streams = list(self._stats.all().values())
        done = sum(s.published + sum(_dropped(s, overtaken=False)) for s in streams)
        moved = done != self._done_before
        self._done_before = done
        return moved or all(on_their_way(s) <= 0 for s in streams)


def on_their_way(stats: StreamStats) -> int:
    """Frames of a stream that were decoded, and neither published nor dropped yet."""
    return stats.decoded - stats.published - sum(_dropped(stats, overtaken=True))


def _dropped(stats: StreamStats, *, overtaken: bool) -> Iterator[int]:
    """Counts of the frames that were dropped behind the decoder."""
    for cause, count in list(stats.drops.items()):
        if cause not in _BEFORE_DECODE and (overtaken or cause != _OVERTAKEN):
            yield count


class _Rates:
    """The streams in one line, every STATUS_EVERY_S."""

    def __init__(self, stats: Stats, now_s: float) -> None:
        self._stats = stats
        self._before: dict[str, int] = {}
        self._before_s = now_s

    def status(self, now_s: float) -> str:
        """What `systemctl status` shows; empty when the last one is still fresh."""
        span_s = now_s - self._before_s
        if span_s < STATUS_EVERY_S:
            return ""
        streams = self._stats.all()
        published = {name: s.published for name, s in streams.items()}
        new = {name: max(0, count - self._before.get(name, 0)) for name, count in published.items()}
        self._before, self._before_s = published, now_s
        delivering = sum(count > 0 for count in new.values())
        text = f"{delivering} of {len(streams)} streams deliver, {sum(new.values()) / span_s:.1f} masks/s"
        silent = [name + (f" ({streams[name].error})" if streams[name].error else "")
                  for name, count in new.items() if count == 0]  # fmt: skip
        return text + (f"; silent: {', '.join(silent)}" if silent else "")
