"""Events on their way: kept on disk until every place has them, in order, and no more than was set.

One SQLite file. Each event stands in it once, however many places wait for it; a place has a position, the
number of the last event that it has. How far each stream's journal was read is written in the same
transaction as its events, so a killed process goes on behind the last one that it wrote. After a power cut
the last transactions may be missing; the daemon's snapshot brings their events again.

What is lost when it is full: the oldest events, counted for each place that had not got them. While the disk
cannot be written, events are handed on from memory, up to MOST_UNSAVED of them.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from streamseg.errors import OutputError, one_line

log = logging.getLogger(__name__)

MOST_UNSAVED = 10_000  # events in memory while the disk cannot be written
SAVE_EVERY_S = 0.25  # at most so often for what one place has: a disk takes milliseconds to say yes
MOST_JOURNALS = 8  # of each stream
MOST_STREAMS = 4096

_SCHEMA = """
CREATE TABLE IF NOT EXISTS events (n INTEGER PRIMARY KEY, document BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS places (
    name TEXT PRIMARY KEY, n INTEGER NOT NULL, lost INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (
    stream TEXT, journal TEXT, event_n INTEGER NOT NULL, met INTEGER NOT NULL, PRIMARY KEY (stream, journal)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS begun (one INTEGER PRIMARY KEY);
"""
_VERSION = 1


class Cursor(NamedTuple):
    """How far a stream's journal was read."""

    stream: str
    journal: str
    event_n: int


class Event(NamedTuple):
    """An event message in the queue, by its number there."""

    n: int
    document: bytes


class Store:
    """The queue of events for these places. Any thread may call it; a call takes as long as the disk."""

    def __init__(self, path: Path | None, places: Collection[str], *, most_bytes: int) -> None:
        """path: the file, made where it is missing; None keeps everything in memory. Raises OutputError.

        A place that is new begins with the events that come from now on; what one that is gone waited for is
        forgotten.
        """
        self._where = str(path) if path is not None else ":memory:"
        self._most_bytes = most_bytes
        self._lock = threading.Lock()  # guards everything below
        self._places: dict[str, int] = {}  # the last event that each has
        self._lost: dict[str, int] = {}
        self._begun = self._begun_moved = False  # a daemon was reached
        self._unsaved: deque[Event] = deque()  # newer than all on the disk
        self._refused = False  # the disk could not be written when it was last tried
        self._saved_s = 0.0  # when, by time.monotonic()
        self._full = False  # it was logged that the oldest are lost
        self._db = self._open()
        try:
            self._load(places)
        except sqlite3.Error as error:
            self._db.close()
            raise OutputError(f"{self._where}: cannot be used ({one_line(error)})") from error

    def close(self) -> None:
        """Write what is only in memory, if that can be, and close the file; closing twice is fine."""
        with self._lock:
            with contextlib.suppress(sqlite3.Error):
                self._save()
            self._db.close()

    def cursors(self) -> dict[str, dict[str, int]] | None:
        """How far each stream's journals were read; None before a daemon was reached for the first time."""
        with self._lock:
            return (
                {stream: dict(numbers) for stream, numbers in self._cursors.items()} if self._begun else None
            )

    def add(self, documents: Sequence[bytes], cursors: Sequence[Cursor], *, begun: bool = True) -> None:
        """Take events in order, and how far the journals were read with them, all or nothing."""
        with self._lock:
            if begun and not self._begun:
                self._begun = self._begun_moved = True
            for stream, journal, event_n in cursors:
                self._note(stream, journal, event_n)
            for document in documents:
                self._last += 1
                self._unsaved.append(Event(self._last, document))
                self._bytes += len(document)
            try:
                self._save()
                self._make_room()
            except sqlite3.Error as error:
                self._tell(error)
                while len(self._unsaved) > MOST_UNSAVED:
                    self._lose([self._unsaved.popleft()])

    def waiting(self, place: str, most: int = 100) -> list[Event]:
        """The next events for a place, in order; it has those before."""
        with self._lock:
            after = self._places[place]
            found: list[Event] = []
            if self._saved > after:
                with contextlib.suppress(sqlite3.Error):  # cannot be read: what is in memory goes out
                    query = "SELECT n, document FROM events WHERE n > ? ORDER BY n LIMIT ?"
                    found = [Event(*row) for row in self._db.execute(query, (after, most))]
            for event in self._unsaved:
                if len(found) >= most:
                    break
                if event.n > after:
                    found.append(event)
            return found

    def advance(self, place: str, n: int) -> None:
        """A place has the events up to this number: on the disk by the first call after SAVE_EVERY_S."""
        with self._lock:
            if n <= self._places[place]:
                return
            self._places[place] = n
            self._dirty.add(place)
            if time.monotonic() - self._saved_s >= SAVE_EVERY_S:
                self._keep()

    def keep(self) -> None:
        """Bring to the disk what advance() left in memory."""
        with self._lock:
            self._keep()

    def _keep(self) -> None:
        try:
            self._save()
        except sqlite3.Error as error:
            self._tell(error)

    def count(self, place: str) -> int:
        """How many events wait for a place."""
        with self._lock:
            return self._last - max(self._places[place], self._first - 1)

    def lost(self, place: str) -> int:
        """How many events a place was too late for, since the file was made."""
        with self._lock:
            return self._lost[place]

    def _open(self) -> sqlite3.Connection:
        path = Path(self._where)
        try:
            return self._connect()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError) or self._where == ":memory:":
                raise OutputError(f"{self._where}: cannot be used ({one_line(error)})") from error
        damaged = path.with_name(f"{path.name}.damaged")
        try:
            path.replace(damaged)
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink(missing_ok=True)
            log.warning("%s: is damaged, and begins anew; what it was is %s", path, damaged)
            return self._connect()
        except (OSError, sqlite3.Error) as again:
            raise OutputError(f"{path}: is damaged ({one_line(again)})") from again

    def _connect(self) -> sqlite3.Connection:
        db = sqlite3.connect(self._where, check_same_thread=False, isolation_level=None, timeout=5)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("PRAGMA journal_size_limit = 4194304")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise sqlite3.OperationalError(f"it was written by another version ({version})")
            db.executescript(_SCHEMA)
            db.execute(f"PRAGMA user_version = {_VERSION}")
            db.execute("PRAGMA quick_check(1)").fetchone()
            return db
        except BaseException:
            db.close()
            raise

    def _load(self, places: Collection[str]) -> None:
        first, last, size = self._db.execute(
            "SELECT min(n), max(n), sum(length(document)) FROM events"
        ).fetchone()
        rows = {name: (n, lost) for name, n, lost in self._db.execute("SELECT name, n, lost FROM places")}
        self._last: int = max(last or 0, *(n for n, _ in rows.values()), 0)  # the number of the newest event
        self._saved: int = last or 0  # that of the newest one on the disk
        self._first: int = first or self._last + 1  # that of the oldest one
        self._bytes: int = size or 0
        self._places = {name: rows.get(name, (self._last, 0))[0] for name in places}
        self._lost = {name: rows.get(name, (0, 0))[1] for name in places}
        self._dirty = set(self._places) - set(rows)
        for name in set(rows) - set(self._places):
            self._db.execute("DELETE FROM places WHERE name = ?", (name,))
        self._cursors: dict[str, dict[str, int]] = {}
        self._moved: set[tuple[str, str]] = set()  # cursors that are not on the disk yet
        self._begun = bool(self._db.execute("SELECT count(*) FROM begun").fetchone()[0])
        self._begun_moved = False
        query = "SELECT stream, journal, event_n FROM cursors ORDER BY met"
        for stream, journal, event_n in self._db.execute(query):
            self._cursors.setdefault(stream, {})[journal] = event_n
        self._met: int = self._db.execute("SELECT coalesce(max(met), 0) FROM cursors").fetchone()[0]
        self._save()

    def _note(self, stream: str, journal: str, event_n: int) -> None:
        """Remember how far a journal was read; the oldest journals of too many are forgotten."""
        if stream not in self._cursors and len(self._cursors) >= MOST_STREAMS:
            return
        journals = self._cursors.setdefault(stream, {})
        journals[journal] = event_n
        self._moved.add((stream, journal))
        while len(journals) > MOST_JOURNALS:
            old = next(iter(journals))
            del journals[old]
            self._moved.add((stream, old))

    def _save(self) -> None:
        """Bring to the disk what is new in memory, all or nothing; raises sqlite3.Error."""
        done = min(self._places.values(), default=self._last)  # every place has these
        if not (self._unsaved or self._dirty or self._moved or self._begun_moved):
            return
        freed = sum(len(event.document) for event in self._unsaved if event.n <= done)
        with self._transaction():
            self._db.executemany("INSERT INTO events VALUES (?, ?)", [e for e in self._unsaved if e.n > done])
            for place in self._dirty:
                row = (place, self._places[place], self._lost[place])
                self._db.execute("INSERT OR REPLACE INTO places VALUES (?, ?, ?)", row)
            for stream, journal in self._moved:
                self._write_cursor(stream, journal)
            if self._begun_moved:
                self._db.execute("INSERT OR REPLACE INTO begun VALUES (1)")
            if done >= self._first:
                query = "SELECT coalesce(sum(length(document)), 0) FROM events WHERE n <= ?"
                freed += self._db.execute(query, (done,)).fetchone()[0]
                self._db.execute("DELETE FROM events WHERE n <= ?", (done,))
        self._first = max(self._first, done + 1)
        self._bytes -= freed
        self._saved = self._unsaved[-1].n if self._unsaved else self._saved
        self._unsaved.clear()
        self._dirty.clear()
        self._moved.clear()
        self._begun_moved = False
        self._saved_s = time.monotonic()
        if self._refused:
            log.info("%s: can be written again", self._where)
        self._refused = False

    def _write_cursor(self, stream: str, journal: str) -> None:
        event_n = self._cursors[stream].get(journal)
        if event_n is None:
            self._db.execute("DELETE FROM cursors WHERE stream = ? AND journal = ?", (stream, journal))
            return
        self._met += 1
        query = "INSERT INTO cursors VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET event_n = excluded.event_n"
        self._db.execute(query, (stream, journal, event_n, self._met))

    def _make_room(self) -> None:
        """Drop the oldest events of too many; raises sqlite3.Error."""
        while self._bytes > self._most_bytes:
            query = "SELECT n, document FROM events ORDER BY n LIMIT 100"
            oldest = [Event(*row) for row in self._db.execute(query)]
            over, dropped = self._bytes - self._most_bytes, []
            for event in oldest:
                if over <= 0:
                    break
                over -= len(event.document)
                dropped.append(event)
            if not dropped:
                return
            self._db.execute("DELETE FROM events WHERE n <= ?", (dropped[-1].n,))
            self._lose(dropped)
        if self._bytes < self._most_bytes // 2:
            self._full = False

    def _lose(self, events: Sequence[Event]) -> None:
        """Count what is dropped, for each place that had not got it."""
        last = events[-1].n
        self._bytes -= sum(len(event.document) for event in events)
        self._first = last + 1
        late = []
        for place, n in self._places.items():
            if n < last:
                self._lost[place] += sum(event.n > n for event in events)
                self._places[place] = last
                self._dirty.add(place)
                late.append(place)
        if late and not self._full:
            self._full = True
            log.warning(
                "the queue is full, so the oldest events are lost to %s; a larger one: queue_mb",
                ", ".join(late),
            )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise

    def _tell(self, error: sqlite3.Error) -> None:
        if not self._refused:
            log.warning(
                "%s: cannot be written (%s); events are handed on from memory meanwhile",
                self._where, one_line(error),
            )  # fmt: skip
        self._refused = True
