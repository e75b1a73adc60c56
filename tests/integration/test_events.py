"""Events of a real daemon: each begin and end once, through kill -9, reconnects and a relay."""

from __future__ import annotations

import asyncio
import json
import random
import signal
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamseg import Daemon
from streamseg.client import EventSubscription, subscribe_events, subscribe_events_async
from streamseg.client.control import ControlClient
from streamseg.config import PublishConfig, load_config
from streamseg.publish import Publisher
from streamseg.runtime.mailbox import Closed
from streamseg.wire import EventDocument, KeptEvent, encode_event
from tests.answers import event_document
from tests.integration.daemons import Lines, in_thread, run_daemon
from tests.integration.test_relay import relaying
from tests.media import picture, write_video
from tests.ports import free_port
from tests.soak.cable import Cable
from tests.waiting import LIMIT_S, until


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
    """A daemon's configuration with events that come and go with each frame.

    They are so many that a reader must be back within 20 s, or more have happened than are kept.
    """

    def __init__(self, folder: Path, clip: Path, engine: Path, events: int = 2, more: str = "") -> None:
        self.endpoint = f"tcp://127.0.0.1:{free_port()}"
        self.path = folder / "site.toml"
        self.text = (
            f'[engine]\nname = "{engine}"\nthreads = 1\n[publish]\nendpoint = "{self.endpoint}"\n'
            f'[streams.gate]\nsource = "{clip}"\nrealtime = true\nloop = true\nmax_fps = 5\n'
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

    def __init__(self, endpoint: str, since: Any = None, snapshots: str | bool = True) -> None:
        self.endpoint, self.ledger, self.cursor = endpoint, Ledger(), since
        self._snapshots = snapshots
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
        self._events = subscribe_events(self.endpoint, since=self.cursor, snapshot=self._snapshots)
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
            self.problems += [error, AssertionError(str(events.stats))]

    @property
    def connected(self) -> bool:
        return self._events is not None and self._events.connected

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


@pytest.mark.parametrize("times", [1, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])])
def test_no_event_is_lost_or_comes_twice_however_often_the_daemon_is_killed(
    times: int, tmp_path: Path, flicker: Path, tiny_engine: Path, state: Path
) -> None:
    killed_and_killed_again(Site(tmp_path, flicker, tiny_engine), state, times, seed=times)


class History:
    """What a daemon has published of one stream, over its restarts; begins, updates and ends in turn."""

    def __init__(self) -> None:
        self.events: list[EventDocument] = []

    def add(self, publisher: Publisher, count: int = 1, *, sent: bool = True) -> None:
        """sent: it leaves the daemon, and is not only kept."""
        for _ in range(count):
            self.events.append(event_document(len(self.events)))
            new = [encode_event(self.events[-1])] if sent else []
            publisher.put_events("gate", new, self.kept())

    def kept(self) -> list[KeptEvent]:
        return [KeptEvent(encode_event(one), False) for one in self.events[-256:]]

    def publisher(self, port: int) -> Publisher:
        publisher = Publisher(PublishConfig(endpoint=f"tcp://127.0.0.1:{port}"))
        publisher.put_events("gate", [], self.kept())
        return publisher


def test_fifty_lost_connections_cost_no_event() -> None:
    """Both sockets' connections are reset again and again while events are sent."""
    rng, history = random.Random(5), History()
    with history.publisher(free_port()) as publisher, ExitStack() as owned:
        ports = [int(one.rpartition(":")[2]) for one in (publisher.endpoint, publisher.snapshot_endpoint)]
        cables = [owned.enter_context(Cable(port)) for port in ports]
        masks, snapshots = (f"tcp://127.0.0.1:{cable.port}" for cable in cables)
        with Reader(masks, {}, snapshots) as reader:
            for _ in range(50):
                until(lambda: reader.connected)
                history.add(publisher, rng.randrange(20))
                for cable in cables if rng.random() < 0.5 else cables[:1]:
                    cable.cut()
                history.add(publisher, rng.randrange(5))
            history.add(publisher)
            until(lambda: reader.reached(len(history.events) - 1))
            assert reader.ledger.lasting == [one.event_n for one in history.events]
    assert reader.lost == 0


def test_what_a_daemon_could_not_send_before_it_was_killed_comes_from_the_next_one_at_once() -> None:
    history, port = History(), free_port()
    with Reader(f"tcp://127.0.0.1:{port}", {}) as reader:
        with history.publisher(port) as publisher:
            history.add(publisher, 3)
            until(lambda: reader.reached(2))
            history.add(publisher, 2, sent=False)
        with history.publisher(port):
            until(lambda: reader.reached(4))
    assert reader.ledger.lasting == [0, 1, 2, 3, 4]


def test_a_burst_of_events_is_not_cut_by_the_bound_on_masks() -> None:
    """64 events of a stream may begin on one frame; nothing has to be asked for again."""
    history = History()
    config = PublishConfig(endpoint=f"tcp://127.0.0.1:{free_port()}", queue=1)
    with Publisher(config) as publisher, Reader(publisher.endpoint, {}) as reader:
        until(lambda: publisher.wants("event", "gate") and reader.connected and publisher.stats.snapshots)
        history.events = [event_document(n) for n in range(500)]
        publisher.put_events("gate", [encode_event(one) for one in history.events], [])
        until(lambda: reader.reached(499))
    assert reader.ledger.lasting == list(range(500))


