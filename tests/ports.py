"""Ports that no other test takes, in this process or in another."""

from __future__ import annotations

import socket

_kept: list[socket.socket] = []


def free_port() -> int:
    """A port of loopback that is free, with the one above it; both stay reserved until this process ends.

    They are bound and do not listen: connecting is refused, the kernel gives them to nobody, and a server
    that sets SO_REUSEADDR, as all do that tests start, can bind them.
    """
    while True:
        first, second = socket.socket(), socket.socket()
        first.bind(("127.0.0.1", 0))
        port: int = first.getsockname()[1]
        try:
            second.bind(("127.0.0.1", port + 1))
        except OSError:
            first.close()
            second.close()
            continue
        for one in (first, second):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            _kept.append(one)
        return port
