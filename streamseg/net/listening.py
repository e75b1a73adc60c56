"""A listening socket for which no file descriptor is left: who wants to connect is turned away."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket

AT_ONCE = 64


class Listening:
    """What libzmq listens on, for one socket of the doors. Lives in the thread that owns the socket.

    libzmq tries to accept what waits again and again, and would use up a core until a file is closed
    somewhere. (Giving up the endpoint would end the connections that stand, too.) So we accept what waits in
    its place, by a descriptor kept for that, and close it. The operating system gives each connection to one
    of the two, so nothing is lost by taking part. Where libzmq is quicker with the kept one, too, a
    connection that never asked for anything has to go.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._reserve = -1

    def begins(self, fd: int) -> None:
        """libzmq listens on this descriptor from now on, or did: it may have tried another port since."""
        if not _listens(fd):
            return
        self._fd = fd
        os.set_blocking(fd, False)  # else whoever is second at a connection waits for the next one
        self._keep_one()

    @property
    def waits(self) -> bool:
        """Whether somebody waits to be accepted."""
        if self._fd < 0:
            return False
        look = select.poll()
        look.register(self._fd, select.POLLIN)
        return bool(look.poll(0))

    @property
    def robbed(self) -> bool:
        """Whether the kept descriptor is gone: libzmq was quicker, and has a connection for it."""
        return self._fd >= 0 and self._reserve < 0

    def turn_away(self) -> int:
        """Close what waits to be accepted; how many that were. Never waits."""
        if self._fd < 0:
            return 0
        turned = 0
        self.close()
        listener = socket.socket(fileno=self._fd)
        try:
            with contextlib.suppress(OSError):  # nobody waits any more, or libzmq took the descriptor
                while turned < AT_ONCE:
                    listener.accept()[0].close()
                    turned += 1
        finally:
            listener.detach()
            self._keep_one()
        return turned

    def close(self) -> None:
        """Give the kept descriptor back; closing twice is fine."""
        if self._reserve >= 0:
            os.close(self._reserve)
            self._reserve = -1

    def _keep_one(self) -> None:
        if self._reserve < 0:
            with contextlib.suppress(OSError):
                self._reserve = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)


def no_file_left() -> bool:
    """Whether this process, or the machine, can open no file any more."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def _listens(fd: int) -> bool:
    try:
        listener = socket.socket(fileno=fd)
    except OSError:  # closed, or another kind of file by now
        return False
    try:
        return listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) == 1
    finally:
        listener.detach()
