"""The thread that owns the control sockets and answers what is asked of the daemon."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from streamseg.config import ControlConfig
from streamseg.config.redact import redact
from streamseg.errors import ConfigError, ControlError, StreamsegError
from streamseg.net import options
from streamseg.net.control_sockets import users_let_in
from streamseg.net.guard import ConnectionGuard
from streamseg.net.io import Outgoing
from streamseg.net.server import Client, Server
from streamseg.net.socket_thread import SocketThread
from streamseg.wire.control import AnyReply, AnyRequest, Failed, encode, id_of, parse_request

log = logging.getLogger(__name__)

LINGER_S = 0.1  # for the last answers to leave

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
        thread.opened()
        while not thread.stopping:
            thread.loop.poll()
            self.stats.connections = sum(guard.connections for guard in guards)
            self.stats.denied = sum(guard.denied for guard in guards)
            self.stats.disconnected = sum(guard.disconnected for guard in guards)

    def _open(self, thread: SocketThread) -> list[ConnectionGuard]:
        """Bind the sockets that are asked for, each with its guard."""
        guards: list[ConnectionGuard] = []
        private = ControlConfig(max_connections=self._config.max_connections)
        for endpoint, config in ((self._private, private), (self._config.endpoint, self._config)):
            if endpoint:
                guards.append(ConnectionGuard(thread.loop, config, "control"))
                server = Server(
                    thread, guards[-1], b"ROUTER", (b"DEALER", b"REQ", b"ROUTER"), options.CONTROL_REQUEST,
                    self._take, answers=True, linger_s=LINGER_S, users=users_let_in(endpoint),
                )  # fmt: skip
                self.endpoint = server.bind(endpoint)
        return guards

    def _take(self, client: Client, message: list[bytes]) -> bool:
        """Answer a request."""
        *envelope, request = message
        if any(envelope):
            self.stats.dropped += 1
            return False
        reply = self._reply(request, private=client.server.endpoint == self._private)
        if not client.server.send(client, Outgoing([*envelope, encode(reply)])):
            self.stats.dropped += 1
        return False

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
