"""Who may come in and who is there: keys, the allow-list, and bounds on connections; for any of our sockets.

libzmq cannot be told to end one connection. It does say which file descriptor a message came by (ZMQ_SRCFD)
and whose key was shown for it (User-Id), so we shut that connection down at the operating system, and libzmq
sees a peer that has gone. The others do not notice.
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
from streamseg.net.allow_list import LOOK_EVERY_S, AllowedClients
from streamseg.net.curve_keys import need_curve, public_of, read_key, readable_by_all
from streamseg.net.listening import Listening, no_file_left

log = logging.getLogger(__name__)

MOST_SUBSCRIPTIONS = 4096  # of one connection; whoever asks for more is hung up on
AT_ONCE = 64  # key questions and connection events taken between two looks at the masks
SAY_EVERY_S = 10.0  # refused keys and connections are counted, and told this often

_NO_FILE = (
    "turned away a connection: no file descriptor is left; raise LimitNOFILE= of the service, or ulimit -n"
)
_ZAP = (
    "inproc://zeromq.zap.01"  # where libzmq asks whether a key may come in: https://rfc.zeromq.org/spec/27/
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

        Only one of a context's doors may have keys. close() before the context is ended.
        """
        self._section = section
        self.connections = 0
        self.denied = 0  # keys that are not listed
        self.own_keys: tuple[bytes, bytes] | None = None  # see Publisher
        self.hung_up = 0  # connections ended by us: revoked, too many, or too many subscriptions
        self._secret: bytes | None = None
        self._allowed: AllowedClients | None = None
        self._zap: zmq.Socket[bytes] | None = None
        self._most = config.max_connections
        self._guarded: dict[zmq.Socket[bytes], _Guarded] = {}  # by monitor
        self._who: dict[int, tuple[bytes, _Guarded]] = {}  # the key last shown on a file descriptor
        self._asked: Counter[int] = Counter()  # subscriptions by file descriptor
        self._say_at_s = 0.0
        self._untold: Counter[str] = Counter()
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
        """How long the publish thread may sleep before it calls serve() again."""
        return int(LOOK_EVERY_S * 1000)

    def guard(self, sock: zmq.Socket[bytes]) -> None:
        """Set a socket up, before it is bound."""
        if self._secret is not None:
            sock.setsockopt(zmq.CURVE_SERVER, 1)
            sock.setsockopt(zmq.CURVE_SECRETKEY, self._secret)
            sock.setsockopt(zmq.ZAP_DOMAIN, b"streamseg")
            sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        monitor = self._context.socket(zmq.PAIR)
        monitor.setsockopt(zmq.RCVHWM, 0)  # libzmq's own thread would wait for room
        address = f"inproc://doors-{id(self)}-{len(self._guarded)}"
        # Not EVENT_ACCEPT_FAILED: where no file is left that is a hundred thousand a second, before the rest.
        sock.monitor(address, zmq.EVENT_LISTENING | zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        monitor.connect(address)
        self._guarded[monitor] = _Guarded(sock)

    def register(self, poller: zmq.Poller) -> None:
        """Have the publish thread woken when serve() has something to do."""
        for sock in [*self._guarded, *([self._zap] if self._zap is not None else [])]:
            poller.register(sock, zmq.POLLIN)

    def serve(self) -> None:
        """Let in and keep out, cut off whoever was revoked; never waits."""
        for monitor, guarded in self._guarded.items():
            self._follow(monitor, guarded)
        if no_file_left():
            self._turn_away()
        if self._allowed is not None and self._allowed.changed():
            self._cut_off(self._allowed)
        if self._zap is not None and self._allowed is not None:
            with contextlib.suppress(zmq.Again):
                for _ in range(AT_ONCE):
                    self._zap.send_multipart(self._answer(self._zap.recv_multipart(zmq.DONTWAIT)))
        self._tell()

    def may_ask(self, sock: zmq.Socket[bytes], part: zmq.Frame, *, subscribing: bool) -> bool:
        """Whether what came in this part of a message may be done; otherwise its sender is hung up on."""
        fd = _source_fd(part)
        if fd is None:  # libzmq itself tells of subscriptions that have ended
            return True
        guarded = next(g for g in self._guarded.values() if g.sock is sock)
        if fd in guarded.open:
            guarded.open[fd] = True
        if self._allowed is not None:
            key = _user_id(part)
            self._who[fd] = (key, guarded)
            if key not in self._allowed:  # let in just before it was revoked
                self._hang_up(fd, guarded, "revoked")
                return False
        if subscribing:
            self._asked[fd] += 1
            if self._asked[fd] > MOST_SUBSCRIPTIONS:
                self._hang_up(fd, guarded, f"with more than {MOST_SUBSCRIPTIONS} subscriptions")
                return False
        return True

    def close(self) -> None:
        """Close what belongs to the doors; the guarded sockets are others'."""
        for monitor, guarded in self._guarded.items():
            guarded.sock.disable_monitor()
            monitor.close(linger=0)
            guarded.listening.close()
        self._guarded.clear()
        if self._zap is not None:
            self._zap.close(linger=0)
            self._zap = None

    def _turn_away(self) -> None:
        """Let nobody wait at a door that libzmq cannot open: it would try again and again."""
        for guarded in self._guarded.values():
            if not guarded.listening.waits:
                continue
            turned = guarded.listening.turn_away()
            if not turned and guarded.listening.robbed:
                turned = self._free_one()
            if turned:
                self._untold[_NO_FILE] += turned

    def _follow(self, monitor: zmq.Socket[bytes], guarded: _Guarded) -> None:
        with contextlib.suppress(zmq.Again):
            for _ in range(AT_ONCE):
                event = recv_monitor_message(monitor, zmq.DONTWAIT)
                fd = int(event["value"])
                if event["event"] == zmq.EVENT_LISTENING:
                    guarded.listening.begins(fd)
                    continue
                self._asked.pop(fd, None)
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
                    return int(self._hang_up(fd, guarded, ""))
        return 0

    def _make_room(self, newest: int, guarded: _Guarded) -> None:
        """Keep to max_connections: the oldest that never asked for anything goes, else the newest.

        So whoever fills us with handshakes that do not go on pushes out his own.
        """
        if sum(len(g.open) for g in self._guarded.values()) <= self._most:
            return
        idle = [
            (fd, g)
            for g in self._guarded.values()
            for fd, asked in g.open.items()
            if not asked and fd != newest
        ]
        fd, owner = idle[0] if idle else (newest, guarded)
        owner.open.pop(fd)
        self._hang_up(fd, owner, f"above {self._section}.max_connections = {self._most}")

    def _answer(self, question: list[bytes]) -> list[bytes]:
        """Reply to libzmq's question whether a key may come in."""
        version, request = [*question, b"", b""][:2]
        key = z85.encode(question[6]) if len(question) == 7 and question[5] == b"CURVE" else b""
        if self._allowed is not None:
            if key not in self._allowed and self._allowed.changed(unknown_key=True):
                self._cut_off(self._allowed)
            if key in self._allowed:
                return [version, request, b"200", b"OK", key, b""]
        self.denied += 1
        address = question[3].decode(errors="replace") if len(question) > 3 else "?"
        what = f"refused the key {key.decode()} from {address}"
        self._untold[what if len(self._untold) < 100 else "refused other keys"] += 1
        return [version, request, b"400", b"not allowed", b"", b""]

    def _cut_off(self, allowed: AllowedClients) -> None:
        """Hang up on those who are not allowed any more."""
        for fd, (key, guarded) in list(self._who.items()):
            if key not in allowed:
                self._hang_up(fd, guarded, "revoked")

    def _hang_up(self, fd: int, guarded: _Guarded, why: str) -> bool:
        """End the connection on a file descriptor, if it still is one of this socket's; whether it was.

        The number may have been given to another file since; so a twin is made of it, and looked at. At worst
        another subscriber of the same socket has to connect again.
        """
        self._who.pop(fd, None)
        self._asked.pop(fd, None)
        borrowed, number = False, -1
        try:
            try:
                number = os.dup(fd)
            except OSError as error:
                if error.errno not in (errno.EMFILE, errno.ENFILE):
                    return False
                # None to spare, so on libzmq's own: at worst it is another file's by now, and a camera's.
                number, borrowed = fd, True
            twin = socket.socket(fileno=number)
        except OSError:  # no socket any more
            if not borrowed and number >= 0:
                os.close(number)
            return False
        try:
            if guarded.owns(twin):
                twin.shutdown(socket.SHUT_RDWR)
                self.hung_up += 1
                if why:
                    self._untold[f"hung up on a connection {why}"] += 1
                return True
        except OSError:
            pass
        finally:
            if borrowed:
                twin.detach()
            else:
                twin.close()
        return False

    def _tell(self) -> None:
        now_s = time.monotonic()
        if not self._untold or now_s < self._say_at_s:
            return
        self._say_at_s = now_s + SAY_EVERY_S
        for what, count in self._untold.most_common(5):
            log.warning("%s: %s%s", self._section, what, f", {count} times" if count > 1 else "")
        self._untold.clear()


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
