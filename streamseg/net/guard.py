"""Who may connect and who is connected: keys, the allow-list, and bounds on connections.

libzmq has no call to end one connection. It does report the file descriptor by which a message came
(ZMQ_SRCFD) and the client's key (User-Id), so we shut that connection down at the operating system, and
libzmq sees a peer that has gone. The others do not notice.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import socket
import time
from collections import Counter

import zmq
from zmq.utils import z85
from zmq.utils.monitor import recv_monitor_message

from streamseg.config import ControlConfig, PublishConfig
from streamseg.net import options
from streamseg.net.allow_list import LOOK_EVERY_S, AllowedClients
from streamseg.net.curve_keys import need_curve, public_of, read_key, readable_by_all
from streamseg.net.listening import Listening

log = logging.getLogger(__name__)

SHORTAGE_LOOK_MS = 30
"""Between two looks while no file descriptor is left: until then libzmq uses a whole core."""

MAX_SUBSCRIPTIONS = 4096  # of one connection; a client that asks for more is disconnected
AT_ONCE = 64  # key questions and connection events taken between two looks at the masks
LOG_EVERY_S = 10.0  # refused keys and connections are counted, and logged this often

_NO_FILE = "refused a connection: no file descriptor is left; raise LimitNOFILE= of the service, or ulimit -n"
_ZAP = (
    "inproc://zeromq.zap.01"  # where libzmq asks whether a key is accepted: https://rfc.zeromq.org/spec/27/
)


class ConnectionGuard:
    """Guards the sockets of one thread, which calls serve() again and again."""

    def __init__(
        self,
        config: PublishConfig | ControlConfig,
        context: zmq.Context[zmq.Socket[bytes]],
        section: str = "publish",
    ) -> None:
        """Reads the keys; raises ConfigError that names the setting in `section`.

        Only one guard of a context may have keys. close() before the context is ended.
        """
        self._section = section
        self.connections = 0
        self.denied = 0  # keys that are not listed
        self.own_keys: tuple[bytes, bytes] | None = None  # see Publisher
        self.disconnected = 0  # connections ended by us: revoked, too many, or too many subscriptions
        self._short_of_files = False
        self._secret: bytes | None = None
        self._allowed: AllowedClients | None = None
        self._zap: zmq.Socket[bytes] | None = None
        self._max_connections = config.max_connections
        self._guarded: dict[zmq.Socket[bytes], _Guarded] = {}  # by monitor
        self._keys: dict[int, tuple[bytes, _Guarded]] = {}  # the key last shown on a file descriptor
        self._subscriptions: Counter[int] = Counter()  # subscriptions by file descriptor
        self._log_at_s = 0.0
        self._unlogged: Counter[str] = Counter()
        self._context = context
        if config.curve_secret_key_file:
            need_curve()
            setting = f"{section}.curve_secret_key_file"
            self._secret = read_key(config.curve_secret_key_file, setting)
            if readable_by_all(config.curve_secret_key_file, setting):
                log.warning(
                    "%s: every user may read the key; chmod o= %s", setting, config.curve_secret_key_file
                )
            own_public, own_secret = zmq.curve_keypair()
            self.own_keys = (public_of(self._secret), own_secret)
            self._allowed = AllowedClients(config.allowed_clients, own_public, f"{section}.allowed_clients")
            self._zap = context.socket(zmq.REP)
            self._zap.bind(_ZAP)

    def connections_of(self, sock: zmq.Socket[bytes]) -> int:
        """Connections to one of the sockets now."""
        return sum(len(g.open) for g in self._guarded.values() if g.sock is sock)

    @property
    def poll_ms(self) -> int:
        """How long the socket thread may wait before it calls serve() again."""
        return SHORTAGE_LOOK_MS if self._short_of_files else int(LOOK_EVERY_S * 1000)

    def guard(self, sock: zmq.Socket[bytes]) -> None:
        """Set a socket up, before it is bound."""
        if self._secret is not None:
            options.require_keys(sock, self._secret)
        monitor = self._context.socket(zmq.PAIR)
        options.monitor(monitor)
        address = f"inproc://guard-{id(self)}-{len(self._guarded)}"
        # Not EVENT_ACCEPT_FAILED: where no file is left that is a hundred thousand a second, before the rest.
        sock.monitor(address, zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        monitor.connect(address)
        self._guarded[monitor] = _Guarded(sock)

    def register(self, poller: zmq.Poller) -> None:
        """Have the poller return when serve() has something to do."""
        for sock in [*self._guarded, *([self._zap] if self._zap is not None else [])]:
            poller.register(sock, zmq.POLLIN)

    def serve(self) -> None:
        """Accept and refuse connections, disconnect revoked clients; never waits."""
        for monitor, guarded in self._guarded.items():
            self._follow(monitor, guarded)
        self._short_of_files = _no_file_left()
        if self._short_of_files:
            self._refuse_waiting()
        if self._allowed is not None and self._allowed.changed():
            self._drop_revoked(self._allowed)
        if self._zap is not None and self._allowed is not None:
            with contextlib.suppress(zmq.Again):
                for _ in range(AT_ONCE):
                    self._zap.send_multipart(self._answer(self._zap.recv_multipart(zmq.DONTWAIT)))
        self._log()

    def allow(self, sock: zmq.Socket[bytes], part: zmq.Frame, *, subscribing: bool) -> bool:
        """Whether this part of a message comes from a client that may ask; otherwise it is disconnected."""
        fd = _source_fd(part)
        if fd is None:  # libzmq itself reports subscriptions that have ended
            return True
        guarded = next(g for g in self._guarded.values() if g.sock is sock)
        if fd in guarded.open:
            guarded.open[fd] = True
        if self._allowed is not None:
            key = _user_id(part)
            self._keys[fd] = (key, guarded)
            if key not in self._allowed:  # accepted just before it was revoked
                self._disconnect(fd, guarded, "its key was revoked")
                return False
        if subscribing:
            self._subscriptions[fd] += 1
            if self._subscriptions[fd] > MAX_SUBSCRIPTIONS:
                self._disconnect(fd, guarded, f"more than {MAX_SUBSCRIPTIONS} subscriptions")
                return False
        return True

    def close(self) -> None:
        """Close what belongs to the guard, not the sockets that it guards."""
        for monitor, guarded in self._guarded.items():
            guarded.sock.disable_monitor()
            monitor.close(linger=0)
            guarded.listening.close()
        self._guarded.clear()
        if self._zap is not None:
            self._zap.close(linger=0)
            self._zap = None

    def _refuse_waiting(self) -> None:
        """Refuse connections that libzmq cannot accept: it would try again and again, with a whole core."""
        for guarded in self._guarded.values():
            if not guarded.listening.pending:
                continue
            refused = guarded.listening.refuse()
            if not refused and guarded.listening.reserve_lost:
                refused = self._free_one()
            if refused:
                self._unlogged[_NO_FILE] += refused

    def _follow(self, monitor: zmq.Socket[bytes], guarded: _Guarded) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(AT_ONCE):
                event = recv_monitor_message(monitor, zmq.DONTWAIT)
                fd = int(event["value"])
                if event["event"] == zmq.EVENT_LISTENING:
                    guarded.listening.begins(fd)
                    continue
                self._subscriptions.pop(fd, None)
                if event["event"] == zmq.EVENT_DISCONNECTED:
                    guarded.open.pop(fd, None)
                    continue
                guarded.open.pop(fd, None)
                guarded.open[fd] = False
                self._make_room(fd, guarded)
        self.connections = sum(len(g.open) for g in self._guarded.values())

    def _free_one(self) -> int:
        """End the newest connection that never asked for anything; libzmq has the kept descriptor for it."""
        for guarded in self._guarded.values():
            for fd, asked in reversed(guarded.open.items()):
                if not asked:
                    guarded.open.pop(fd)
                    return int(self._disconnect(fd, guarded, ""))
        return 0

    def _make_room(self, newest: int, guarded: _Guarded) -> None:
        """Keep to max_connections: the oldest that never asked for anything goes, else the newest.

        So a client that opens many connections and never finishes a handshake pushes out its own.
        """
        if sum(len(g.open) for g in self._guarded.values()) <= self._max_connections:
            return
        idle = [
            (fd, g)
            for g in self._guarded.values()
            for fd, asked in g.open.items()
            if not asked and fd != newest
        ]
        fd, owner = idle[0] if idle else (newest, guarded)
        owner.open.pop(fd)
        self._disconnect(fd, owner, f"above {self._section}.max_connections = {self._max_connections}")

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """Reply to libzmq's question whether a key is accepted (ZAP, RFC 27)."""
        version, request = [*question, b"", b""][:2]
        key = z85.encode(question[6]) if len(question) == 7 and question[5] == b"CURVE" else b""
        if self._allowed is not None:
            if key not in self._allowed and self._allowed.changed(unknown_key=True):
                self._drop_revoked(self._allowed)
            if key in self._allowed:
                return [version, request, b"200", b"OK", key, b""]
        self.denied += 1
        address = question[3].decode(errors="replace") if len(question) > 3 else "?"
        what = f"refused the key {key.decode()} from {address}"
        self._unlogged[what if len(self._unlogged) < 100 else "refused other keys"] += 1
        return [version, request, b"400", b"not allowed", b"", b""]

    def _drop_revoked(self, allowed: AllowedClients) -> None:
        """Disconnect those who are not allowed any more."""
        for fd, (key, guarded) in list(self._keys.items()):
            if key not in allowed:
                self._disconnect(fd, guarded, "its key was revoked")

    def _disconnect(self, fd: int, guarded: _Guarded, why: str) -> bool:
        """End the connection on a file descriptor, if it still is one of this socket's; whether it was.

        The number may have been given to another file since; so a duplicate of it is made, and looked at. At
        worst another subscriber of the same socket has to connect again.
        """
        self._keys.pop(fd, None)
        self._subscriptions.pop(fd, None)
        borrowed, number = False, -1
        try:
            try:
                number = os.dup(fd)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    return False
                # No descriptor is left, so use libzmq's own: at worst it is another file's by now.
                number, borrowed = fd, True
            duplicate = socket.socket(fileno=number)
        except OSError:  # no socket any more
            if not borrowed and number >= 0:
                os.close(number)
            return False
        try:
            if guarded.owns(duplicate):
                duplicate.shutdown(socket.SHUT_RDWR)
                self.disconnected += 1
                if why:
                    self._unlogged[f"disconnected a client: {why}"] += 1
                return True
        except OSError:
            pass
        finally:
            if borrowed:
                duplicate.detach()
            else:
                duplicate.close()
        return False

    def _log(self) -> None:
        now_s = time.monotonic()
        if not self._unlogged or now_s < self._log_at_s:
            return
        self._log_at_s = now_s + LOG_EVERY_S
        for what, count in self._unlogged.most_common(5):
            log.warning("%s: %s%s", self._section, what, f", {count} times" if count > 1 else "")
        self._unlogged.clear()


class _Guarded:
    """A socket, and the file descriptors of those who are connected to it."""

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        self.sock = sock
        self.listening = Listening()
        self.open: dict[
            int, bool
        ] = {}  # the oldest first; whether it has got through and asked for something

    def owns(self, connection: socket.socket) -> bool:
        """Whether a connection came in at this socket's endpoint."""
        endpoint = self.sock.getsockopt_string(zmq.LAST_ENDPOINT)
        name = connection.getsockname()
        if connection.family == socket.AF_UNIX:
            path = name.decode(errors="replace") if isinstance(name, bytes) else name
            return endpoint == f"ipc://{path}" or endpoint == f"ipc://@{path[1:]}"
        return endpoint.startswith("tcp://") and endpoint.rpartition(":")[2] == str(name[1])


def _source_fd(part: zmq.Frame) -> int | None:
    try:
        return int(part.get(zmq.SRCFD))
    except zmq.ZMQError:
        return None


def _user_id(part: zmq.Frame) -> bytes:
    try:
        return str(part.get("User-Id")).encode()
    except zmq.ZMQError:
        return b""


def _no_file_left() -> bool:
    """Whether this process, or the machine, has no file descriptor left."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False
