"""The service's side of systemd's protocol: https://www.freedesktop.org/software/systemd/man/latest/sd_notify.html

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

from streamseg.runtime.counters import ProgressWatch, Stats

log = logging.getLogger(__name__)

EXTEND_EVERY_S = 5.0
EXTEND_BY_S = 20.0
EXTEND_AT_MOST_S = 3600.0  # an engine that takes longer to build counts as stuck
STATUS_EVERY_S = 5.0


class Service:
    """Type=notify and the watchdog. Used by the main thread, except where a method says otherwise."""

    def __init__(self, environ: Mapping[str, str] = os.environ) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._sock: socket.socket | None = None
        if (
            self._address
        ):  # kept open: without a free file descriptor the watchdog would not be fed and would end us
            self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._sock.settimeout(1.0)
            weakref.finalize(self, self._sock.close)
        self._rates: _Rates | None = None
        self._stats: Stats | None = None  # once masks are published
        self._progress = ProgressWatch()
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
            log.warning("systemd: cannot send to %s: %s (%s)", self._address, assignments[0], error.strerror)

    @contextlib.contextmanager
    def busy(self, what: str) -> Iterator[None]:
        """While the body runs, show what takes this time and ask for more time to start."""
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

    def set_status(self, status: str) -> None:
        """What `systemctl status` shows until there is something new. From any thread."""
        self.notify(f"STATUS={status}")

    def ready(self, stats: Stats) -> None:
        """Masks are published from now on; `stats` is what alive() looks at."""
        self._stats, self._progress = stats, ProgressWatch()
        self._rates = _Rates(stats, time.monotonic())
        self.notify("READY=1", "STATUS=publishing; waiting for the first frames")

    def alive(self) -> None:
        """To be called every tick_s. Pings the watchdog only when the route moves or has nothing to do."""
        now_s = time.monotonic()
        moves = self._stats is not None and self._progress.moves(self._stats.all().values())
        if moves and self.watchdog_s is not None:
            self.notify("WATCHDOG=1")
        status = self._rates.status(now_s) if self._rates is not None else ""
        if status:
            stuck = self._progress.stuck_s >= STATUS_EVERY_S
            self.notify("STATUS=" + ("stuck: frames wait, and none is published" if stuck else status))

    def stopping(self) -> None:
        self.notify("STOPPING=1", "STATUS=stopping")


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
