"""The stage answers counts what somebody asks for, keeps up with settings, and never holds a mask up."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

import streamseg.analytics.stage as stage_module
from streamseg.analytics.counts import ZoneCounts
from streamseg.analytics.stage import TICK_S, WAITING_MASKS, Answers, Document
from streamseg.config import EventConfig, ZoneConfig
from streamseg.runtime.mailbox import Mailbox
from streamseg.runtime.stage import Stage
from streamseg.types import IGNORE, ClassInfo, FrameSettings, LabelSet, Mask, Stamp
from streamseg.wire import PolygonsDocument, ZonesDocument
from tests.waiting import LIMIT_S, until

LABELS = LabelSet("two", (ClassInfo("road", (0, 0, 0)), ClassInfo("water", (0, 0, 255))))
LEFT = {"left": ZoneConfig(polygon=((0, 0), (0.5, 0), (0.5, 1), (0, 1)))}
RIGHT = {"right": ZoneConfig(polygon=((0.5, 0), (1, 0), (1, 1), (0.5, 1)))}
FLOOD = {"flood": EventConfig(classes=("water",), above=0.5)}


def a_mask(seq: int = 0, stream: str = "gate", size: tuple[int, int] = (4, 8)) -> Mask:
    labels = np.zeros(size, np.uint8)
    labels[:, size[1] // 2 :] = 1
    labels[0, 0] = IGNORE
    stamp = Stamp(stream, 0, seq, seq, Fraction(1, 25), 1, "arrival")
    return Mask(stamp, labels, LABELS.id, "engine", confidence=np.full(size, 51, np.uint8))


class Seen:
    """A sink that remembers its calls."""

    def __init__(self) -> None:
        self.calls: Mailbox[tuple[str, object]] = Mailbox(1000)
        self.ticks = threading.Semaphore(0)

    def changed(self, stream: str, settings: FrameSettings | None) -> None:
        self.calls.put((stream, settings))

    def counted(self, counts: ZoneCounts, settings: FrameSettings) -> None:
        self.calls.put((counts.stream, counts))

    def tick(self) -> None:
        self.ticks.release()

    def close(self) -> None:
        self.calls.close()


@contextmanager
def running(answers: Answers) -> Iterator[Stage]:
    stage = Stage("answers", answers.run, lambda _: None)
    stage.start()
    try:
        yield stage
    finally:
        answers.close()
        stage.join(LIMIT_S)
    assert not stage.is_alive()
    assert stage.error is None


def test_the_shares_in_the_status_are_counted_while_somebody_asks_for_them_once_a_second() -> None:
    seen = Seen()
    answers = Answers(lambda kind, stream: False, lambda document: None, [seen])
    assert not answers.is_due("gate"), "nobody has asked"
    assert answers.counted() == {}
    assert answers.is_due("gate")
    with running(answers):
        answers.offer(a_mask(), LABELS, FrameSettings(zones=LEFT))
        until(answers.counted)
        due, since_s = answers.is_due("gate"), time.monotonic() - answers.counted()["gate"].monotonic_s
        assert not due or since_s >= TICK_S
        assert answers.is_due("yard")


def test_a_subscriber_gets_the_shares_of_each_mask() -> None:
    got: Mailbox[Document] = Mailbox(10)
    answers = Answers(lambda kind, stream: kind == "zones", got.put)
    with running(answers):
        answers.offer(a_mask(), LABELS, FrameSettings(zones=LEFT))
        document = got.get(LIMIT_S)
    assert isinstance(document, ZonesDocument)
    assert (document.stream, document.seq, document.shape, document.label_set) == ("gate", 0, (4, 8), "two")
    picture, left = document.zones
    assert (picture.zone, picture.pixels, picture.unknown) == ("picture", 32, 1)
    assert [(c.id, c.name, c.pixels, c.share) for c in picture.classes] == [
        (0, "road", 15, 15 / 32),
        (1, "water", 16, 0.5),
    ]
    assert [c.confidence for c in picture.classes] == [pytest.approx(0.2)] * 2
    assert (left.zone, left.pixels, left.unknown, left.square_m) == ("left", 16, 1, None)
    assert [(c.name, c.pixels) for c in left.classes] == [("road", 15)]


def test_an_unchanged_mask_has_the_counts_and_outlines_of_the_one_that_holds_at_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is not counted again, but for other zones."""
    counted: list[int] = []
    original = stage_module.count

    def counting(mask: Mask, *rest: Any) -> ZoneCounts:
        counted.append(mask.seq)
        return original(mask, *rest)

    monkeypatch.setattr(stage_module, "count", counting)
    documents: Mailbox[Document] = Mailbox(100)
    answers = Answers(lambda kind, stream: True, documents.put)
    first, left = a_mask(5), FrameSettings(zones=LEFT)
    frames = [(first, left)]
    for seq in (6, 7):
        frames.append((replace(first, stamp=replace(first.stamp, seq=seq, pts=seq), same_as=5), left))
    frames.append((replace(frames[-1][0], stamp=replace(first.stamp, seq=8)), FrameSettings(zones=RIGHT)))
    frames.append((a_mask(9), left))
    got: list[Document] = []
    with running(answers):
        for mask, settings in frames:
            answers.offer(mask, LABELS, settings)
            got += [documents.get(LIMIT_S), documents.get(LIMIT_S)]
    assert counted == [5, 8, 9]
    for (mask, settings), zones, polygons in zip(frames, got[::2], got[1::2], strict=True):
        assert isinstance(zones, ZonesDocument)
        assert isinstance(polygons, PolygonsDocument)
        assert (zones.seq, zones.pts) == (polygons.seq, polygons.pts) == (mask.seq, mask.pts)
        assert [zone.zone for zone in zones.zones][1:] == list(settings.zones)
        assert polygons.polygons == got[1].polygons  # type: ignore[union-attr]


