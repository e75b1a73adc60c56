"""A file, or standard output, with a line of JSON for each message."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Sequence
from pathlib import Path

from streamseg.errors import ConfigError
from streamseg.forward.settings import FileConfig
from streamseg.forward.sink import Message, News, SinkError, Taken
from streamseg.runtime.files import expand


class Lines:
    """Appends to a file, and opens it again where it was renamed, as by logrotate, or on reopen().

    A line is there whole or not at all: what a full disk cut is taken back, and written again.
    """

    connects = True
    masks_every_s = pictures_every_s = 0.0

    def __init__(self, config: FileConfig) -> None:
        self._path = Path(expand(config.path, "path")) if config.path != "-" else None
        self.where = str(self._path or "standard output")
        self._file = -1
        self._again = threading.Event()  # it is to be opened again

    def reopen(self) -> None:
        """Write to the file that has the name now. From any thread."""
        self._again.set()

    def open(self) -> None:
        self._again.clear()
        if self._path is None:
            self._file = os.dup(1)
            return
        try:
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._file = os.open(self._path, flags, 0o640)
            size, mode = os.fstat(self._file).st_size, os.fstat(self._file).st_mode
            if not stat.S_ISREG(mode):
                raise ConfigError(f"{self._path}: is not a regular file; - is standard output")
            if size and os.pread(self._file, 1, size - 1) != b"\n":  # a line that a crash has cut
                self._write(b"\n")
        except OSError as error:
            raise SinkError(f"{self.where}: cannot be opened ({error.strerror})") from error

    def send(self, messages: Sequence[Message], taken: Taken) -> None:
        self._follow()
        self._write(b"".join(message.event.document + b"\n" for message in messages))
        for message in messages:
            taken(message, "")

    def show(self, news: News) -> None:
        if news.zones:
            self._follow()
            self._write(b"".join(document + b"\n" for document in news.zones.values()))

    def keep(self) -> None:
        """Nothing ends by itself."""

    def close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def check(self) -> str:
        self.open()
        return "appends a line of JSON for each message"

    def _follow(self) -> None:
        """Open the file again where its name is that of another one now."""
        if self._path is None:
            return
        try:
            same = os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except OSError:
            same = False
        if not same or self._again.is_set():
            self.close()
            self.open()

    def _write(self, data: bytes) -> None:
        """Write all of it or nothing; raises SinkError."""
        begin = os.fstat(self._file).st_size if self._path is not None else 0
        written = 0
        try:
            while written < len(data):
                written += os.write(self._file, data[written:])
        except BrokenPipeError:
            raise  # nobody reads standard output any more, so the process ends
        except OSError as error:
            if self._path is not None and written:
                os.ftruncate(self._file, begin)
            raise SinkError(f"{self.where}: cannot be written ({error.strerror})") from error
