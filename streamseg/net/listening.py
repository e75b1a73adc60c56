"""Refusing connections to a listening socket of libzmq when no file descriptor is left."""

from __future__ import annotations

import contextlib
import os
import select
import socket

AT_ONCE = 64


class Listening:
    """What libzmq listens on, for one guarded socket. Used by the thread that owns the socket.

    libzmq tries to accept pending connections again and again, and would use up a core until a file is closed
    somewhere. (Unbinding the endpoint would end the established connections, too.) So we accept them in its
    place, with a descriptor kept in reserve, and close them. The operating system gives each connection to
    one of the two, so none is lost. Where libzmq is quicker with the reserve, too, a connection that never
    asked for anything has to go.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._reserve = -1

    def begins(self, fd: int) -> None:
        """libzmq listens on this descriptor from now on, or did: it may have tried another port since."""
        if not _listens(fd):
            return
        self._fd = fd
        os.set_blocking(fd, False)  # else the second one to accept a connection waits for the next
        self._keep_one()

    @property
    def pending(self) -> bool:
        """Whether a connection waits to be accepted."""
        if self._fd < 0:
            return False
        look = select.poll()
        look.register(self._fd, select.POLLIN)
        return bool(look.poll(0))

    @property
    def reserve_lost(self) -> bool:
        """Whether the reserve is gone: libzmq was quicker, and has a connection for it."""
        return self._fd >= 0 and self._reserve < 0

    def refuse(self) -> int:
        """Close the pending connections; how many they were. Never waits."""
        if self._fd < 0:
            return 0
        refused = 0
        self.close()
        listener = socket.socket(fileno=self._fd)
        try:
            with contextlib.suppress(OSError):  # none is pending any more, or libzmq took the descriptor
                while refused < AT_ONCE:
                    listener.accept()[0].close()
                    refused += 1
        finally:
            listener.detach()
            self._keep_one()
        return refused

    def close(self) -> None:
        """Give the reserve back; closing twice is fine."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _keep_one(self) -> None:
        if self._reserve < 0:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def _listens(fd: int) -> bool:
    try:
        listener = socket.socket(fileno=fd)
    except OSError:  # closed, or another kind of file by now
        return False
    try:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    finally:
        listener.detach()
