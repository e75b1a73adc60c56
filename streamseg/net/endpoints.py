"""Binding, connecting and reading sockets; errors name the endpoint and what to do."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import re
import socket
from collections.abc import Iterator

import zmq

from streamseg.errors import PublishError, UsageError
from streamseg.net import options
from streamseg.net.ipc_paths import LONGEST_PATH, IpcPaths, is_path
from streamseg.wire import default_snapshot_endpoint

_NO_PERMISSION = (
    "this user has no permission to use it; choose a port above 1023, or a folder that can be written"
)
_WAYS_OUT = {
    errno.EADDRINUSE: "is in use; stop the other process or choose another port",
    errno.EADDRNOTAVAIL: "is not an address of this machine; use one of its own, such as 127.0.0.1",
    errno.ENODEV: "is neither an address nor a network interface of this machine; use one, such as 127.0.0.1",
    errno.EINVAL: "is not an endpoint; write tcp://ADDRESS:PORT or ipc:///PATH",
    errno.EACCES: _NO_PERMISSION,
    errno.EPERM: _NO_PERMISSION,
    errno.ENOENT: "lies in a folder that does not exist; make it, or choose another path",
    errno.ENOTDIR: "is not in a folder; choose another path",
    errno.EROFS: "lies on a disk that cannot be written; choose another path",
    errno.ENOSPC: "lies on a disk that is full; make room, or choose another path",
    errno.EDQUOT: "lies on a disk that is full; make room, or choose another path",
    errno.EMFILE: "finds no file descriptor left; raise LimitNOFILE= of the service, or ulimit -n",
    errno.ENFILE: "finds no file descriptor left on this machine; raise the sysctl fs.file-max",
    errno.ENAMETOOLONG: "is too long for a socket; a path has at most 107 bytes",
}


def bind_pair(
    publishing: zmq.Socket[bytes],
    snapshots: zmq.Socket[bytes],
    endpoint: str,
    snapshot_endpoint: str,
    paths: IpcPaths,
) -> tuple[str, str]:
    """Bind both sockets and return where they are; raises PublishError.

    An empty snapshot_endpoint means the default. A tcp port of 0 or * is chosen so that the default fits: the
    port above it is free too.
    """
    any_port = re.fullmatch(r"(tcp://.+):[0*]", endpoint)
    if not any_port:
        first = bind(publishing, endpoint, paths)
        try:
            second = snapshot_endpoint or default_snapshot_endpoint(first)
        except UsageError as error:
            raise PublishError(f"{endpoint}: leaves no port above it for snapshots") from error
        return first, bind(snapshots, second, paths)
    for _ in range(50):
        first = bind(publishing, f"{any_port[1]}:*", paths)
        if snapshot_endpoint:
            return first, bind(snapshots, snapshot_endpoint, paths)
        try:
            return first, bind(snapshots, default_snapshot_endpoint(first), paths)
        except (PublishError, UsageError):
            publishing.unbind(first)  # and try another pair
    raise PublishError(f"{endpoint}: no two consecutive free ports; set a port")


def bind(sock: zmq.Socket[bytes], endpoint: str, paths: IpcPaths) -> str:
    """Bind a socket and return where it is; a path is kept in `paths`. Raises PublishError."""
    if is_path(endpoint) and len(os.fsencode(endpoint.removeprefix("ipc://"))) > LONGEST_PATH:
        raise PublishError(f"{endpoint}: {_WAYS_OUT[errno.ENAMETOOLONG]}")
    port = re.fullmatch(r"tcp://.+:(\d+)", endpoint)
    if port and int(port[1]) > 65535:  # libzmq would wrap it around and bind another
        raise PublishError(f"{endpoint}: has a port above 65535")
    error = _bind(sock, endpoint, paths)
    if error is not None and error.errno == errno.ENODEV:  # no interface has this name; a host may
        error = next((None for at in _addresses(endpoint) if _bind(sock, at, paths) is None), error)
    if error is not None:
        reason = _WAYS_OUT.get(error.errno or 0, error.strerror)
        raise PublishError(f"{endpoint}: {reason}") from error
    return sock.getsockopt_string(zmq.LAST_ENDPOINT)


def _bind(sock: zmq.Socket[bytes], endpoint: str, paths: IpcPaths) -> OSError | zmq.ZMQError | None:
    options.ip_version(sock, endpoint)
    try:
        if is_path(endpoint):
            paths.bind(sock, endpoint)
        else:
            sock.bind(endpoint)
    except PublishError:
        raise
    except (zmq.ZMQError, OSError) as error:
        return error
    return None


def connect(sock: zmq.Socket[bytes], endpoint: str, *, ipv6: bool = False) -> None:
    """Connect a socket, which libzmq repeats until it succeeds; raises UsageError for what is no endpoint.

    ipv6: take the IPv6 address of a name; libzmq tries the first of one family only, see Connection.
    """
    options.ip_version(sock, endpoint, ipv6=ipv6)
    try:
        sock.connect(endpoint)
    except zmq.ZMQError as error:
        raise UsageError(f"endpoint: must be tcp://HOST:PORT or ipc://PATH; is {endpoint!r}") from error


def reconnect(sock: zmq.Socket[bytes], endpoint: str, *, ipv6: bool = False) -> None:
    """Connect again where libzmq has given up, or with the other family of a name's addresses."""
    with contextlib.suppress(zmq.ZMQError):  # it may be disconnected already
        sock.disconnect(endpoint)
    options.ip_version(sock, endpoint, ipv6=ipv6)
    sock.connect(endpoint)


