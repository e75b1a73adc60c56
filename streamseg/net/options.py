"""The options of all our connections, and what one message on each kind of socket may have."""

from __future__ import annotations

import contextlib
import socket

from streamseg.net.zmtp import Bounds
from streamseg.wire import MAX_DOCUMENT, MAX_PART
from streamseg.wire.control import MAX_REPLY, MAX_REQUEST
from streamseg.wire.snapshot import MAX_REPLY_HEAD, SNAPSHOT

GONE_AFTER_S = 8
RECONNECT_S, LONGEST_RECONNECT_S = 0.1, 2.0
BUFFER_BYTES = 64 << 10  # what the kernel holds back makes the masks of a slow reader older

# Wider than what the protocol allows, so that a mistake is counted and costs its message alone.
SMALL = 4096  # bytes of a part that a client sends, but for control
SUBSCRIPTION = Bounds((SMALL,), parts=4, total=SMALL)
SNAPSHOT_REQUEST = Bounds((SMALL,), parts=128, total=16 * SMALL)
CONTROL_REQUEST = Bounds((MAX_REQUEST,), parts=8, total=2 * MAX_REQUEST)
MASK = Bounds((SMALL, MAX_DOCUMENT, MAX_PART), parts=64, total=2 * MAX_PART)
SNAPSHOT_REPLY = Bounds((SMALL, MAX_REPLY_HEAD, MAX_PART), parts=16 << 10, total=2 * MAX_PART, first=SNAPSHOT)
CONTROL_REPLY = Bounds((MAX_REPLY,), parts=8, total=MAX_REPLY)


def connected(sock: socket.socket) -> None:
    """Set up a connection, on either side: send at once, and notice a dead peer.

    The kernel ends a connection whose other end has not answered for GONE_AFTER_S: a machine without power
    or a cable that was pulled says nothing.
    """
    if sock.family == socket.AF_UNIX:
        return
    with contextlib.suppress(OSError):  # it may be gone already
        for option, value in (
            (socket.TCP_NODELAY, 1),
            (socket.TCP_KEEPIDLE, GONE_AFTER_S // 2),
            (socket.TCP_KEEPINTVL, 1),
            (socket.TCP_KEEPCNT, GONE_AFTER_S // 2),
            (socket.TCP_USER_TIMEOUT, GONE_AFTER_S * 1000),
        ):
            sock.setsockopt(socket.IPPROTO_TCP, option, value)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
