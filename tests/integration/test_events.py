"""Events of a real daemon: each begin and end once, through kill -9, reconnects and a relay."""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamseg.client import EventSubscription, subscribe_events
from streamseg.wire import EventDocument
from tests.integration.daemons import Lines, run_daemon
from tests.media import picture, write_video
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

ANY = "tcp://127.0.0.1:*"


@pytest.fixture
def flicker(tmp_path: Path) -> Path:
    """Ten frames, red and not red in turn, by different amounts."""
    path = tmp_path / "flicker.mp4"
    shares = (0.0, 0.9, 0.1, 0.6, 0.0, 0.95, 0.3, 0.7, 0.2, 0.8)
    write_video(path, [picture((48, 64), share) for share in shares], options={"g": "1"})
    return path


@pytest.fixture(autouse=True)
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "state"))
    return tmp_path / "state"


class Site:
    """A daemon's configuration with events that come and go with each frame."""

    def __init__(self, folder: Path, clip: Path, engine: Path, events: int = 4, more: str = "") -> None:
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.path = folder / "site.toml"
        self.text = (
            f'[engine]\nname = "{engine}"\nthreads = 1\n[publish]\nendpoint = "{self.endpoint}"\n'
            f'[streams.gate]\nsource = "{clip}"\nrealtime = true\nloop = true\nmax_fps = 20\n'
            "[streams.gate.zones.left]\npolygon = [[0, 0], [0.8, 0], [0.8, 1], [0, 1]]\n"
        )
        for i in range(events):
            zone = 'zone = "left"\n' if i % 2 else ""
            limit = (i + 1) / (events + 1)
            self.text += f'[streams.gate.events.e{i}]\nclasses = ["red"]\nabove = {limit}\n{zone}{more}'
        self.path.write_text(self.text)

    def daemon(self) -> Lines:
        return run_daemon(self.path)


class Ledger:
    """All that a subscriber gets, and that nothing in it is missing, double or out of order."""

    def __init__(self) -> None:
        self.events: list[EventDocument] = []
        self.last: dict[tuple[str, str], tuple[int, int | None]] = {}  # event_n, that of the last lasting one
        self.open: dict[str, str] = {}  # state by id

    def take(self, event: EventDocument) -> None:
        key = (event.stream, event.journal)
        n, lasting = self.last.get(key, (-1, None))
        assert event.event_n > n, f"{event} after {n}"
        if key in self.last:
            assert event.previous_n == lasting, f"{event}: {lasting} was the last begin or end"
        self.last[key] = (event.event_n, lasting if event.state == "update" else event.event_n)
        before = self.open.get(event.id)
        assert before == (None if event.state == "begin" else "begin"), f"{event}: {before} before it"
        if event.state != "update":
            self.open[event.id] = event.state
        self.events.append(event)

    @property
    def lasting(self) -> list[int]:
        return [event.event_n for event in self.events if event.state != "update"]


class Reader:
    """A subscriber in a thread of its own, which goes on from its cursor when it is started again."""

    def __init__(self, endpoint: str, since: Any = None) -> None:
        self.endpoint, self.ledger, self.cursor = endpoint, Ledger(), since
        self.lost = 0
        self.problems: list[BaseException] = []
        self._events: EventSubscription | None = None
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Reader:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        self._events = subscribe_events(self.endpoint, since=self.cursor)
        self._thread = threading.Thread(target=self._read, args=(self._events,))
        self._thread.start()

    def stop(self) -> None:
        if self._events is not None and self._thread is not None:
            self._events.close()
            self._thread.join(LIMIT_S)
            assert not self._thread.is_alive()
            self.lost += self._events.stats.lost
            self.cursor = json.loads(json.dumps(self._events.cursor))
            self._events = None
        assert self.problems == []

    def _read(self, events: EventSubscription) -> None:
        try:
            for event in events:
                self.ledger.take(event)
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            self.problems.append(error)

    def reached(self, n: int) -> bool:
        assert self.problems == []
        return bool(self.ledger.lasting) and self.ledger.lasting[-1] >= n


def written(state: Path) -> list[EventDocument]:
    """The begins and ends in the journal."""
    lines = (state / "events.journal").read_bytes().splitlines()[1:]
    records = [msgspec.json.decode(line[9:]) for line in lines]
    return [msgspec.convert(r["event"], EventDocument) for r in records if r["event"]["state"] != "update"]


def killed_and_killed_again(site: Site, state: Path, times: int, seed: int) -> None:
    rng = random.Random(seed)
    with Reader(site.endpoint, {}) as steady, Reader(site.endpoint, {}) as restarted:
        for _ in range(times):
            daemon = site.daemon()
            with daemon:
                if rng.random() < 0.3:
                    restarted.stop()
                    restarted.start()
                time.sleep(rng.uniform(0.0, 1.2))  # a moment at random is what is tested
                daemon.process.send_signal(signal.SIGKILL)
        with site.daemon() as last:
            seen = len(steady.ledger.events)
            until(lambda: len(steady.ledger.events) > seen + 20)
            last.process.send_signal(signal.SIGKILL)
        end = written(state)[-1]
        with site.daemon():
            until(lambda: steady.reached(end.event_n) and restarted.reached(end.event_n))
    assert {e.journal for e in steady.ledger.events} == {end.journal}
    upto = [n for n in steady.ledger.lasting if n <= end.event_n]
    assert upto == [n for n in restarted.ledger.lasting if n <= end.event_n]
    assert [n for n in upto if n >= written(state)[0].event_n][-50:] == [
        e.event_n for e in written(state) if e.event_n <= end.event_n
    ][-50:]
    runs = len({event.run for event in steady.ledger.events})
    print(f"{times} kills: {len(upto)} begins and ends, {runs} runs")
    assert (steady.lost, restarted.lost) == (0, 0)


@pytest.mark.parametrize("times", [2, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_no_event_is_lost_or_comes_twice_however_often_the_daemon_is_killed(
    times: int, tmp_path: Path, flicker: Path, tiny_engine: Path, state: Path
) -> None:
    killed_and_killed_again(Site(tmp_path, flicker, tiny_engine), state, times, seed=times)
