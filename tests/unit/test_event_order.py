"""Each event once and in order, whatever a connection loses, repeats and brings late."""

from __future__ import annotations

import random
from typing import Any

import msgspec
import pytest

from streamseg.client import events
from streamseg.client.event_order import GIVE_UP_S, EventOrder, Passed, advanced
from streamseg.wire import EventDocument, encode_event
from tests.masks import make_mask
from tests.vectors.make_vectors import example_events

BEGIN = example_events(make_mask(run=77))[0]


class Daemon:
    """Makes the messages of one stream: begins, updates and ends in turn, and a snapshot of them."""

    def __init__(self, stream: str = "gate", journal: str = "0" * 16, kept: int = 256) -> None:
        self.stream, self.journal, self._kept = stream, journal, kept
        self.lasting: list[EventDocument] = []
        self._update: EventDocument | None = None
        self._n = 0

    def next(self, state: str = "") -> EventDocument:
        is_open = bool(self.lasting) and self.lasting[-1].state == "begin"
        state = state or ("end" if is_open else "begin")
        previous = self.lasting[-1].event_n if self.lasting else None
        begin = self._n if state == "begin" else previous
        event = self._made(state, previous, begin)
        self._n += 1
        if state == "update":
            self._update = event
        else:
            self.lasting.append(event)
            self._update = None
        return event

    def _made(self, state: str, previous: int | None, begin: int | None) -> EventDocument:
        return msgspec.structs.replace(
            BEGIN, stream=self.stream, journal=self.journal, event_n=self._n, previous_n=previous,
            id=f"{self.journal}-{self.stream}-{begin}", state=state,
        )  # fmt: skip

    def snapshot(self) -> list[EventDocument]:
        return self.lasting[-self._kept :] + ([self._update] if self._update else [])


def names(passed: list[Passed], *, all: bool = False) -> list[str]:
    return [f"{one.event.state} {one.event.event_n}" for one in passed if one.wanted or all]


def test_a_new_reader_gets_what_is_open_and_what_comes() -> None:
    daemon, order = Daemon(), EventOrder()
    for state in ("begin", "end", "begin", "update", "update"):
        daemon.next(state)
    early = daemon.next("update")
    assert order.live(early, 0.0) == []
    assert order.must_ask(0.0)
    passed = order.snapshot(daemon.snapshot())
    assert names(passed) == ["begin 2", "update 5"]
    assert names(passed, all=True)[:2] == ["begin 0", "end 1"]
    assert not order.must_ask(5.0)
    assert names(order.live(daemon.next("end"), 1.0)) == ["end 6"]
    assert order.lost == 0


def test_a_reader_goes_on_behind_what_it_has_and_gets_streams_that_are_new_whole() -> None:
    gate, yard = Daemon("gate"), Daemon("yard", "1" * 16)
    cursor: dict[str, dict[str, int]] = {}
    advanced(cursor, gate.next())
    advanced(cursor, gate.next())
    order = EventOrder(cursor)
    for daemon in (gate, yard, gate, yard):
        daemon.next()
    passed = order.snapshot([*gate.snapshot(), *yard.snapshot()])
    assert names(passed) == ["begin 2", "end 3", "begin 0", "end 1"]


def test_a_missing_update_holds_nothing_up_and_a_missing_end_does() -> None:
    daemon, order = Daemon(), EventOrder()
    order.snapshot([])
    order.live(daemon.next("begin"), 0.0)
    daemon.next("update")
    assert names(order.live(daemon.next("update"), 0.0)) == ["update 2"]
    daemon.next("end")
    assert order.live(daemon.next("begin"), 1.0) == []
    assert order.live(daemon.next("update"), 1.0) == []
    assert order.must_ask(1.0)
    assert not order.must_ask(1.5), "it has just been asked for"
    assert order.must_ask(2.5)
    assert names(order.snapshot(daemon.snapshot())) == ["end 3", "begin 4", "update 5"]
    assert order.lost == 0


def test_what_does_not_come_at_all_is_counted_and_the_rest_goes_on() -> None:
    daemon, order = Daemon(kept=1), EventOrder()
    order.snapshot([])
    order.live(daemon.next(), 0.0)
    daemon.next()
    assert order.live(daemon.next(), 1.0) == []
    assert order.tick(GIVE_UP_S) == []
    assert names(order.tick(1.0 + GIVE_UP_S)) == ["begin 2"]
    assert order.lost == 1
    assert order.must_ask(30.0), "once after the connection"
    assert not order.must_ask(40.0)
    daemon.next()
    daemon.next()
    assert names(order.snapshot(daemon.snapshot())) == ["begin 4"]
    assert order.lost == 2


