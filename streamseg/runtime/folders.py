"""Folders of our own: made so that no other user gets in, and looked at before anything in them is trusted.

Where they are: caches, and places that all users share, such as /tmp, in which anybody may have made a folder
of our name first.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from streamseg.errors import OutputError

SHARED = ("/tmp", "/var/tmp", "/dev/shm")
OVERFLOW_UID = 65534  # what a container shows of users that it does not know, such as the machine's root


FETCHED_WEIGHTS, FETCHED_ENGINES = "weights", "engines"  # names for cache_folder()


def cache_folder(name: str) -> Path:
    """Where `name` keeps what can be made or fetched again; it is not made.

    Below systemd's $CACHE_DIRECTORY, else $XDG_CACHE_HOME/streamseg, else ~/.cache/streamseg. Raises
    OutputError for a user without a home.
    """
    if given := os.environ.get("CACHE_DIRECTORY", "").split(":")[0]:
        return Path(given) / name
    home = os.environ.get("XDG_CACHE_HOME", "")
    try:
        base = Path(home) if os.path.isabs(home) else Path.home() / ".cache"
    except RuntimeError as error:
        raise OutputError(
            "this user has no home folder; set XDG_CACHE_HOME to a folder for caches"
        ) from error
    return base / "streamseg" / name


def writable_cache(name: str) -> Path:
    """The folder of cache_folder(), made, or one of ours in a shared place where it cannot be written.

    Raises OutputError that says why there is none.
    """
    try:
        wanted = cache_folder(name)
        wanted.mkdir(parents=True, exist_ok=True)
        if os.access(wanted, os.W_OK | os.X_OK):
            return wanted
        reason = f"{wanted} cannot be written"
    except OutputError as error:
        reason = str(error).partition(";")[0]
    except OSError as error:
        reason = f"{wanted} cannot be made ({error.strerror})"
    for base in shared_folders():
        try:
            make_private(base)
            make_private(base / name)
        except OSError:
            continue
        return base / name
    raise OutputError(
        f"{reason}; set XDG_CACHE_HOME, or under systemd CACHE_DIRECTORY, to a folder that can be written to"
    )


def shared_folders() -> Iterator[Path]:
    """The folder that is this user's by its name, in each place that all users share; it may not exist."""
    temporary = os.environ.get("TMPDIR", "")
    for place in dict.fromkeys((*([temporary] if os.path.isabs(temporary) else []), *SHARED)):
        yield Path(place) / f"streamseg-{os.getuid()}"


def make_private(folder: Path) -> None:
    """Make a folder that only we may enter, and those above it; an existing one must be such a folder.

    Raises OSError, its text what keeps it from that.
    """
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if problem := distrust_place(folder.parent):
        raise PermissionError(errno.EPERM, f"{folder.parent} {problem}")
    folder.mkdir(mode=0o700, exist_ok=True)
    if problem := distrust(folder, private=True):
        raise PermissionError(errno.EPERM, problem)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, "cannot be written")


def distrust(path: Path, *, private: bool = False, owner: int | None = None) -> str:
    """Why what lies in a folder may not be ours, in words; empty where it is. A link to a folder is refused.

    private: it must also be closed to the eyes of others. owner: instead of this process's user.
    """
    try:
        info = path.lstat()
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    uid = os.getuid() if owner is None else owner
    if stat.S_ISLNK(info.st_mode):
        return "is a symbolic link"
    if not stat.S_ISDIR(info.st_mode):
        return "is not a folder"
    if info.st_uid != uid:
        return f"belongs to another user ({info.st_uid})"
    if info.st_mode & (0o077 if private else 0o022):
        return "is open to other users"
    return ""


def distrust_place(place: Path) -> str:
    """Why a folder that we do not own may not hold one of ours: others could put theirs into its place."""
    try:
        info = place.stat()
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if info.st_uid not in (0, os.getuid(), OVERFLOW_UID):
        return f"belongs to another user ({info.st_uid})"
    if info.st_mode & 0o022 and not info.st_mode & stat.S_ISVTX:
        return "lets every user rename what is in it"
    return ""
