"""Whole messages between a process and its child, over a pair of sockets, each with a deadline."""

from __future__ import annotations

import contextlib
import pickle
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

from streamseg.runtime.child import ChildProcess
from streamseg.runtime.mailbox import Closed

_LENGTH = struct.Struct("<Q")
MOST_BYTES = 1 << 31


class ChildLost(Exception):
    """The other end is gone, or did not move for too long."""


class Channel:
    """Pickled messages over a connected stream socket; both ends are ours, of the same version.

    Owned by one thread. Only close() and wake() may be called from another: wake() ends every wait, now and
    later, by Closed.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._sock.setblocking(False)
        self._woken, self._waker = socket.socketpair()
        self._waker.setblocking(False)

    def send(self, message: object, timeout_s: float | None = None) -> None:
        """Send one message; raises ChildLost, Closed, or TimeoutError after timeout_s."""
        deadline = _deadline(timeout_s)
        body = pickle.dumps(message, protocol=pickle.HIGHEST_PROTOCOL)
        for part in (_LENGTH.pack(len(body)), body):
            left = memoryview(part)
            while left:
                self._wait(select.POLLOUT, deadline)
                try:
                    left = left[self._sock.send(left) :]
                except BlockingIOError:
                    continue
                except OSError as error:
                    raise ChildLost(str(error)) from error

    def receive(self, timeout_s: float | None = None) -> Any:
        """The next message; raises ChildLost, Closed, or TimeoutError after timeout_s."""
        deadline = _deadline(timeout_s)
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size, deadline))
        if length > MOST_BYTES:
            raise ChildLost(f"a message of {length} bytes")
        return pickle.loads(self._exactly(length, deadline))

    def ask(self, message: object, timeout_s: float) -> Any:
        """Send a message and receive the answer, both in timeout_s; raises as they do."""
        begun = time.monotonic()
        self.send(message, timeout_s)
        return self.receive(max(0.0, timeout_s - (time.monotonic() - begun)))

    def wake(self) -> None:
        """End every wait of the owner by Closed; from any thread."""
        with contextlib.suppress(OSError):  # full, so it wakes; or closed, so nothing waits
            self._waker.send(b"!")

    def close(self) -> None:
        for sock in (self._sock, self._woken, self._waker):
            sock.close()

    def _exactly(self, length: int, deadline: float | None) -> bytearray:
        data = bytearray(length)
        view = memoryview(data)
        while view:
            self._wait(select.POLLIN, deadline)
            try:
                got = self._sock.recv_into(view)
            except BlockingIOError:
                continue
            except OSError as error:
                raise ChildLost(str(error)) from error
            if not got:
                raise ChildLost("closed its end")
            view = view[got:]
        return data

    def _wait(self, event: int, deadline: float | None) -> None:
        poller = select.poll()
        poller.register(self._sock, event)
        poller.register(self._woken, select.POLLIN)
        left_ms = None if deadline is None else max(0.0, (deadline - time.monotonic()) * 1000)
        ready = dict(poller.poll(left_ms))
        if self._woken.fileno() in ready:
            raise Closed
        if not ready:
            raise TimeoutError


class ChannelChild(ChildProcess):
    """A child with a channel to it; the number of the child's end of it is its last argument."""

    def __init__(self, command: Sequence[str]) -> None:
        ours, theirs = socket.socketpair()
        self.channel = Channel(ours)
        try:
            with theirs:
                super().__init__([*command, str(theirs.fileno())], pass_fds=[theirs.fileno()])
        except BaseException:
            self.channel.close()
            raise

    def end(self, within_s: float = 0.0) -> str:
        """End it as ChildProcess does, and close the channel."""
        how = super().end(within_s)
        self.channel.close()
        return how


def _deadline(timeout_s: float | None) -> float | None:
    return None if timeout_s is None else time.monotonic() + timeout_s
