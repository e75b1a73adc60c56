"""Noticing peers that are gone without a word: a machine without power, a cable that was pulled."""

from __future__ import annotations

from typing import Any

import zmq

GONE_AFTER_S = 8


def notice_dead_peers(sock: zmq.Socket[Any]) -> None:
    """Have the kernel end a connection whose other end has not answered for GONE_AFTER_S; before it stands.

    Not ZeroMQ's heartbeats: where one is due on a connection that was lost while its messages waited for
    room, libzmq 4.3.5 aborts the process (zeromq/libzmq issue 4364), and any peer can bring that about.
    """
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, GONE_AFTER_S // 2)
    sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, GONE_AFTER_S // 2)
    sock.setsockopt(zmq.TCP_MAXRT, GONE_AFTER_S * 1000)