def test_setting_the_clock_changes_no_duration(
    tmp_path: Path, flicker: Path, tiny_engine: Path, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a connection and over those that a looped file makes: the video's time counts."""
    set_by_s = 0.0
    now_s, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now_s() + set_by_s)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(set_by_s * 1e9))
    site = Site(tmp_path, flicker, tiny_engine)
    with in_thread(Daemon(load_config(site.path))), Reader(site.endpoint, {}) as reader:
        for step_s in (0.0, 3600.0, -7200.0, 86400.0):
            seen = len(reader.ledger.events)
            set_by_s = step_s
            until(lambda seen=seen: len(reader.ledger.events) > seen + 12)  # more than one round of the file
    ends = [event for event in reader.ledger.events if event.state == "end"]
    assert max(event.duration_s for event in ends) < 60
    assert max(abs(event.published_unix_ns / 1e9 - now_s()) for event in ends) > 3000, "the clock was set"


def test_a_relay_brings_what_happened_while_its_daemon_was_away() -> None:
    """Its subscribers stay connected, so that they ask for nothing."""
    history, port = History(), free_port()
    with relaying([f"tcp://127.0.0.1:{port}"]) as relay, Reader(relay.endpoint, {}) as reader:
        with history.publisher(port) as publisher:
            until(lambda: publisher.wants("event", "gate"))
            history.add(publisher, 3)
            until(lambda: reader.reached(2))
            history.add(publisher, 2, sent=False)
        with history.publisher(port) as publisher:
            until(lambda: reader.reached(4))
            history.add(publisher, 299)
            until(lambda: reader.reached(303))
            with Reader(relay.endpoint, {}) as late:
                until(lambda: late.reached(303))
            assert late.ledger.lasting == list(range(304 - 256, 304)), "all that is kept"
    assert reader.ledger.lasting == list(range(304))


def test_a_new_reader_begins_now_and_knows_where_it_began() -> None:
    history, port = History(), free_port()
    with history.publisher(port) as publisher:
        history.add(publisher, 4)
        with subscribe_events(publisher.endpoint, ["gate"], timeout_s=LIMIT_S) as events:
            until(lambda: events.cursor is not None)
            cursor = events.cursor
            history.add(publisher, 2)
            assert [events.read(LIMIT_S).event_n for _ in range(2)] == [4, 5]
            assert cursor == {"gate": {history.events[0].journal: 3}}
            with pytest.raises(TimeoutError, match="no event came for 0"):
                events.read(0)
        with subscribe_events(publisher.endpoint, since=cursor) as again:
            assert [again.read(LIMIT_S).event_n for _ in range(2)] == [4, 5]
            again.close()
            with pytest.raises(Closed):
                again.read(LIMIT_S)


def test_events_are_received_by_asyncio() -> None:
    history, port = History(), free_port()

    async def received(endpoint: str, count: int) -> list[int]:
        found: list[int] = []
        async with subscribe_events_async(endpoint, since={}, timeout_s=LIMIT_S) as events:
            async for event in events:
                found.append(event.event_n)
                if len(found) == count:
                    assert events.cursor == {"gate": {event.journal: event.event_n}}
                    break
        return found

    with history.publisher(port) as publisher:
        history.add(publisher, 5)
        assert asyncio.run(received(publisher.endpoint, 5)) == list(range(5))


def test_other_settings_and_removed_streams_end_what_is_open(
    tmp_path: Path, tiny_engine: Path, state: Path
) -> None:
    """By a reload, by ctl, and by a file that has changed while no daemon ran."""
    clip = tmp_path / "red.mp4"
    write_video(clip, [picture((48, 64), 0.9)] * 10)
    site = Site(tmp_path, clip, tiny_engine, events=3)

    def told(events: EventSubscription, count: int) -> list[str]:
        found = [events.read(LIMIT_S) for _ in range(count)]
        return sorted(f"{one.event} {one.state} {one.why}".strip() for one in found)

    with subscribe_events(site.endpoint, since={}) as events:
        with in_thread(Daemon(load_config(site.path), site.path)) as (thread, errors):
            assert told(events, 3) == ["e0 begin", "e1 begin", "e2 begin"]
            site.path.write_text(site.text.replace("above = 0.25", "above = 0.26").replace("e2]", "e3]"))
            with ControlClient(timeout_s=LIMIT_S) as control:
                control.reload()
                assert told(events, 4) == ["e0 begin", "e0 end changed", "e2 end removed", "e3 begin"]
        site.path.write_text(site.text.replace("events.e1]", "events.e9]"))
        with in_thread(Daemon(load_config(site.path), site.path)):
            assert told(events, 6) == [
                "e0 begin", "e0 end changed", "e1 end removed", "e2 begin", "e3 end removed", "e9 begin",
            ]  # fmt: skip
            with ControlClient(timeout_s=LIMIT_S) as control:
                control.remove("gate")
                assert told(events, 3) == ["e0 end removed", "e2 end removed", "e9 end removed"]
        assert not thread.is_alive()
        assert errors == []
        assert events.stats.lost == 0
