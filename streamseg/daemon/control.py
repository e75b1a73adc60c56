"""The thread that owns the control sockets and answers what is asked of the daemon."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import zmq

from streamseg.config import ControlConfig
from streamseg.errors import ConfigError, ControlError, StreamsegError
from streamseg.net.endpoints import bind, send_now
from streamseg.net.guard import ConnectionGuard
from streamseg.net.options import notice_dead_peers
from streamseg.wire.control import MAX_REQUEST, AnyReply, AnyRequest, Failed, encode, id_of, parse_request

log = logging.getLogger(__name__)

MOST_PER_S = 500  # requests taken; what is beyond waits in the askers' queues
BURST = 100
AT_ONCE = 16  # requests taken from a socket between two looks at the others

Answer = Callable[[AnyRequest, bool], AnyReply]


@dataclass(slots=True)
class ControlStats:
    """Counted by the control thread; whoever reads sees each number whole."""

    requests: int = 0  # understood
    refused: int = 0  # answered with an error
    dropped: int = 0  # not answered: no form of a request, or nobody there to take the answer
    connections: int = 0
    denied: int = 0
    hung_up: int = 0


class ControlServer:
    """Owns the control sockets: the private one, and the one of `control.endpoint`. A context manager.

    answer(request, local) gives each reply, in the control thread; local is true for the private socket. A
    StreamsegError that it raises becomes a Failed, and so does any other error, which is logged. When the
    thread itself fails, check() raises.
    """

    def __init__(self, config: ControlConfig, private: str, answer: Answer) -> None:
        """private: an ipc endpoint in a folder that only our user may enter; empty for none."""
        self.endpoint = ""  # of control.endpoint, where it really is; the private one where that is not set
        self.stats = ControlStats()
        self._config = config
        self._private = private
        self._answer = answer
        self._error: Exception | None = None
        self._bound = threading.Event()
        self._stopping = False
        self._thread: threading.Thread | None = None
        self._wake_lock = threading.Lock()  # guards _wake_fd, which another file may get once it is closed
        self._wake_fd = -1

    def __enter__(self) -> ControlServer:
        self._thread = threading.Thread(target=self._live, name="control", daemon=True)
        self._thread.start()
        self._bound.wait()
        self.check()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Raise what the thread died of, if it did."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Answer no more, and end; closing twice is fine."""
        self._stopping = True
        with self._wake_lock, contextlib.suppress(BlockingIOError):
            if self._wake_fd >= 0:
                os.write(self._wake_fd, b"!")
        if self._thread is not None:
            self._thread.join()

    def _live(self) -> None:
        try:
            with contextlib.ExitStack() as owned:
                self._open_and_serve(owned)
        except StreamsegError as error:
            self._error = error
        except Exception as error:  # noqa: BLE001 - handed on, to check()
            self._error = ControlError("failed", f"control: the socket failed: {error}")
            self._error.__cause__ = error
        self._bound.set()

    def _open_and_serve(self, owned: contextlib.ExitStack) -> None:
        context = zmq.Context()
        owned.callback(context.destroy, linger=0)  # and what a failure left open: term() would wait
        wake_fd, self._wake_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        owned.callback(os.close, wake_fd)
        owned.callback(self._stop_waking)
        doors: dict[zmq.Socket[bytes], ConnectionGuard] = {}
        private = ControlConfig(max_connections=self._config.max_connections)
        for endpoint, config in ((self._private, private), (self._config.endpoint, self._config)):
            if endpoint:
                sock = context.socket(zmq.ROUTER)
                owned.callback(sock.close, linger=100)
                doors[sock] = ConnectionGuard(config, context, "control")
                owned.callback(doors[sock].close)
                _configure(sock)
                doors[sock].guard(sock)
                self.endpoint = bind(sock, endpoint)
        self._bound.set()
        self._serve(doors, wake_fd)

    def _serve(self, doors: dict[zmq.Socket[bytes], ConnectionGuard], wake_fd: int) -> None:
        poller = zmq.Poller()
        poller.register(wake_fd, zmq.POLLIN)
        pauser = zmq.Poller()
        pauser.register(wake_fd, zmq.POLLIN)
        for sock, door in doors.items():
            poller.register(sock, zmq.POLLIN)
            door.register(poller)
        wait_ms = min((door.poll_ms for door in doors.values()), default=None)
        budget, at_s = float(BURST), time.monotonic()
        while not self._stopping:
            ready = dict(poller.poll(wait_ms))
            now_s = time.monotonic()
            budget, at_s = min(BURST, budget + (now_s - at_s) * MOST_PER_S), now_s
            for sock, door in doors.items():
                door.serve()
                if sock in ready:
                    budget -= self._take(sock, door)
            self.stats.connections = sum(door.connections for door in doors.values())
            self.stats.denied = sum(door.denied for door in doors.values())
            self.stats.hung_up = sum(door.hung_up for door in doors.values())
            if budget < 0:
                pauser.poll(int(-budget / MOST_PER_S * 1000) + 1)

    def _take(self, sock: zmq.Socket[bytes], door: ConnectionGuard) -> int:
        """Answer what has come, up to AT_ONCE requests; how many it were."""
        for taken in range(AT_ONCE):
            try:
                frames = sock.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return taken
            if not door.may_ask(sock, frames[-1], subscribing=False):
                continue
            parts = [frame.bytes for frame in frames]
            # A REQ socket puts an empty part before its request and expects it back.
            if not (len(parts) == 2 or (len(parts) == 3 and not parts[1])):
                self.stats.dropped += 1
                continue
            reply = self._reply(parts[-1], local=sock.getsockopt_string(zmq.LAST_ENDPOINT) == self._private)
            if not send_now(sock, [*parts[:-1], encode(reply)]):
                self.stats.dropped += 1
        return AT_ONCE

    def _reply(self, data: bytes, *, local: bool) -> AnyReply:
        number = id_of(data)
        try:
            request = parse_request(data)
            self.stats.requests += 1
            return msgspec.structs.replace(self._answer(request, local), id=number)
        except ControlError as error:
            failed = Failed(id=number, code=error.code, problems=list(error.problems))  # type: ignore[arg-type]
        except ConfigError as error:
            failed = Failed(id=number, code="bad settings", problems=list(error.problems))
        except StreamsegError as error:
            failed = Failed(id=number, code="failed", problems=[str(error)])
        except Exception as error:
            log.exception("control: a request could not be answered")
            failed = Failed(
                id=number, code="failed", problems=[f"failed inside ({type(error).__name__}); see the log"]
            )
        self.stats.refused += 1
        return failed

    def _stop_waking(self) -> None:
        with self._wake_lock:
            os.close(self._wake_fd)
            self._wake_fd = -1


def _configure(sock: zmq.Socket[bytes]) -> None:
    sock.setsockopt(zmq.ROUTER_MANDATORY, 1)  # sending to who has gone fails, and is counted
    sock.setsockopt(zmq.SNDHWM, 16)
    sock.setsockopt(zmq.RCVHWM, 64)
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST)
    sock.setsockopt(zmq.HANDSHAKE_IVL, 5_000)
    notice_dead_peers(sock)
