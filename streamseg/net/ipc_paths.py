"""Sockets that are files: bound where nobody listens, bound again when swept away, removed at the end.

What is there is never deleted where it is somebody else's.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from streamseg.errors import PublishError
from streamseg.net.io import Loop
from streamseg.runtime.folders import distrust

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
BACKLOG = 128
LONGEST_PATH = 107  # bytes of a socket's path on Linux

_CREDENTIALS = struct.Struct("3i")  # pid, uid, gid


def is_path(endpoint: str) -> bool:
    """Whether an endpoint is a socket in the file system, with a name of its own."""
    return endpoint.startswith("ipc://") and endpoint != "ipc://*" and not endpoint.startswith("ipc://@")


def listener_uid(path: Path | str) -> int | None:
    """The user whose process listens on this socket; None where nobody does. -1: not to be found out.

    Asked of the socket itself: the process may be in a container, so that its number is not known here.
    A name that begins with @ has no file.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(re.sub("^@", "\0", str(path)))
        except (ConnectionRefusedError, FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:  # too busy to answer, or not ours to reach; a path too long has no number
            return -1 if error.errno else None
        return user_of(probe)


def user_of(sock: socket.socket) -> int:
    """The user whose process is at the other end of a connection on this machine."""
    found = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return int(_CREDENTIALS.unpack(found)[1])


class IpcPaths:
    """The paths that the sockets of one thread listen on. Used by that thread."""

    def __init__(self, loop: Loop) -> None:
        """loop: where the paths are looked at, again and again."""
        self._paths: list[_IpcPath] = []
        self._loop = loop

    def bind(self, endpoint: str, take: Callable[[socket.socket], None]) -> None:
        """Listen on a path; raises OSError, and PublishError for a path of somebody else's.

        take is given the listening socket, which is its own from then on; and a new one in place of that
        when the path has been bound again.
        """
        path = _IpcPath(endpoint, take)
        path.bind()
        self._paths.append(path)
        if len(self._paths) == 1:
            self._loop.later(LOOK_EVERY_S, self._look)

    def _look(self) -> None:
        """Bind again what was swept away."""
        for path in self._paths:
            path.look()
        if self._paths:
            self._loop.later(LOOK_EVERY_S, self._look)

    def close(self) -> None:
        """Remove the paths that are still ours; closing twice is fine."""
        paths, self._paths = self._paths, []
        for path in paths:
            path.remove()


class _IpcPath:
    def __init__(self, endpoint: str, take: Callable[[socket.socket], None]) -> None:
        self._take = take
        self._endpoint = endpoint
        self._path = Path(endpoint.removeprefix("ipc://"))
        self._file: tuple[int, int] | None = None  # device and inode of our socket
        self._folders: list[tuple[Path, int]] = []  # above it, as far as they are ours, with their modes
        self._complaint = ""

    def bind(self) -> None:
        """Listen; raises OSError, and PublishError where the path is somebody else's."""
        if problem := self._taken():
            raise PublishError(f"{self._endpoint}: {problem}")
        self._listen()
        folder = self._path.absolute().parent
        while folder != folder.parent and not distrust(folder):
            self._folders.insert(0, (folder, stat.S_IMODE(folder.stat().st_mode)))
            folder = folder.parent

    def look(self) -> None:
        """Bind again where our socket is no longer at its path; the connections that exist go on."""
        try:
            if self._is_there():
                self._complaint = ""
                return
            for folder, mode in self._folders:
                if not folder.exists():
                    folder.mkdir()
                    folder.chmod(mode)
                if problem := distrust(folder):
                    return self._complain(f"{folder} {problem}")
            if problem := self._taken():
                return self._complain(problem)
            self._listen()
        except OSError as error:
            return self._complain(f"cannot be bound again ({error.strerror})")
        self._complaint = ""
        log.warning("%s: the socket's file was removed; bound again", self._endpoint)

    def remove(self) -> None:
        with contextlib.suppress(OSError):
            if self._is_there():
                self._path.unlink()

    def _is_there(self) -> bool:
        try:
            info = self._path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        return (info.st_dev, info.st_ino) == self._file

    def _taken(self) -> str:
        """Why the path is not ours to take; empty where it is. What nobody listens on is in nobody's way."""
        try:
            mode = self._path.stat().st_mode
        except FileNotFoundError:
            return ""
        if not stat.S_ISSOCK(mode):
            return "is not a socket; remove it or choose another path"
        if listener_uid(self._path) is not None:
            return "is in use; stop the other process or choose another path"
        return ""

    def _listen(self) -> None:
        """Two processes that do this in the same instant both succeed; the later one then has the path."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            listener.bind(str(self._path))
            listener.listen(BACKLOG)
            info = self._path.lstat()
        except BaseException:
            listener.close()
            raise
        self._take(listener)
        self._file = (info.st_dev, info.st_ino)

    def _complain(self, text: str) -> None:
        if text != self._complaint:
            log.warning("%s: the socket's file was removed, and %s", self._endpoint, text)
        self._complaint = text
