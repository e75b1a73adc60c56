"""Files that an operator names, read with limits of kind, size and time: none of them can hold us for good.

A pipe that nobody writes and a network share that is away block in open(), in which no thread can be woken.
"""

from __future__ import annotations

import errno
import hashlib
import os
import stat
import threading
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path
from typing import Generic, NamedTuple, TypeVar

READ_WITHIN_S = 2.0
MOST_BYTES = 4 << 20
MOST_UNANSWERED = 32  # threads that wait for files which do not answer

T = TypeVar("T")


class Content(NamedTuple):
    """What was in a file, and what the file is."""

    data: bytes
    info: os.stat_result


class Unanswered(OSError):
    """It did not end in time, and goes on in its thread."""


class Call(Generic[T]):
    """Runs work() in a thread of its own, which ends with the process where work() never does."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        self._work = work
        self._ended = threading.Event()
        self._result: T
        self._error: Exception | None = None
        threading.Thread(target=self._run, name=f"read {name}"[:80], daemon=True).start()

    @property
    def ended(self) -> bool:
        return self._ended.is_set()

    def result(self, within_s: float) -> T:
        """What work() returned or raised; raises Unanswered when it has not ended within_s from now."""
        if not self._ended.wait(within_s):
            raise Unanswered(errno.ETIMEDOUT, f"does not answer in {within_s:g} s")
        if self._error is not None:
            raise self._error
        return self._result

    def _run(self) -> None:
        try:
            self._result = self._work()
        except Exception as error:  # noqa: BLE001 - raised by result()
            self._error = error
        finally:
            self._ended.set()


_guard = threading.Lock()  # guards _unanswered
_unanswered: dict[str, Call[Content]] = {}


def read_file(
    path: str | Path, *, most_bytes: int = MOST_BYTES, pipes: bool = False, within_s: float = READ_WITHIN_S
) -> Content:
    """A file's content; raises OSError, in words, for one that is too large, not regular, or does not answer.

    pipes: a pipe is read as well, as of a shell's <(command). Blocks for within_s at most, and not at all
    for a file of which an earlier reading has not ended.
    """
    name = os.path.abspath(path)
    with _guard:
        for key in [key for key, call in _unanswered.items() if call.ended]:
            del _unanswered[key]
        if name in _unanswered or len(_unanswered) >= MOST_UNANSWERED:
            raise Unanswered(errno.ETIMEDOUT, "has not answered since it was read last")
    call = Call(name, lambda: _read(path, most_bytes, pipes))
    try:
        return call.result(within_s)
    except Unanswered:
        with _guard:
            _unanswered[name] = call
        raise


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file; raises OSError for everything else, without waiting for it."""
    _check_kind(os.stat(path), pipes=False)  # first: to open a device may do something
    file = open(  # noqa: SIM115 - the caller's to close
        path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)
    )
    try:
        _check_kind(os.fstat(file.fileno()), pipes=False)
    except BaseException:
        file.close()
        raise
    return file


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a regular file, in hexadecimal; raises OSError."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: str | Path, most_bytes: int, pipes: bool) -> Content:
    pipe = pipes and stat.S_ISFIFO(os.stat(path).st_mode)
    with open(path, "rb") if pipe else open_regular(path) as file:
        info = os.fstat(file.fileno())
        _check_kind(info, pipes=pipes)
        data = file.read(most_bytes + 1)
    if len(data) > most_bytes:
        raise OSError(errno.EFBIG, f"larger than {most_bytes >> 10} KiB")
    return Content(data, info)


def _check_kind(info: os.stat_result, *, pipes: bool) -> None:
    if stat.S_ISDIR(info.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(info.st_mode) and not (pipes and stat.S_ISFIFO(info.st_mode)):
        raise OSError(errno.EINVAL, "not a regular file")
