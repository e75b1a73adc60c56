"""Zones, shares and events on their way to pages: what is kept, asked for, and sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import msgspec
import pytest

from streamseg.errors import ConfigError
from streamseg.web.answers import MOST_EVENTS, Answers
from streamseg.web.feed import Feed
from streamseg.web.link import Link
from streamseg.web.viewer import Do, Tile, Viewer, Watch
from streamseg.wire.control import Status, Zones
from streamseg.wire.event import EventDocument, encode_event
from streamseg.wire.zones import Zone, ZoneClass, ZoneMark, ZonesDocument, encode_zones
from tests.unit.test_web import status as status_of
from tests.waiting import LIMIT_S

RAMP = {"polygon": [[0.0, 0.0], [1.0, 0.0], [1.0, 1.0]]}


class Daemon:
    """A link to no daemon: what it has, and what it was asked."""

    def __init__(self) -> None:
        self.tables: dict[str, Zones] = {}
        self.asked: list[tuple[Any, ...]] = []

    async def ask(self, what: Callable[[Any], Any]) -> Any:
        return what(self)

    def zones(self, stream: str, zones: Any = None, events: Any = None) -> Zones:
        self.asked.append((stream, zones, events))
        if zones is not None:
            self.tables[stream] = Zones(
                stream=stream, revision="new", zones=zones, events=events or {}, kept=True
            )
        return self.tables[stream]


def event_of(n: int, state: str = "begin", *, journal: str = "0" * 16, which: int = 0) -> EventDocument:
    return EventDocument(
        version=1, kind="event", stream="gate", run=1, journal=journal, event_n=n, previous_n=None,
        id=f"{journal}-gate-{which}", event="flood", zone="ramp", classes=["<b>water"], state=state,  # type: ignore[arg-type]
        value=0.4, peak=0.5, begun_unix_ns=2_000_000, at_unix_ns=3_000_000, duration_s=0.5, epoch=0, seq=1,
        pts=None, time_base=(1, 25), published_unix_ns=3_000_000,
    )  # fmt: skip


def counted(seq: int = 0) -> ZonesDocument:
    road = ZoneClass(id=1, name="road", pixels=6, share=0.5)
    return ZonesDocument(
        version=1, kind="zones", stream="gate", run=1, epoch=0, seq=seq, n=seq, pts=None, time_base=(1, 25),
        captured_unix_ns=5_000_000, clock="arrival", published_unix_ns=6_000_000, shape=(3, 4), engine="e",
        label_set="s", zones=[Zone(zone="picture", pixels=12, unknown=6, square_m=None, classes=[road])],
    )  # fmt: skip


def check(body: Callable[[Answers, Daemon, Viewer, Feed], Awaitable[None]]) -> None:
    async def run() -> None:
        daemon, viewers = Daemon(), set[Viewer]()
        answers = Answers(cast(Link, daemon), viewers)
        feed = Feed(
            lambda *_: None,
            lambda _: None,
            lambda found: [one.show_shares(found.stream, {"seq": found.seq}) for one in viewers],  # type: ignore[arg-type, func-returns-value]
            answers.take_event,
        )
        viewers.add(viewer := Viewer(feed))
        await body(answers, daemon, viewer, feed)
        await answers.close()
        await feed.close()

    asyncio.run(run())


async def told(viewer: Viewer) -> dict[str, Any]:
    text = await asyncio.wait_for(viewer.next(), LIMIT_S)
    assert isinstance(text, str)
    found: dict[str, Any] = msgspec.json.decode(text)
    return found


def with_zones(**marks: ZoneMark) -> Status:
    return msgspec.structs.replace(status_of(), zones=marks)


def test_zones_are_asked_for_when_their_revision_changes_and_not_again() -> None:
    async def body(answers: Answers, daemon: Daemon, viewer: Viewer, _: Feed) -> None:
        answers.take_status(with_zones())
        assert (await told(viewer))["streams"][0]["zones"] == {}
        daemon.tables["gate"] = Zones(stream="gate", revision="1", zones={"ramp": RAMP}, kept=True)
        for _ in range(3):
            answers.take_status(with_zones(gate=ZoneMark("1", True)))
            await asyncio.sleep(0)
        (gate,) = (await told(viewer))["streams"]
        assert (gate["stream"], gate["revision"], gate["kept"], gate["zones"]) == (
            "gate",
            "1",
            True,
            {"ramp": RAMP},
        )
        assert daemon.asked == [("gate", None, None)]
        late = Viewer(cast(Feed, None))
        answers.greet(late)
        assert (await told(late))["streams"] == [gate]

    check(body)


def test_zones_are_saved_or_written_as_toml_for_a_page() -> None:
    async def body(answers: Answers, daemon: Daemon, viewer: Viewer, _: Feed) -> None:
        tables = {"zones": {"ramp": RAMP}, "events": {}}
        done = await answers.do(Do(id=1, what="zones", stream="gate", settings=tables))
        assert done["zones"]["revision"] == "new"
        assert (await told(viewer))["streams"] == [done["zones"]]
        toml = await answers.do(Do(id=1, what="toml", stream="gate", settings=tables))
        assert toml["toml"].startswith("[streams.gate.zones.ramp]\npolygon = [[0.0, 0.0]")
        with pytest.raises(ConfigError, match=r"streams\.gate\.zones\.ramp\.polygon"):
            await answers.do(
                Do(id=1, what="toml", stream="gate", settings={"zones": {"ramp": {"polygon": [[1]]}}})
            )

    check(body)


@pytest.mark.parametrize(
    "settings", [{"source": {}}, {"zones": []}, {"zones": {}, "remote": True}, {"events": "x"}]
)
def test_a_page_gives_tables_and_nothing_else(settings: dict[str, Any]) -> None:
    assert Do(id=1, what="zones", stream="gate", settings=settings).problems()
    assert not Do(id=1, what="zones", stream="gate", settings={"zones": {}, "events": {}}).problems()


def test_a_burst_of_events_is_one_text_and_the_newest_message_of_each_counts() -> None:
    async def body(answers: Answers, _: Daemon, viewer: Viewer, feed: Feed) -> None:
        for n in range(300):
            feed._take(encode_event(event_of(n, which=n, state="end")), True)
        feed._take(encode_event(event_of(400, which=400)), False)
        feed._take(encode_event(event_of(401, "update", which=400)), False)
        feed._take(encode_event(event_of(400, which=400)), True)  # a snapshot that was on its way
        events = (await told(viewer))["events"]
        assert [one["fresh"] for one in events] == [False] * 300 + [True] * 2
        assert (events[-1]["state"], events[-1]["begun_ms"], events[-1]["classes"]) == (
            "update",
            2.0,
            ["<b>water"],
        )
        late = Viewer(feed)
        answers.greet(late)
        known = (await told(late))["events"]
        assert len(known) == MOST_EVENTS
        assert [one["event_n"] for one in known][-2:] == [299, 401]

    check(body)


def test_an_open_event_of_a_journal_that_is_no_more_is_not_shown() -> None:
    async def body(answers: Answers, _: Daemon, viewer: Viewer, feed: Feed) -> None:
        answers.take_event(event_of(5), False)
        answers.take_event(event_of(0, journal="1" * 16), True)
        late = Viewer(feed)
        answers.greet(late)
        assert [one["journal"] for one in (await told(late))["events"]] == ["1" * 16]

    check(body)


def test_shares_go_to_who_looks_at_them_the_newest_and_not_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.web.feed.SHARES_EVERY_S", 30.0)

    async def body(_: Answers, __: Daemon, viewer: Viewer, feed: Feed) -> None:
        viewer.watch(Watch(tiles={"gate": Tile()}))
        feed._take(encode_zones(counted(0)), False)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(viewer.next(), 0.02)
        viewer.watch(Watch(tiles={"gate": Tile(shares=True)}))
        for seq in range(1, 50):
            feed._take(encode_zones(counted(seq)), False)
        assert await told(viewer) == {"seq": 1}
        with pytest.raises(TimeoutError):  # the others came too soon after it
            await asyncio.wait_for(viewer.next(), 0.02)
        viewer.show_shares("gate", {"seq": 50})
        viewer.show_shares("gate", {"seq": 51})
        assert await told(viewer) == {"seq": 51}
        assert feed.bad == 0

    check(body)