def test_each_connection_is_asked_twice() -> None:
    """The first answer may have been made before the subscription had come to the daemon."""
    order = EventOrder({})
    order.snapshot([])
    order.tick(0.25)
    asked = [now_s / 4 for now_s in range(2, 40) if order.tick(now_s / 4) == [] and order.must_ask(now_s / 4)]
    assert asked == [1.25]
    order.tick(20.0, connected=False)
    order.tick(21.0)
    assert [order.must_ask(21.5), order.must_ask(22.0), order.must_ask(30.0)] == [False, True, False]


def test_while_the_daemon_is_away_nothing_is_given_up() -> None:
    daemon, order = Daemon(), EventOrder()
    order.snapshot([])
    order.live(daemon.next(), 0.0)
    daemon.next()
    order.live(daemon.next(), 1.0)
    for now_s in range(2, 100):
        assert order.tick(now_s, connected=False) == []
    assert order.tick(100.0) == []
    assert names(order.snapshot(daemon.snapshot())) == ["end 1", "begin 2"]
    assert order.lost == 0


def test_without_any_answer_events_come_all_the_same() -> None:
    daemon, order = Daemon(), EventOrder()
    order.live(daemon.next(), 1.0)
    assert names(order.tick(1.0 + GIVE_UP_S)) == ["begin 0"]
    assert names(order.live(daemon.next(), 12.0)) == ["end 1"]


def test_another_journal_counts_from_0_and_the_first_one_goes_on_where_it_comes_back() -> None:
    """A daemon that cannot write its journal begins another one, until it is started again."""
    first, second = Daemon(journal="a" * 16), Daemon(journal="b" * 16)
    order = EventOrder({})
    order.snapshot([first.next(), first.next()])
    assert names(order.live(second.next(), 1.0)) == ["begin 0"]
    again = first.snapshot()
    assert order.snapshot(again) == []
    assert names(order.live(first.next(), 3.0)) == ["begin 2"]
    assert order.lost == 0


@pytest.mark.parametrize("seed", range(20))
def test_begins_and_ends_come_once_and_in_order_through_everything(seed: int) -> None:
    """Losses, repeats, reconnects with late snapshots, restarts of the reader, two streams."""
    rng = random.Random(seed)
    daemons = [Daemon("gate"), Daemon("yard", "1" * 16)]
    order: EventOrder = EventOrder({})
    cursor: dict[str, dict[str, int]] = {}
    got: list[EventDocument] = []
    replies: list[list[EventDocument]] = []
    now_s = 0.0

    def take(passed: list[Passed]) -> None:
        for one in passed:
            advanced(cursor, one.event)
            got.append(one.event)

    def reply() -> list[EventDocument]:
        return [event for daemon in daemons for event in daemon.snapshot()]

    for _ in range(800):
        now_s += rng.choice([0.01, 0.1, 0.5])
        daemon = rng.choice(daemons)
        is_open = daemon.lasting and daemon.lasting[-1].state == "begin"
        event = daemon.next("update" if is_open and rng.random() < 0.5 else "")
        if rng.random() < 0.7:
            take(order.live(event, now_s))
        if rng.random() < 0.1:
            take(order.live(event, now_s))
        if rng.random() < 0.05:  # a reader that was ended reads on
            order, replies = EventOrder(cursor), []
        if order.must_ask(now_s) or rng.random() < 0.05:
            replies.append(reply())
        if replies and rng.random() < 0.5:
            take(order.snapshot(replies.pop(0)))
        take(order.tick(now_s))
    take(order.snapshot(reply()))
    for one in daemons:
        lasting = [e.event_n for e in got if e.stream == one.stream and e.state != "update"]
        assert lasting == [e.event_n for e in one.lasting]
        every = [e.event_n for e in got if e.stream == one.stream]
        assert every == sorted(set(every))
    assert order.lost == 0


def test_what_a_slow_reader_missed_stays_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "MOST_WAITING", 2)
    daemon, inbox = Daemon(), events._EventInbox({})
    for _ in range(2):
        inbox.put_snapshot([encode_event(daemon.next(state)) for state in ("begin", "update", "end")])
    inbox.look(True, lambda: None)
    assert inbox.stats.lost == 3, "begin 0, end 2, begin 3; updates may be left out"
    assert [inbox.take(0).event_n for _ in range(2)] == [4, 5]


def test_many_streams_and_journals_take_bounded_memory() -> None:
    order = EventOrder({})
    order.snapshot([Daemon(f"s{i}").next() for i in range(5000)])
    assert len(order._streams) == 4096
    cursor: Any = {}
    for i in range(20):
        advanced(cursor, Daemon(journal=f"{i:016x}").next())
    assert len(cursor["gate"]) == 8
