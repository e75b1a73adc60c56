"""Where sockets are bound and connected to; errors name the endpoint and what to do."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import struct
from collections.abc import Callable
from typing import Any, Protocol

from streamseg.errors import PublishError, UsageError
from streamseg.net.ipc_paths import BACKLOG, LONGEST_PATH, IpcPaths, is_path
from streamseg.net.options import BUFFER_BYTES
from streamseg.wire import default_snapshot_endpoint

_SIOCGIFADDR = 0x8915

Address = tuple[int, Any]
"""A family of addresses, and what connect() takes for it."""

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


class Binds(Protocol):
    """A socket that is bound; server.Server is one."""

    def bind(self, endpoint: str) -> str: ...
    def unbind(self) -> None: ...


def bind_pair(publishing: Binds, snapshots: Binds, endpoint: str, snapshot_endpoint: str) -> tuple[str, str]:
    """Bind both sockets and return where they are; raises PublishError.

    An empty snapshot_endpoint means the default. A tcp port of 0 or * is chosen so that the default fits: the
    port above it is free too.
    """
    any_port = re.fullmatch(r"(tcp://.+):[0*]", endpoint)
    if not any_port:
        first = publishing.bind(endpoint)
        try:
            second = snapshot_endpoint or default_snapshot_endpoint(first)
        except UsageError as error:
            raise PublishError(f"{endpoint}: leaves no port above it for snapshots") from error
        return first, snapshots.bind(second)
    for _ in range(50):
        first = publishing.bind(f"{any_port[1]}:*")
        if snapshot_endpoint:
            return first, snapshots.bind(snapshot_endpoint)
        try:
            return first, snapshots.bind(default_snapshot_endpoint(first))
        except (PublishError, UsageError):
            publishing.unbind()  # and try another pair
    raise PublishError(f"{endpoint}: no two consecutive free ports; set a port")


def listen(endpoint: str, paths: IpcPaths, take: Callable[[socket.socket], None]) -> str:
    """Have take() given a socket that listens there, and say where that really is; raises PublishError.

    A path is kept in `paths`, see there.
    """
    if is_path(endpoint) and len(os.fsencode(endpoint.removeprefix("ipc://"))) > LONGEST_PATH:
        raise PublishError(f"{endpoint}: {_WAYS_OUT[errno.ENAMETOOLONG]}")
    port = re.fullmatch(r"tcp://.+:(\d+)", endpoint)
    if port and int(port[1]) > 65535:
        raise PublishError(f"{endpoint}: has a port above 65535")
    try:
        if is_path(endpoint):
            paths.bind(endpoint, take)
            return endpoint
        sock, where = _listen(endpoint)
    except PublishError:
        raise
    except OSError as error:
        why = _WAYS_OUT.get(error.errno or 0, error.strerror)
        raise PublishError(f"{endpoint}: {why}") from error
    take(sock)
    return where


def _listen(endpoint: str) -> tuple[socket.socket, str]:
    problem = OSError(errno.ENODEV, "")
    for family, address in _own_addresses(endpoint):
        sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)  # its connections have it, too
            if family != socket.AF_UNIX:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
            sock.bind(address)
            sock.listen(BACKLOG)
        except OSError as error:
            sock.close()
            problem = error
            continue
        return sock, endpoint if family == socket.AF_UNIX else _tcp_endpoint(*sock.getsockname()[:2])
    raise problem


def parse_endpoint(endpoint: str) -> tuple[str, int]:
    """The host and port of tcp://HOST:PORT, or the path and -1 of ipc://PATH; raises UsageError."""
    tcp = re.fullmatch(r"tcp://(.+):(\d{1,5})", endpoint)
    if tcp and 0 < int(tcp[2]) < 65536:
        return tcp[1].removeprefix("[").removesuffix("]"), int(tcp[2])
    if re.fullmatch(r"ipc://.+", endpoint, re.DOTALL) and "\0" not in endpoint:
        return endpoint.removeprefix("ipc://"), -1
    raise UsageError(f"endpoint: must be tcp://HOST:PORT or ipc://PATH; is {endpoint!r}")


def resolve_number(where: tuple[str, int]) -> list[Address] | None:
    """The address of what parse_endpoint() gave; None for a name, which has to be looked up."""
    host, port = where
    if port < 0:
        return [(socket.AF_UNIX, _socket_path(host))]
    try:
        return _addresses(host, port, socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None


def resolve(where: tuple[str, int]) -> list[Address]:
    """All addresses of a name, in the order to try them; none where it has none. May take long."""
    try:
        return _addresses(*where, 0)
    except (OSError, UnicodeError):
        return []


def _addresses(host: str, port: int, flags: int) -> list[Address]:
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=flags)
    return [(int(family), address) for family, _, _, _, address in found]


def _socket_path(path: str) -> str | bytes:
    return b"\0" + os.fsencode(path[1:]) if path.startswith("@") else path


def _own_addresses(endpoint: str) -> list[Address]:
    """What an endpoint to bind means; raises OSError with a number of _WAYS_OUT."""
    tcp = re.fullmatch(r"tcp://(.+):(\d{1,5}|\*)", endpoint)
    if tcp:
        host, port = tcp[1].removeprefix("[").removesuffix("]"), int(tcp[2].replace("*", "0"))
        if host == "*":
            return [(socket.AF_INET, ("0.0.0.0", port))]
        found = resolve_number((host, port))
        if found is None and (own := _address_of_interface(host)):
            return [(socket.AF_INET, (own, port))]
        return found or resolve((host, port))
    if endpoint.startswith("ipc://@") and len(endpoint) > len("ipc://@"):
        return [(socket.AF_UNIX, _socket_path(endpoint.removeprefix("ipc://")))]
    raise OSError(errno.EINVAL, "")


def _address_of_interface(name: str) -> str:
    """The IPv4 address of a network interface; empty where none has this name."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            answer = fcntl.ioctl(sock, _SIOCGIFADDR, struct.pack("256s", os.fsencode(name)[:15]))
        except OSError:
            return ""
    return socket.inet_ntoa(answer[20:24])


def _tcp_endpoint(host: str, port: int) -> str:
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"
