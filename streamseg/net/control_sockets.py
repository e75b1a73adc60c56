"""The private control sockets of daemons, and which daemons run on this machine.

Each has a folder of its own, BASE/NAME/control, that only its user may enter (0700), with the socket in it.
Under systemd BASE/NAME is the service's runtime directory, /run/streamseg/NAME; else NAME is the process id.
BASE may lie in a folder that all users share, and processes of other containers may have theirs in it: what
belongs to others is passed over, and what somebody listens on is left alone.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from streamseg.errors import UsageError
from streamseg.net.ipc_paths import LONGEST_PATH, listener_uid
from streamseg.runtime.files import locked
from streamseg.runtime.folders import distrust, distrust_place, make_private, shared_folders

log = logging.getLogger(__name__)

SYSTEM_BASE = Path("/run/streamseg")
SOCKET, LOCK = "control/socket", "control/lock"


class PrivateSocket:
    """The name and the path of this process's own control socket. Its folder is made and locked.

    Where no folder is available, as in a container whose file system is read-only, the socket has a name of
    its network instead of a file, and lets in this user alone. Closing it removes what is left; twice is
    fine.
    """

    def __init__(self) -> None:
        self._owned = contextlib.ExitStack()
        problems: list[str] = []
        if runtime := os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]:
            home = self._given_home(Path(runtime), problems)
        else:
            home = self._first_home(problems)
        if home is not None:
            self.name, self.endpoint = home.name, f"ipc://{home / SOCKET}"
            where = f"the control socket is in {home.parent}"
        else:
            self.name, self.endpoint = _fileless()
            where = f"the control socket has no file; streamseg ctl finds it on this machine as {self.name}"
        if problems:
            log.warning("control: %s; %s", "; ".join(problems), where)

    def close(self) -> None:
        self._owned.close()

    def _given_home(self, home: Path, problems: list[str]) -> Path | None:
        if problem := _unfit(home):
            problems.append(problem)
            return None
        self._owned.callback(_remove, home, keep=True)
        return home

    def _first_home(self, problems: list[str]) -> Path | None:
        for base in user_bases():
            try:
                make_private(base)
                _clean(base)
                return self._new_home(base)
            except OSError as error:
                problems.append(f"{base}: {error.strerror}")
        return None

    def _new_home(self, base: Path) -> Path:
        """Make a folder that no other process has, and hold its lock. Raises OSError."""
        for suffix in ("", *(f"-{i}" for i in range(2, 100))):
            home = base / f"{os.getpid()}{suffix}"
            if problem := _unfit(home):
                raise OSError(0, problem)
            if listener_uid(home / SOCKET) is not None:
                continue
            with contextlib.suppress(BlockingIOError, FileNotFoundError):  # held, or cleaned away meanwhile
                self._owned.enter_context(locked(home / LOCK, wait=False))
                self._owned.callback(_remove, home)
                return home
        raise OSError(0, "holds too many daemons")


def running() -> dict[str, str]:
    """The endpoints of the daemons that run here and that this user may control, by name.

    Folders that are not this user's, or that others may write to, are passed over, each with a warning.
    """
    found: dict[str, str] = {}
    for home, owner in (*_system_homes(), *_user_homes()):
        if listener_uid(home / SOCKET) in (owner, -1):
            found.setdefault(home.name, f"ipc://{home / SOCKET}")
    for name in _fileless_listeners():
        if listener_uid(name) == os.getuid():
            found.setdefault(name.rpartition("/")[2], f"ipc://{name}")
    return found


def user_bases() -> Iterator[Path]:
    """The folders for daemons that this user starts by hand: the first one that is available is used.

    Nothing is made. Who looks for daemons looks into all of them, up to the first one that can be used.
    """
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "streamseg"
    yield from shared_folders()


def users_let_in(endpoint: str) -> set[int] | None:
    """Who may connect: to a socket without a file, processes of this user and of root only."""
    return {0, os.getuid()} if endpoint.startswith("ipc://@") else None


def _fileless() -> tuple[str, str]:
    """A name that nobody listens on, and its endpoint. Linux keeps it, not a file system."""
    for suffix in ("", *(f"-{i}" for i in range(2, 100))):
        name = f"{os.getpid()}{suffix}"
        if listener_uid(f"{_fileless_base()}{name}") is None:
            break
    return name, f"ipc://{_fileless_base()}{name}"


def _fileless_base() -> str:
    return f"@streamseg/{os.getuid()}/"


def _fileless_listeners() -> Iterator[str]:
    with contextlib.suppress(OSError):
        lines = Path("/proc/net/unix").read_bytes().decode("utf-8", "replace").splitlines()
        names = (line.split()[-1] for line in lines if line)
        yield from sorted({name for name in names if name.startswith(_fileless_base())})


def _unfit(home: Path) -> str:
    """Make the folder of a socket; why that cannot be, empty where it is done."""
    folder = home / "control"
    if not _fits(home):
        return f"{folder}/socket: too long for a socket"
    try:
        make_private(folder)
    except OSError as error:
        return f"{folder}: {error.strerror}"
    return ""


def _fits(home: Path) -> bool:
    return len(os.fsencode(home / SOCKET)) <= LONGEST_PATH


def _remove(home: Path, *, keep: bool = False) -> None:
    """Remove a daemon's folder, unless somebody listens in it. keep: the outer one is systemd's."""
    with contextlib.suppress(OSError):
        if listener_uid(home / SOCKET) is not None:
            return
        for file in (SOCKET, LOCK):
            (home / file).unlink(missing_ok=True)
        (home / "control").rmdir()
        if not keep:
            home.rmdir()


def _clean(base: Path) -> None:
    """Remove the folders of processes that have ended: nobody listens on their socket or holds their lock.

    Their numbers say nothing: a process of another container has none here.
    """
    for home in base.iterdir():
        if not home.name.partition("-")[0].isdecimal() or distrust(home) or distrust(home / "control"):
            continue
        with contextlib.suppress(OSError), locked(home / LOCK, wait=False):
            _remove(home)


def _system_homes() -> Iterator[tuple[Path, int]]:
    """The folders of services, which root or systemd made, and the user of each."""
    if distrust(SYSTEM_BASE, owner=0) and distrust(SYSTEM_BASE):
        return
    with contextlib.suppress(OSError):
        for home in sorted(SYSTEM_BASE.iterdir()):
            with contextlib.suppress(OSError):
                owner = home.lstat().st_uid
                if not distrust(home, owner=owner) and _is_socket_of(home, owner):
                    yield home, owner


def _user_homes() -> Iterator[tuple[Path, int]]:
    for base in user_bases():
        with contextlib.suppress(OSError):
            if not base.is_symlink() and not base.exists():
                if os.access(base.parent, os.W_OK | os.X_OK):
                    return  # a daemon would have made it
                continue
            problem = distrust(base)
            if not problem and (place := distrust_place(base.parent)):
                problem = f"lies in a folder that {place}"
            if problem:
                log.warning("%s %s; passed over", base, problem)
                continue
            for home in sorted(base.iterdir()):
                if not distrust(home) and _is_socket_of(home, os.getuid()):
                    yield home, os.getuid()
            if os.access(base, os.W_OK | os.X_OK) and _fits(base / "4194304-99"):
                return


def _is_socket_of(home: Path, owner: int) -> bool:
    return not distrust(home / "control", private=True, owner=owner) and (home / SOCKET).is_socket()


def one_running(name: str = "") -> str:
    """The endpoint of the daemon of that name, or of the only one; raises UsageError that lists them."""
    found = running()
    if name:
        if name in found:
            return found[name]
        known = f"; running: {', '.join(found)}" if found else "; no daemon of this user is running"
        raise UsageError(f"--name {name}: no daemon of that name runs on this machine{known}")
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        names = " or ".join(f"--name {one}" for one in found)
        raise UsageError(f"{len(found)} daemons run on this machine; choose one: {names}")
    raise UsageError(
        "no daemon that this user may control runs on this machine; start one with: "
        "streamseg run CONFIG.toml, or name another machine's with --endpoint"
    )
