"""The private control sockets of daemons, and which daemons run on this machine.

Each has a folder of its own, BASE/NAME/control, that only its user may enter (0700), with the socket in it.
Under systemd BASE/NAME is the service's runtime directory, /run/streamseg/NAME; else NAME is the process id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from streamseg.errors import ConfigError, UsageError

SYSTEM_BASE = Path("/run/streamseg")
LONGEST_PATH = 107  # bytes of a socket's path on Linux


def private_endpoint(environ: Mapping[str, str] = os.environ) -> tuple[str, str]:
    """(name, ipc endpoint) for this process; makes its folder. Raises ConfigError where it cannot."""
    runtime = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if runtime:
        home = Path(runtime)
        name = home.name
    else:
        base = user_base(environ)
        _make_private(base)
        _clean(base)
        names = (str(os.getpid()) + suffix for suffix in ("", *(f"-{i}" for i in range(2, 100))))
        name = next(name for name in names if not is_alive(base / name / "control" / "socket"))
        home = base / name
    folder = home / "control"
    if len(os.fsencode(folder / "socket")) > LONGEST_PATH:
        raise ConfigError(
            f"control: {folder}/socket is too long for a socket; set a shorter $XDG_RUNTIME_DIR"
        )
    _make_private(folder)
    return name, f"ipc://{folder / 'socket'}"


def forget_endpoint(endpoint: str) -> None:
    """Remove what private_endpoint() made, where it still exists."""
    socket_path = Path(endpoint.removeprefix("ipc://"))
    with contextlib.suppress(OSError):
        socket_path.unlink(missing_ok=True)
        socket_path.parent.rmdir()
        socket_path.parent.parent.rmdir()  # under systemd it is not ours, and stays


def running(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The endpoints of the daemons that run here and that this user may control, by name."""
    found: dict[str, str] = {}
    for base in dict.fromkeys((SYSTEM_BASE, user_base(environ))):
        for path in _sockets(base):
            if is_alive(path):
                found.setdefault(path.parent.parent.name, f"ipc://{path}")
    return found


def user_base(environ: Mapping[str, str] = os.environ) -> Path:
    """The folder for daemons that this user starts by hand."""
    if runtime := environ.get("XDG_RUNTIME_DIR"):
        return Path(runtime) / "streamseg"
    return Path(tempfile.gettempdir()) / f"streamseg-{os.getuid()}"


def is_alive(path: Path) -> bool:
    """Whether a process listens on this socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except OSError:
            return False
    return True


def _sockets(base: Path) -> Iterator[Path]:
    try:
        yield from sorted(base.glob("*/control/socket"))
    except OSError:
        return


def _make_private(folder: Path) -> None:
    """Make a folder that only we may enter; an existing one must be such a folder."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = folder.lstat()
    except OSError as error:
        raise ConfigError(
            f"control: {folder} cannot be made ({error.strerror}); "
            "set $XDG_RUNTIME_DIR to a folder of your own"
        ) from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & 0o077:
        raise ConfigError(
            f"control: {folder} must be a folder that only its owner may enter (0700); "
            "remove it, or set $XDG_RUNTIME_DIR to a folder of your own"
        )


def _clean(base: Path) -> None:
    """Remove the folders of processes that no longer run."""
    for home in base.iterdir():
        pid = home.name.partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(home, ignore_errors=True)


def one_running(name: str = "", environ: Mapping[str, str] = os.environ) -> str:
    """The endpoint of the daemon of that name, or of the only one; raises UsageError that lists them."""
    found = running(environ)
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