def test_other_zones_and_sizes_count_from_the_next_mask_on() -> None:
    got: Mailbox[Document] = Mailbox(10)
    answers = Answers(lambda kind, stream: kind == "zones", got.put)
    with running(answers):
        for zones, size in [(LEFT, (4, 8)), (RIGHT, (4, 8)), (RIGHT, (8, 16)), ({}, (8, 16))]:
            answers.offer(a_mask(size=size), LABELS, FrameSettings(zones=zones))
            document = got.get(LIMIT_S)
            assert isinstance(document, ZonesDocument)
            assert [zone.zone for zone in document.zones] == ["picture", *zones]
            assert document.zones[-1].pixels == size[0] * size[1] // (2 if zones else 1)


def test_of_masks_that_wait_the_oldest_are_dropped_and_counted() -> None:
    got: Mailbox[Document] = Mailbox(100)
    answers = Answers(lambda kind, stream: kind == "zones", got.put)
    for seq in range(WAITING_MASKS + 3):  # nobody counts yet
        answers.offer(a_mask(seq), LABELS, FrameSettings())
    assert answers.dropped == {"gate": 3}
    with running(answers):
        assert [got.get(LIMIT_S).seq for _ in range(WAITING_MASKS)] == [3, 4, 5, 6]


def test_outlines_leave_out_masks_where_others_wait_and_counts_do_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(stage_module, "TICK_S", LIMIT_S)  # within which outlines are made once
    got: Mailbox[Document] = Mailbox(100)
    answers = Answers(lambda kind, stream: True, got.put)
    for seq in range(4):
        answers.offer(a_mask(seq), LABELS, FrameSettings())
    with running(answers):
        documents = [got.get(LIMIT_S) for _ in range(6)]
    assert [(one.kind, one.seq) for one in documents] == [
        ("zones", 0), ("polygons", 0), ("zones", 1), ("zones", 2), ("zones", 3), ("polygons", 3),
    ]  # fmt: skip


def test_a_sink_gets_settings_before_the_masks_with_them_and_all_that_waits_at_the_end() -> None:
    seen = Seen()
    answers = Answers(lambda kind, stream: False, lambda document: None, [seen])
    settings = FrameSettings(zones=LEFT, events=FLOOD)
    answers.changed("gate", settings)
    answers.offer(a_mask(), LABELS, settings)
    with running(answers):
        assert seen.calls.get(LIMIT_S) == ("gate", settings)
        stream, counts = seen.calls.get(LIMIT_S)
        assert stream == "gate"
        assert isinstance(counts, ZoneCounts)
        assert counts.zones[1].pixels == 16
        assert list(answers.counted()) == ["gate"]
        assert seen.ticks.acquire(timeout=LIMIT_S)
        answers.offer(a_mask(1), LABELS, settings)
    assert [stream for stream, _ in seen.calls] == ["gate"], "what waited at the end was counted"


def test_masks_of_a_removed_stream_are_not_counted() -> None:
    seen = Seen()
    answers = Answers(lambda kind, stream: False, lambda document: None, [seen])
    settings = FrameSettings(events=FLOOD)
    with running(answers):
        answers.offer(a_mask(), LABELS, settings)
        seen.calls.get(LIMIT_S)
        assert list(answers.counted()) == ["gate"]
        settings.removed.set()
        answers.offer(a_mask(1), LABELS, settings)
        answers.changed("gate", None)
    assert list(seen.calls) == [("gate", None)]
    assert answers.counted() == {}
