"""Files that appear whole or not at all, and locks between processes."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from streamseg.errors import ConfigError, OutputError, StreamsegError


@contextlib.contextmanager
def replaced(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Give a file to write, which takes the place of `path` when the block ends without an error.

    A reader of `path` finds the old file or the whole new one. durable: also after a power cut, for which
    data and name are synced (some milliseconds); without it, an empty file may be found then. What is written
    is PATH.tmp: one process at a time may write a path, and the next overwrites what a killed one left.
    A symbolic link stays, and its target is replaced. A device or a pipe is written directly.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        yield path
        return
    path = path.resolve() if path.is_symlink() else path
    beside = path.with_name(f"{path.name}.tmp")
    try:
        yield beside
        move_into_place(beside, path, durable=durable)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def written(path: Path) -> Iterator[Path]:
    """As replaced(), also making the folder; raises OutputError of one line where that fails.

    For what a person asked for. A library that writes must get a file that Python opened, as some turn a full
    disk into words of their own.
    """
    beside = path.with_name(f"{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if beside.is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{beside.name}: {os.strerror(errno.EISDIR)}")
        with replaced(path) as beside:
            yield beside
    except StreamsegError:
        raise
    except (FileExistsError, NotADirectoryError) as error:
        raise OutputError(f"{path}: cannot be written ({path.parent} is a file, not a folder)") from error
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error


def write_file(path: Path, data: bytes | str) -> None:
    """Replace `path` by a file with this content (text as UTF-8), as written() does; raises OutputError."""
    with written(path) as beside:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)


def new_file(path: Path, data: bytes) -> Path:
    """Make a file with this content, which appears whole and replaces none; where it is. Raises OSError.

    Where the name is taken, by whatever, the file gets the first free one of NAME-2, NAME-3 … Not synced.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_bytes(data)
        for number in itertools.count(1):
            free = path if number == 1 else path.with_stem(f"{path.stem}-{number}")
            with contextlib.suppress(FileExistsError):
                _name_new(beside, free)
                return free
    finally:
        beside.unlink(missing_ok=True)
    raise AssertionError("numbers do not end")


def _name_new(finished: Path, path: Path) -> None:
    """Give a file a name that no other has; raises FileExistsError."""
    try:
        os.link(finished, path)
    except FileExistsError:
        raise
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS):
            raise
        # A disk without hard links: the name is taken first, and the file moved to it.
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        os.replace(finished, path)


def make_folder(path: Path) -> Path:
    """Make a folder for results, and those above it; raises OutputError of one line."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = "a file is in its place" if isinstance(error, FileExistsError) else error.strerror
        raise OutputError(f"{path}: cannot be made ({reason})") from error
    return path


def move_into_place(finished: Path, path: Path, *, durable: bool = True) -> None:
    """Give a finished file the name `path`, as replaced() does at its end; raises OSError."""
    if durable:
        sync(finished)
    os.replace(finished, path)
    if durable:
        sync(path.parent)


def atomic_write(path: Path, data: bytes | str, *, durable: bool = True) -> None:
    """Replace `path` by a file with this content (text as UTF-8), as replaced() does; raises OSError."""
    with replaced(path, durable=durable) as beside:
        beside.write_bytes(data.encode() if isinstance(data, str) else data)


def sync(path: Path) -> None:
    """Wait until a file's content, or the names in a folder, would survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[int]:
    """Hold an exclusive lock on a file, which is made; gives its descriptor, for fcntl.flock().

    The lock ends with the process, however that ends. A holder may remove the file. Blocks while another
    process or thread holds it, or raises BlockingIOError when wait is False.
    """
    while True:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if _is_open_as(lock, path):  # else it was removed while we waited
                yield lock
                return
        finally:
            os.close(lock)


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def expand(path: str, setting: str) -> str:
    """Expand ~ and $VARIABLES such as $CREDENTIALS_DIRECTORY; raises ConfigError for an unset one."""
    full = os.path.expanduser(os.path.expandvars(path))
    if "$" in full:
        raise ConfigError(f"{setting}: {path} names a variable that is not set")
    return full