def is_name(endpoint: str) -> bool:
    """Whether the host of an endpoint is a name, which may have addresses of both families."""
    found = re.fullmatch(r"tcp://([^\[\];*]+):(?:\d+|\*)", endpoint)
    if found is None:
        return False
    try:
        ipaddress.ip_address(found[1])
    except ValueError:
        return True
    return False


def reachable(endpoint: str, timeout_s: float) -> str:
    """The address behind a name that takes connections now; the endpoint itself where none does. Blocks."""
    for at in _addresses(endpoint):
        host, _, port = at.removeprefix("tcp://").rpartition(":")
        with (
            contextlib.suppress(OSError),
            socket.create_connection((host.strip("[]"), int(port)), timeout_s),
        ):
            return at
    return endpoint


def _addresses(endpoint: str) -> list[str]:
    """The endpoints that a name stands for, of both families; none where it is no name or not known."""
    if not is_name(endpoint):
        return []
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    hosts = (f"[{at[0]}]" if family == socket.AF_INET6 else at[0] for family, *_, at in found)
    return [f"tcp://{host}:{port}" for host in dict.fromkeys(hosts)]


def received(sock: zmq.Socket[bytes], at_most: int) -> Iterator[list[zmq.Frame]]:
    """The messages that have arrived, up to at_most; never waits."""
    with contextlib.suppress(zmq.Again):
        for _ in range(at_most):
            yield sock.recv_multipart(zmq.DONTWAIT, copy=False)


def split_address(frames: list[zmq.Frame]) -> tuple[list[bytes], list[bytes]]:
    """What a ROUTER received → (address to answer to, the request's parts)."""
    parts = [frame.bytes for frame in frames]
    # A REQ socket puts an empty part before its request and expects it back.
    behind = 2 if len(parts) > 2 and not parts[1] else 1
    return parts[:behind], parts[behind:]


def send_now(sock: zmq.Socket[bytes], message: list[bytes]) -> bool:
    """Send an answer on a ROUTER socket, never waiting; False when the client has gone or does not read."""
    for _ in range(2):
        try:
            sock.send_multipart(message, zmq.DONTWAIT)
            return True
        except zmq.Again:
            # Also when libzmq has not yet looked at what was read meanwhile; reading EVENTS makes it look.
            sock.getsockopt(zmq.EVENTS)
        except zmq.ZMQError:
            break
    return False
