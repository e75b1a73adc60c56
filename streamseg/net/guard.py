"""Who may connect and what a connection may cost: keys, the allow-list, and bounds for all who connect."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from streamseg.config import ControlConfig, PublishConfig
from streamseg.net.allow_list import LOOK_EVERY_S, AllowedClients
from streamseg.net.curve_keys import from_z85, make_pair, public_of, read_key, readable_by_all, to_z85
from streamseg.net.io import Loop
from streamseg.net.zmtp import Mechanism, Null

if TYPE_CHECKING:
    from streamseg.net.server import Client

log = logging.getLogger(__name__)

HANDSHAKE_S = 5.0  # for a client that has connected to show that it speaks ZeroMQ, and its key
STALLED_S = 10.0  # an answer of which nothing was taken for so long is given up, with its connection
LOG_EVERY_S = 10.0  # refused keys and connections are counted, and logged this often
SHARE = 0.2
"""Of a core, for reading what comes from clients. Who sends more than that pays for is read later."""
BURST_S = 0.05  # of a core, at once

NO_FILE = "refused a connection: no file descriptor is left; raise LimitNOFILE= of the service, or ulimit -n"


class ConnectionGuard:
    """Guards the sockets of one thread, by timers of its loop."""

    def __init__(self, loop: Loop, config: PublishConfig | ControlConfig, section: str = "publish") -> None:
        """Reads the keys; raises ConfigError that names the setting in `section`."""
        self.denied = 0  # keys that are not listed
        self.own_keys: tuple[bytes, bytes] | None = None  # see Publisher
        self.disconnected = 0  # connections ended by us: revoked, too many, or against the protocol
        self.on_change: Callable[[], None] = lambda: None  # called when one of the counts has changed
        self._loop = loop
        self._section = section
        self._secret: bytes | None = None
        self._allowed: AllowedClients | None = None
        self._max_connections = config.max_connections
        self._open: dict[Client, None] = {}  # the oldest first
        self._idle: dict[Client, None] = {}  # those of them that have never asked for anything
        self._paused: list[Callable[[], None]] = []  # to be called when there is time again
        self._left_s, self._left_at_s = BURST_S, time.monotonic()
        self._log_at_s = 0.0
        self._unlogged: Counter[str] = Counter()
        if config.curve_secret_key_file:
            setting = f"{section}.curve_secret_key_file"
            self._secret = read_key(config.curve_secret_key_file, setting)
            if readable_by_all(config.curve_secret_key_file, setting):
                log.warning(
                    "%s: every user may read the key; chmod o= %s", setting, config.curve_secret_key_file
                )
            own_public, own_secret = make_pair()
            self.own_keys = (public_of(self._secret), own_secret)
            self._allowed = AllowedClients(config.allowed_clients, own_public, f"{section}.allowed_clients")
        self._look()

    @property
    def connections(self) -> int:
        """Connections to all sockets now."""
        return len(self._open)

    def mechanism(self, client: Client) -> Mechanism:
        """What a new client is asked for."""
        if self._secret is None:
            return Null()
        from streamseg.net.curve import CurveServer  # loads libsodium

        return CurveServer(from_z85(self._secret), lambda key: self._accepts(client, to_z85(key)))

    def spend(self, seconds: float) -> bool:
        """Account for time spent on a client; whether there is some left."""
        self._left_s -= seconds
        if self._left_s <= 0:
            self._refill(time.monotonic())
        return self._left_s > 0

    def pause(self, go_on: Callable[[], None]) -> None:
        """Have this called when there is time again."""
        if not self._paused:
            self._loop.later(-self._left_s / SHARE + 0.001, self._go_on)
        self._paused.append(go_on)

    def admit(self, client: Client) -> None:
        """A client has connected. Keeps to max_connections: the oldest that never asked for anything goes.

        So a client that opens many connections and never finishes a handshake pushes out its own.
        """
        self._open[client] = self._idle[client] = None
        self.on_change()
        if len(self._open) > self._max_connections:
            oldest = next(iter(self._idle))
            self.hang_up(oldest, f"above {self._section}.max_connections = {self._max_connections}")

    def asked(self, client: Client) -> None:
        """A client has asked for something: it stays when there are too many."""
        self._idle.pop(client, None)

    def gone(self, client: Client) -> None:
        """A connection has ended."""
        self._open.pop(client, None)
        self._idle.pop(client, None)
        self.on_change()

    def hang_up(self, client: Client, why: str) -> None:
        """End a connection; why is logged, with how often it happened."""
        if client.close() and why:
            self.disconnected += 1
            self.on_change()
            self.note(f"disconnected a client: {why}")

    def free_one(self) -> bool:
        """End the newest connection that never asked for anything, where there is one."""
        newest = next(reversed(self._idle), None)
        if newest is not None and newest.close():
            self.disconnected += 1
            return True
        return False

    def note(self, what: str, count: int = 1) -> None:
        """Log this, soon, with how often it happened."""
        self._unlogged[what if len(self._unlogged) < 100 else "refused others"] += count

    def _go_on(self) -> None:
        paused, self._paused = self._paused, []
        for go_on in paused:
            go_on()

    def _look(self) -> None:
        """End what takes too long, look at the list, log; again and again."""
        now_s = time.monotonic()
        late = [c for c in self._idle if not c.peer.ready and now_s - c.since_s > HANDSHAKE_S]
        for client in late:
            self.hang_up(client, f"no handshake within {HANDSHAKE_S:g} s")
        for client in [c for c in self._open if c.stalled_s(now_s) > STALLED_S]:
            self.hang_up(client, f"took nothing of its answer for {STALLED_S:g} s")
        if self._allowed is not None and self._allowed.changed():
            self._drop_revoked(self._allowed)
        self._log(now_s)
        self._loop.later(LOOK_EVERY_S, self._look)

    def _refill(self, now_s: float) -> None:
        self._left_s = min(BURST_S, self._left_s + (now_s - self._left_at_s) * SHARE)
        self._left_at_s = now_s

    def _accepts(self, client: Client, key: bytes) -> bool:
        assert self._allowed is not None
        if key not in self._allowed and self._allowed.changed(unknown_key=True):
            self._drop_revoked(self._allowed)
        if key in self._allowed:
            client.key = key
            return True
        self.denied += 1
        self.note(f"refused the key {key.decode()} from {client.address}")
        return False

    def _drop_revoked(self, allowed: AllowedClients) -> None:
        """Disconnect those who are not allowed any more."""
        for client in [c for c in self._open if c.key and c.key not in allowed]:
            self.hang_up(client, "its key was revoked")

    def _log(self, now_s: float) -> None:
        if not self._unlogged or now_s < self._log_at_s:
            return
        self._log_at_s = now_s + LOG_EVERY_S
        for what, count in self._unlogged.most_common(5):
            log.warning("%s: %s%s", self._section, what, f", {count} times" if count > 1 else "")
        self._unlogged.clear()
