"""The thread that owns the control sockets and answers what is asked of the daemon."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
import zmq

from streamseg.config import ControlConfig
from streamseg.config.redact import redact
from streamseg.errors import ConfigError, ControlError, StreamsegError
from streamseg.net import options
from streamseg.net.control_sockets import only_this_user
from streamseg.net.endpoints import bind, received, send_now, split_address
from streamseg.net.guard import ConnectionGuard
from streamseg.net.socket_thread import SocketThread
from streamseg.wire.control import AnyReply, AnyRequest, Failed, encode, id_of, parse_request

log = logging.getLogger(__name__)

MAX_PER_S = 500  # requests taken; more wait in the clients' queues
BURST = 100
AT_ONCE = 16  # requests taken from a socket before the others are looked at

Answer = Callable[[AnyRequest, bool], AnyReply]


@dataclass(slots=True)
class ControlStats:
    """Counted by the control thread; a reader in another thread sees each number whole."""

    requests: int = 0  # understood
    refused: int = 0  # answered with an error
    dropped: int = 0  # not answered: not formed as a request, or the client had gone
    connections: int = 0
    denied: int = 0
    disconnected: int = 0  # connections ended by us


class ControlServer:
    """Owns the control sockets: the private one, and the one of `control.endpoint`. A context manager.

    answer(request, local) gives each reply, in the control thread; local is true for what the daemon's own
    user asks for: it came by the private socket, and not on behalf of somebody else, as a page's does. A
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
        self._thread = SocketThread("control", self._serve, _explain)

    def __enter__(self) -> ControlServer:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self) -> None:
        """Raise the error that ended the thread, if one did."""
        self._thread.check()

    def close(self) -> None:
        """Answer no more, and end; closing twice is fine."""
        self._thread.close()

    def _serve(self, thread: SocketThread) -> None:
        guards = self._open(thread)
        poller, pauser = thread.poller(*guards), thread.poller()
        for guard in guards.values():
            guard.register(poller)
        wait_ms = min((guard.poll_ms for guard in guards.values()), default=None)
        thread.opened()
        budget, at_s = float(BURST), time.monotonic()
        while not thread.stopping:
            ready = thread.poll(poller, wait_ms)
            now_s = time.monotonic()
            budget, at_s = min(BURST, budget + (now_s - at_s) * MAX_PER_S), now_s
            for sock, guard in guards.items():
                guard.serve()
                if sock in ready:
                    budget -= self._take(sock, guard)
            self.stats.connections = sum(guard.connections for guard in guards.values())
            self.stats.denied = sum(guard.denied for guard in guards.values())
            self.stats.disconnected = sum(guard.disconnected for guard in guards.values())
            if budget < 0 and not thread.stopping:
                thread.poll(pauser, int(-budget / MAX_PER_S * 1000) + 1)

    def _open(self, thread: SocketThread) -> dict[zmq.Socket[bytes], ConnectionGuard]:
        """Bind the sockets that are asked for, each with its guard."""
        guards: dict[zmq.Socket[bytes], ConnectionGuard] = {}
        private = ControlConfig(max_connections=self._config.max_connections)
        for endpoint, config in ((self._private, private), (self._config.endpoint, self._config)):
            if endpoint:
                sock = thread.socket(zmq.ROUTER, linger_ms=100)
                guards[sock] = ConnectionGuard(config, thread.context, "control")
                thread.on_close(guards[sock].close)
                options.answer_control(sock)
                only_this_user(sock, endpoint)
                guards[sock].guard(sock)
                self.endpoint = bind(sock, endpoint, thread.paths)
        return guards

    def _take(self, sock: zmq.Socket[bytes], guard: ConnectionGuard) -> int:
        """Answer the requests that have arrived, up to AT_ONCE; how many they were."""
        taken = 0
        for frames in received(sock, AT_ONCE):
            taken += 1
            if not guard.allow(sock, frames[-1], subscribing=False):
                continue
            address, request = split_address(frames)
            if len(request) != 1:
                self.stats.dropped += 1
                continue
            private = sock.getsockopt_string(zmq.LAST_ENDPOINT) == self._private
            reply = self._reply(request[0], private=private)
            if not send_now(sock, [*address, encode(reply)]):
                self.stats.dropped += 1
        return taken

    def _reply(self, data: bytes, *, private: bool) -> AnyReply:
        number = id_of(data)
        try:
            request = parse_request(data)
            self.stats.requests += 1
            local = private and not request.remote
            return msgspec.structs.replace(self._answer(request, local), id=number)
        except ControlError as error:
            code, problems = error.code, error.problems
        except ConfigError as error:
            code, problems = "bad settings", error.problems
        except StreamsegError as error:
            code, problems = "failed", (str(error),)
        except Exception as error:
            log.exception("control: a request could not be answered")
            code, problems = "failed", (f"internal error ({type(error).__name__}); see the log",)
        self.stats.refused += 1
        return Failed(id=number, code=code, problems=[redact(one) for one in problems])  # type: ignore[arg-type]


def _explain(error: Exception) -> ControlError:
    return ControlError("failed", f"control: the socket failed: {error}")
