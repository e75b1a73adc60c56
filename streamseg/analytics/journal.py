"""The file that events are in before they are sent: what happened is known again after kill -9.

A line for each message, with its CRC-32; the first line names the journal, whose messages are numbered from 0
for each stream. What was not written whole at the end was never sent, and is forgotten. A file that is
damaged elsewhere is set aside, and one that cannot be written is left alone: events go on, in another
journal, so that no number is given twice.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import secrets
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, TypeVar

import msgspec
from msgspec import Meta

from streamseg.analytics.events import EventMessage
from streamseg.analytics.history import NumberedEvent, StreamHistory, numbered
from streamseg.errors import OutputError, WireError
from streamseg.runtime.files import replaced
from streamseg.wire import EventDocument

log = logging.getLogger(__name__)

NAME = "events.journal"
VERSION = 1
MOST_BYTES = 256 << 20  # of a file that is read
SLACK_BYTES = 1 << 20  # beyond four times what is kept, before the file is written anew
MOST_STREAMS = 1024  # whose messages are kept; those whose last one is the oldest go
MOST_KEPT = 32768  # messages in all, when the file is written anew
TRY_AGAIN_S = 10.0  # to write, after it has failed
LOST = "events go on, but those from now on are not known after a restart"

T = TypeVar("T")

Rule = Annotated[str, Meta(max_length=64)]


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    version: int
    journal: Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z")]
    floor: Annotated[int, Meta(ge=0, lt=2**53)] = (
        0  # no number below it is given to a stream that is not in it
    )


class _Record(msgspec.Struct, frozen=True, kw_only=True):
    rule: Rule
    event: EventDocument


class EventJournal:
    """The histories of all streams, and their file. Used by one thread at a time; a context manager.

    What is wrong with the file is logged in one line, and events go on in memory: a daemon that is started
    then does not know them.
    """

    def __init__(self, folder: Path | None, hold: Callable[[], object] = lambda: None) -> None:
        """folder: None keeps everything in memory. hold makes it, and keeps other daemons out.

        It is called when there is something to write or to read, and raises OutputError.
        """
        self.id = secrets.token_hex(8)
        self.written = False  # what is added is on the disk when add() returns
        self._path = folder / NAME if folder is not None else None
        self._hold = hold
        self._opened = self._is_read = False
        self._streams: dict[str, StreamHistory] = {}  # the one that changed last comes last
        self._floor = 0
        self._file = -1
        self._size = self._fresh_size = 0  # bytes: now, and when it was written anew
        self._try_again_s = 0.0  # monotonic

    def __enter__(self) -> EventJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def exists(self) -> bool:
        """Whether there is something to be read."""
        return self._path is not None and self._path.exists()

    def open(self) -> None:
        """Read what is there, and begin to write; opening twice is fine."""
        if self._opened or self._path is None:
            return
        self._opened = True
        try:
            self._begin(self._path)
        except OSError as error:
            self._broken(self._path, error)

    def close(self) -> None:
        """Closing twice is fine."""
        self._close_file()

    def streams(self) -> dict[str, StreamHistory]:
        """What is kept of each stream."""
        return dict(self._streams)

    def history(self, stream: str) -> StreamHistory:
        """What is kept of a stream, also of one that is new."""
        if stream not in self._streams:
            self._forget_streams(MOST_STREAMS - 1)
            self._streams[stream] = StreamHistory(self.id, self._floor)
        return self._streams[stream]

    def add(self, stream: str, run: int, messages: Sequence[tuple[EventMessage, str]]) -> list[NumberedEvent]:
        """Number messages of a stream, each with its rule, and write them before this returns.

        What no message may carry is left out, and logged.
        """
        self.open()
        path = self._path
        if path is not None and not self.written and time.monotonic() >= self._try_again_s:
            self._recover(path)
        history, events = self._numbered(stream, run, messages)
        if path is not None and self.written:
            try:
                self._append(path, events)
            except OSError as error:
                self._broken(path, error)
                history, events = self._numbered(stream, run, messages)
        self._streams.pop(stream, None)
        self._streams[stream] = history
        if path is not None and self._size > 4 * self._fresh_size + SLACK_BYTES:
            try:
                self._write_anew(path)
            except OSError as error:
                self._broken(path, error)
        return events

    def _begin(self, path: Path) -> None:
        """Take over what the file holds, and write it anew; raises OSError."""
        self._hold()
        if not self._is_read:
            if self._streams and path.exists():
                raise FileExistsError(errno.EEXIST, "what it holds could not be read at the start")
            self._read(path)
            self._is_read = True
        self._write_anew(path)

    def _numbered(
        self, stream: str, run: int, messages: Sequence[tuple[EventMessage, str]]
    ) -> tuple[StreamHistory, list[NumberedEvent]]:
        """The messages, and the history with them; the one that we have stays as it is."""
        history, events = self.history(stream).copy(), []
        for message, rule in messages:
            try:
                event = history.number(message, rule, run, time.time_ns())
            except WireError as error:
                log.warning("%s: %s is not reported: %s", stream, message.event, error)
                continue
            history.add(event)
            events.append(event)
        return history, events

    def _append(self, path: Path, events: Sequence[NumberedEvent]) -> None:
        if os.fstat(self._file).st_nlink == 0:  # somebody removed it
            self._write_anew(path)
        data = b"".join(map(_line_of, events))
        _write_all(self._file, data)
        os.fdatasync(self._file)
        self._size += len(data)

    def _write_anew(self, path: Path) -> None:
        """Replace the file by one that holds what is kept; raises OSError."""
        self._forget_streams(MOST_STREAMS, MOST_KEPT)
        kept = sorted(
            (event for history in self._streams.values() for event in history.kept()),
            key=lambda event: event.order,
        )
        head = _Head(version=VERSION, journal=self.id, floor=self._floor)
        data = b"".join((_line(msgspec.json.encode(head)), *map(_line_of, kept)))
        with replaced(path) as beside:
            beside.write_bytes(data)
        self._close_file()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        self._size = self._fresh_size = len(data)
        self.written = True

    def _broken(self, path: Path, error: OSError) -> None:
        """Go on in memory, in another journal: numbers that are not written must not be given again."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                os.ftruncate(
                    self._file, self._size
                )  # what was written of a message that is not sent as it is
        self._close_file()
        if not self._try_again_s:
            told = isinstance(error, OutputError)
            what = str(error) if told else f"{path}: cannot be written ({error.strerror or error})"
            log.warning("events: %s; %s", what, LOST)
        self.written, self._try_again_s = False, time.monotonic() + TRY_AGAIN_S
        self._count_again()

    def _recover(self, path: Path) -> None:
        try:
            self._begin(path)
        except OSError:
            self._try_again_s = time.monotonic() + TRY_AGAIN_S
        else:
            self._try_again_s = 0.0
            log.info("events: %s: is written again", path)

    def _count_again(self) -> None:
        self.id, self._floor = secrets.token_hex(8), 0
        for history in self._streams.values():
            history.count_again(self.id)

    def _forget_streams(self, most: int, most_kept: int | None = None) -> None:
        """Forget those whose last message is the oldest, but none with an open event."""
        sizes = {name: len(one.kept()) for name, one in self._streams.items()} if most_kept else {}
        left = sum(sizes.values())
        for name, history in list(self._streams.items()):
            if len(self._streams) <= most and left <= (most_kept or left):
                return
            if not history.is_open:
                self._floor = max(self._floor, history.next_n)
                left -= sizes.get(name, 0)
                del self._streams[name]

    def _read(self, path: Path) -> None:
        """Take over what the file holds; sets it aside where it is damaged. Raises OSError."""
        try:
            with path.open("rb") as file:
                lines = file.read(MOST_BYTES).split(b"\n")
        except FileNotFoundError:
            return
        lines.pop()  # what was not written whole
        head = _read_line(lines[0], _Head) if lines else None
        records = [_read_line(line, _Record) for line in lines[1:]]
        if head is not None and head.version == VERSION:
            self.id, self._floor = head.journal, head.floor
        damaged = sum(one is None for one in (head, *records)) if lines else 0
        for record in records:
            if record is not None:
                self.history(record.event.stream).add(numbered(record.event, record.rule))
        if damaged or (head is not None and head.version != VERSION):
            aside = path.with_name(f"{path.name}.damaged")
            os.replace(path, aside)
            log.warning(
                "events: %s: %d of %d lines are damaged; it is set aside as %s, and numbers begin again",
                path, damaged, len(lines), aside.name,
            )  # fmt: skip
            self._count_again()

    def _close_file(self) -> None:
        if self._file >= 0:
            os.close(self._file)
        self._file = -1


def _line_of(event: NumberedEvent) -> bytes:
    return _line(msgspec.json.encode({"rule": event.rule, "event": msgspec.Raw(event.parts[1])}))


def _line(data: bytes) -> bytes:
    return b"%08x %s\n" % (zlib.crc32(data), data)


def _read_line(line: bytes, kind: type[T]) -> T | None:
    """What a line holds; None where it is damaged."""
    data = line[9:]
    try:
        return msgspec.json.decode(data, type=kind) if line[:9] == b"%08x " % zlib.crc32(data) else None
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


def _write_all(file: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(file, view) :]
