"""The options of all our ZeroMQ sockets. Each function is called before the socket is bound or connected."""

from __future__ import annotations

from typing import Any

import zmq

from streamseg.net.curve_keys import ClientKeys
from streamseg.wire import MAX_PART
from streamseg.wire.control import MAX_REPLY, MAX_REQUEST

Socket = zmq.Socket[Any]

GONE_AFTER_S = 8
HANDSHAKE_MS = 5_000  # for a client that has connected to show that it speaks ZeroMQ, and its key
RECONNECT_MS, LONGEST_RECONNECT_MS = 100, 2_000
BUFFER_BYTES = 64 << 10  # what the kernel holds back makes the masks of a slow reader older
MAX_PREFIX_MESSAGE = 4096


def publish(sock: Socket, queue: int) -> None:
    """XPUB of masks, or ROUTER of snapshots: clients that we do not know connect to it.

    queue: messages kept for each subscriber that reads slower than we send.
    """
    sock.setsockopt(zmq.SNDHWM, queue)
    sock.setsockopt(zmq.RCVHWM, 1000)  # subscriptions and requests, each of at most MAXMSGSIZE
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_PREFIX_MESSAGE)  # of what comes in: a topic prefix each
    sock.setsockopt(zmq.SNDBUF, BUFFER_BYTES)
    if sock.type == zmq.XPUB:
        sock.setsockopt(
            zmq.XPUB_VERBOSE, 1
        )  # every new subscriber of labels/ is reported, not only the first
    _accept(sock)


def receive(sock: Socket, keys: ClientKeys | None) -> None:
    """SUB or XSUB of masks, or DEALER of snapshots, that connects to a daemon."""
    sock.setsockopt(zmq.RCVHWM, 16)  # freshness comes from draining; this bounds memory while we are stopped
    # libzmq drops subscriptions that find no room and reports nothing, so there is no bound on them.
    sock.setsockopt(zmq.SNDHWM, 64 if sock.type == zmq.DEALER else 0)
    sock.setsockopt(zmq.RCVBUF, BUFFER_BYTES)
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_PART)
    sock.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    _connect(sock, keys)


def answer_control(sock: Socket) -> None:
    """ROUTER of the control socket."""
    sock.setsockopt(zmq.ROUTER_MANDATORY, 1)  # an answer to a client that has gone fails, and is counted
    sock.setsockopt(zmq.SNDHWM, 16)
    sock.setsockopt(zmq.RCVHWM, 64)
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_REQUEST)
    _accept(sock)


def ask_control(sock: Socket, keys: ClientKeys | None) -> None:
    """DEALER that connects to a control socket."""
    sock.setsockopt(zmq.SNDHWM, 16)
    sock.setsockopt(zmq.RCVHWM, 4)
    sock.setsockopt(zmq.MAXMSGSIZE, MAX_REPLY)
    _connect(sock, keys)


def require_keys(sock: Socket, secret: bytes) -> None:
    """Talk CURVE with this secret key, and let ZAP decide whose key is accepted."""
    sock.setsockopt(zmq.CURVE_SERVER, 1)
    sock.setsockopt(zmq.CURVE_SECRETKEY, secret)
    sock.setsockopt(zmq.ZAP_DOMAIN, b"streamseg")
    sock.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)


def monitor(sock: Socket) -> None:
    """PAIR that receives the events of one of our sockets."""
    sock.setsockopt(zmq.RCVHWM, 0)  # libzmq's own thread would wait for room


def ip_version(sock: Socket, endpoint: str, *, ipv6: bool = False) -> None:
    """Speak IPv6 where the endpoint is an IPv6 address; ipv6: where it is a name, too."""
    sock.setsockopt(zmq.IPV6, int(ipv6 or endpoint.startswith("tcp://[")))


def notice_dead_peers(sock: Socket) -> None:
    """Have the kernel end a connection whose other end has not answered for GONE_AFTER_S.

    A machine without power or a cable that was pulled says nothing. Not ZeroMQ's heartbeats: where one is due
    on a connection that was lost while its messages waited for room, libzmq 4.3.5 aborts the process
    (zeromq/libzmq issue 4364), and any peer can bring that about.
    """
    sock.setsockopt(zmq.TCP_KEEPALIVE, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_IDLE, GONE_AFTER_S // 2)
    sock.setsockopt(zmq.TCP_KEEPALIVE_INTVL, 1)
    sock.setsockopt(zmq.TCP_KEEPALIVE_CNT, GONE_AFTER_S // 2)
    sock.setsockopt(zmq.TCP_MAXRT, GONE_AFTER_S * 1000)


def _accept(sock: Socket) -> None:
    sock.setsockopt(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    notice_dead_peers(sock)


def _connect(sock: Socket, keys: ClientKeys | None) -> None:
    if keys is not None:
        sock.setsockopt(zmq.CURVE_SERVERKEY, keys.server)
        sock.setsockopt(zmq.CURVE_PUBLICKEY, keys.public)
        sock.setsockopt(zmq.CURVE_SECRETKEY, keys.secret)
    sock.setsockopt(zmq.RECONNECT_IVL_MAX, LONGEST_RECONNECT_MS)
    notice_dead_peers(sock)
