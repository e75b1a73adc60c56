"""The thread that owns the control sockets and answers what is asked of the daemon."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import msgspec

from streamseg.config import ControlConfig
from streamseg.config.redact import redact
from streamseg.daemon.background import Background
from streamseg.errors import ConfigError, ControlError, StreamsegError
from streamseg.net import options
from streamseg.net.control_sockets import users_let_in
from streamseg.net.guard import ConnectionGuard
from streamseg.net.io import Outgoing
from streamseg.net.server import Client, Server
from streamseg.net.socket_thread import SocketThread
from streamseg.wire.control import (
    AddStream,
    AnyReply,
    AnyRequest,
    Failed,
    GetDetail,
    GetSnapshot,
    GetStatus,
    Reload,
    SegmentPicture,
    SetEngine,
    SetLogLevel,
    encode,
    id_of,
    parse_request,
)

log = logging.getLogger(__name__)

LINGER_S = 0.1  # for the last answers to leave
DETAILS_AT_ONCE = 2  # large streams that are opened for a picture
MOST_DETAILS = 8  # that wait

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

    answer(request, local) gives each reply: what only asks in the control thread, what changes something in
    the background, as it may wait for a file. local is true for what the daemon's own
    user asks for: it came by the private socket, and not on behalf of somebody else, as a page's does. A
    StreamsegError that it raises becomes a Failed, and so does any other error, which is logged. When the
    thread itself fails, check() raises.
    """

    def __init__(
        self,
        config: ControlConfig,
        private: str,
        answer: Answer,
        background: Background | None = None,
        loader: Background | None = None,
    ) -> None:
        """private: an ipc endpoint in a folder that only our user may enter; empty for none.

        loader: for what may have to load a network first; unset, it is done in the background like the rest.
        """
        self.endpoint = ""  # of control.endpoint, where it really is; the private one where that is not set
        self.stats = ControlStats()
        self._config = config
        self._private = private
        self._answer = answer
        self._background = background or Background("operate")
        self._pictures = Background("picture")  # each waits for the network, and no change waits for it
        self._details = Background("detail", DETAILS_AT_ONCE, MOST_DETAILS)  # each waits for a camera
        self._loader = loader or self._background
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
        *envelope, request = (
            message  # what a REQ, and a proxy on the way, put in front ends with an empty part
        )
        if envelope and envelope[-1]:
            self.stats.dropped += 1
            return False
        private = client.server.endpoint == self._private
        return self._handle(client, envelope, request, private=private)

    def _handle(self, client: Client, envelope: list[bytes], data: bytes, *, private: bool) -> bool:
        """Answer what only asks at once, and what changes something when that is done; whether it waits."""
        number = id_of(data)
        try:
            request = parse_request(data)
        except StreamsegError as error:
            return self._send(client, envelope, _failed(number, error))
        except Exception as error:
            log.exception(_UNANSWERED)
            return self._send(client, envelope, _failed(number, _inside(error)))
        self.stats.requests += 1
        reply = partial(self._reply, request, number, private and not request.remote)
        if isinstance(request, GetStatus | GetSnapshot | SetLogLevel):
            return self._send(client, envelope, reply())

        def work() -> None:
            done = reply()
            self._thread.loop.call(lambda: self._send_later(client, envelope, done))

        waits_for, what = self._background, "changes wait to be made"
        if isinstance(request, SegmentPicture):
            waits_for = self._pictures
        elif isinstance(request, GetDetail):
            waits_for, what = self._details, "detailed pictures wait already"
        elif isinstance(request, AddStream | SetEngine | Reload):
            waits_for = self._loader
        if waits_for.offer(work):
            return True
        busy = ControlError("failed", f"too many {what}; try again later")
        return self._send(client, envelope, _failed(number, busy))

    def _send_later(self, client: Client, envelope: list[bytes], reply: AnyReply) -> None:
        self._send(client, envelope, reply)
        client.server.answered(client)

    def _send(self, client: Client, envelope: list[bytes], reply: AnyReply) -> bool:
        self.stats.refused += isinstance(reply, Failed)
        if client.closed or not client.server.send(client, Outgoing([*envelope, encode(reply)])):
            self.stats.dropped += 1
        return False

    def _reply(self, request: AnyRequest, number: int, local: bool) -> AnyReply:
        try:
            return msgspec.structs.replace(self._answer(request, local), id=number)
        except StreamsegError as error:
            return _failed(number, error)
        except Exception as error:
            log.exception(_UNANSWERED)
            return _failed(number, _inside(error))


_UNANSWERED = "control: a request could not be answered"


def _inside(error: Exception) -> ControlError:
    return ControlError("failed", f"internal error ({type(error).__name__}); see the log")


def _failed(number: int, error: StreamsegError) -> Failed:
    code: str = "failed"
    problems: tuple[str, ...] = (str(error),)
    if isinstance(error, ControlError):
        code, problems = error.code, error.problems
    elif isinstance(error, ConfigError):
        code, problems = "bad settings", error.problems
    return Failed(id=number, code=code, problems=[redact(one) for one in problems])  # type: ignore[arg-type]


def _explain(error: Exception) -> ControlError:
    return ControlError("failed", f"control: the socket failed: {error}")
