"""The queue of the forwarder: in order, on disk, bounded, and in memory while the disk refuses."""

from __future__ import annotations

import logging
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from streamseg.forward.store import Cursor, Event, Store
from tests.integration.daemons import environment

MB = 1_000_000


def numbered(count: int, begin: int = 0) -> list[bytes]:
    return [b'{"n":%d}' % n for n in range(begin, begin + count)]


def drained(store: Store, place: str) -> list[bytes]:
    found: list[bytes] = []
    while events := store.waiting(place):
        found += [event.document for event in events]
        store.advance(place, events[-1].n)
    return found


def test_each_place_gets_every_event_in_order_in_its_own_time(tmp_path: Path) -> None:
    store = Store(tmp_path / "q", ["fast", "slow"], most_bytes=MB)
    store.add(numbered(150), [])
    assert drained(store, "fast") == numbered(150)
    store.add(numbered(10, 150), [])
    assert drained(store, "fast") == numbered(10, 150)
    assert store.count("slow") == 160
    assert drained(store, "slow") == numbered(160)
    assert store.count("slow") == 0
    store.close()


def test_what_every_place_has_leaves_the_disk(tmp_path: Path) -> None:
    store = Store(tmp_path / "q", ["a", "b"], most_bytes=MB)
    for n in range(20):
        store.add([b"x" * 10_000], [Cursor("gate", "j", n)])
        drained(store, "a")
        drained(store, "b")
    store.close()
    with sqlite3.connect(tmp_path / "q") as db:
        assert db.execute("SELECT count(*) FROM events").fetchone() == (0,)
    assert (tmp_path / "q").stat().st_size < 100_000


def test_a_new_process_goes_on_where_the_last_one_was(tmp_path: Path) -> None:
    store = Store(tmp_path / "q", ["a"], most_bytes=MB)
    assert store.cursors() is None
    store.add(numbered(10), [Cursor("gate", "j", 9)])
    store.advance("a", store.waiting("a", 4)[-1].n)
    store.close()
    again = Store(tmp_path / "q", ["a", "new"], most_bytes=MB)
    assert again.cursors() == {"gate": {"j": 9}}
    assert drained(again, "a") == numbered(6, 4)
    assert drained(again, "new") == [], "a new place begins now"
    again.add([b"next"], [])
    assert again.waiting("a") == again.waiting("new") == [Event(11, b"next")]
    again.close()


def test_what_a_place_has_is_kept_when_that_is_asked_for(tmp_path: Path) -> None:
    store = Store(tmp_path / "q", ["a", "b"], most_bytes=MB)
    store.add(numbered(1000), [])
    with sqlite3.connect(tmp_path / "q") as db:
        for n in range(1, 1001):
            store.advance("a", n)
        store.keep()
        assert db.execute("SELECT n FROM places WHERE name = 'a'").fetchone() == (1000,)
        store.keep()  # nothing new
    store.close()


def test_a_place_that_is_configured_no_more_holds_nothing_back(tmp_path: Path) -> None:
    Store(tmp_path / "q", ["a", "gone"], most_bytes=MB).close()
    store = Store(tmp_path / "q", ["a"], most_bytes=MB)
    store.add(numbered(10), [])
    drained(store, "a")
    store.close()
    with sqlite3.connect(tmp_path / "q") as db:
        assert db.execute("SELECT count(*) FROM events").fetchone() == (0,)


def test_when_it_is_full_the_oldest_are_lost_counted_for_each_and_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(tmp_path / "q", ["there", "away"], most_bytes=10_000)
    for n in range(200):
        store.add([b"%03d" % n + b"x" * 97], [])
        drained(store, "there")
    assert store.count("away") == 100
    assert (store.lost("there"), store.lost("away")) == (0, 100)
    assert [event.document[:3] for event in store.waiting("away", 2)] == [b"100", b"101"]
    assert [record.message for record in caplog.records] == [
        "the queue is full, so the oldest events are lost to away; a larger one: queue_mb"
    ]
    store.close()
    again = Store(tmp_path / "q", ["there", "away"], most_bytes=10_000)
    assert again.lost("away") == 100
    again.close()


def test_while_the_disk_is_full_events_go_out_from_memory_and_are_saved_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = Store(tmp_path / "q", ["a", "b"], most_bytes=100 * MB)
    store.add(numbered(10), [Cursor("gate", "j", 9)])
    pages = store._db.execute("PRAGMA page_count").fetchone()[0]
    store._db.execute(f"PRAGMA max_page_count = {pages}")  # what SQLite says of a full disk, it says of this
    store.add([b"y" * 50_000, b"z" * 50_000], [Cursor("gate", "j", 11)])
    store.add([b"last"], [Cursor("gate", "j", 12)])
    assert drained(store, "a") == [*numbered(10), b"y" * 50_000, b"z" * 50_000, b"last"]
    assert store.count("b") == 13
    store._db.execute("PRAGMA max_page_count = 10000")
    store.add([b"after"], [Cursor("gate", "j", 13)])
    store.close()
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "cannot be written (database or disk is full)" in caplog.records[0].message
    again = Store(tmp_path / "q", ["a", "b"], most_bytes=100 * MB)
    assert again.cursors() == {"gate": {"j": 13}}
    assert drained(again, "a") == [b"after"]
    assert drained(again, "b")[-2:] == [b"last", b"after"]
    again.close()


def test_a_damaged_file_is_put_aside_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "q").write_bytes(b"no database at all" * 1000)
    store = Store(tmp_path / "q", ["a"], most_bytes=MB)
    store.add([b"x"], [])
    assert drained(store, "a") == [b"x"]
    store.close()
    assert (tmp_path / "q.damaged").is_file()
    assert "is damaged, and begins anew" in caplog.text


CHILD = """
import sys
from pathlib import Path
from streamseg.forward.store import Cursor, Store
store = Store(Path(sys.argv[1]), ["a"], most_bytes=1 << 30)
n = (store.cursors() or {}).get("gate", {}).get("j", -1) + 1
while True:
    store.add([str(n).encode()], [Cursor("gate", "j", n)])
    print(n, flush=True)
    n += 1
"""


def test_a_killed_process_has_kept_what_it_took_and_knows_how_far_it_had_read(tmp_path: Path) -> None:
    told = -1
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path / "q")], stdout=subprocess.PIPE, env=environment()
        )
        assert child.stdout is not None
        for _ in range(50):
            told = int(child.stdout.readline())
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    store = Store(tmp_path / "q", ["a"], most_bytes=MB)
    cursors = store.cursors()
    assert cursors is not None
    taken = cursors["gate"]["j"]
    assert taken >= told
    assert drained(store, "a") == [str(n).encode() for n in range(taken + 1)]
    store.close()
