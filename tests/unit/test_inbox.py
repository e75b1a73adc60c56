"""What has reached a subscriber: merged, counted, newest first."""

from __future__ import annotations

import pytest

from streamseg import wire
from streamseg.client.inbox import Inbox
from streamseg.runtime.mailbox import Closed
from streamseg.types import Mask
from tests.masks import STREET, make_mask


def parts(n: int, *, run: int = 1, stream: str = "gate", revision: int = 0) -> list[bytes]:
    mask = make_mask(n, run=run, stream=stream, revision=revision, size=(4, 6))
    return wire.encode_mask(mask, "raw", kind="refined" if revision else "mask")


def inbox(*, newest: bool = True, queue: int = 64) -> Inbox:
    return Inbox(None, newest=newest, queue=queue)


def drain(box: Inbox) -> list[tuple[str, int, int]]:
    taken: list[Mask] = []
    while True:
        try:
            taken.append(box.take(timeout_s=0))
        except TimeoutError:
            return [(m.stream, m.n, m.revision) for m in taken]


def test_only_the_newest_mask_of_a_stream_waits() -> None:
    box = inbox()
    for n in range(5):
        box.put(parts(n))
    assert drain(box) == [("gate", 4, 0)]
    assert (box.stats.received, box.stats.skipped, box.stats.lost) == (5, 4, 0)


def test_in_order_all_masks_come_and_the_oldest_go_when_too_many_wait() -> None:
    box = inbox(newest=False, queue=3)
    for n in range(5):
        box.put(parts(n))
    assert drain(box) == [("gate", n, 0) for n in (2, 3, 4)]
    assert box.stats.skipped == 2


def test_the_stream_that_was_served_longest_ago_comes_first() -> None:
    box = inbox()
    order = []
    for n in range(3):
        for stream in ("a", "b", "c"):
            box.put(parts(n, stream=stream))
        order.append(box.take(0).stream)
    assert order == ["a", "b", "c"]
    box.put(parts(9, stream="a"))
    assert [box.take(0).stream for _ in range(2)] == ["a", "b"]  # all three wait; a was served first


def test_a_refinement_does_not_push_out_a_newer_mask() -> None:
    box = inbox()
    for message in (parts(3), parts(7), parts(3, revision=1)):
        box.put(message)
    assert sorted(drain(box)) == [("gate", 3, 1), ("gate", 7, 0)]
    latest = box.latest("gate")
    assert latest is not None
    assert (latest.n, latest.revision) == (7, 0)
    box.put(parts(7, revision=1))
    latest = box.latest("gate")
    assert latest is not None
    assert (latest.n, latest.revision) == (7, 1)


def test_a_gap_in_n_is_counted_as_lost_but_not_the_time_before_us() -> None:
    box = inbox()
    for n in (100, 101, 105, 106):
        box.put(parts(n))
    assert box.stats.lost == 3


def test_a_snapshot_brings_no_mask_twice() -> None:
    box = inbox()
    box.put(parts(5))
    box.put(parts(5), snapshot=True)
    box.put(parts(4), snapshot=True)
    assert drain(box) == [("gate", 5, 0)]
    assert box.stats.repeated == 2
    box.put(parts(6), snapshot=True)
    box.put(parts(6))
    assert drain(box) == [("gate", 6, 0)]


def test_a_new_run_is_a_restart_and_loses_nothing() -> None:
    box = inbox(newest=False)
    for message in (parts(500, run=7), parts(0, run=3), parts(1, run=3)):
        box.put(message)
    assert [n for _, n, _ in drain(box)] == [500, 0, 1]
    assert (box.stats.restarts, box.stats.lost) == (1, 0)
    box.put(parts(501, run=7), snapshot=True)  # the old publisher's late answer
    assert drain(box) == []
    latest = box.latest("gate")
    assert latest is not None
    assert latest.run == 3
    box.put(parts(0, run=9), snapshot=True)  # the next publisher's answer, before its first live mask
    assert drain(box) == [("gate", 0, 0)]


def test_what_breaks_the_protocol_is_counted_and_passed_over() -> None:
    box = inbox()
    box.put([b"junk"])
    good = parts(1)
    box.put([good[0], good[1], good[2][:-1]])  # the payload is looked at when it is read
    with pytest.raises(TimeoutError):
        box.take(0)
    box.put(parts(2))
    assert drain(box) == [("gate", 2, 0)]
    assert box.stats.bad == 2


def test_streams_that_were_not_asked_for_stay_out() -> None:
    box = Inbox(["gate"], newest=True, queue=1)
    box.put(parts(1, stream="yard"))
    box.put(parts(1))
    assert drain(box) == [("gate", 1, 0)]
    assert box.latest("yard") is None


def test_a_flood_of_stream_names_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamseg.client.inbox.MAX_TOPICS", 3)
    box = inbox()
    for i in range(10):
        box.put(parts(0, stream=f"s{i}"))
    assert len(drain(box)) == 3
    assert box.stats.bad == 7


def test_label_sets_are_kept_and_waited_for() -> None:
    box = inbox()
    with pytest.raises(TimeoutError, match="street3"):
        box.label_set("street3", 0)
    box.put(wire.encode_labels(STREET))
    assert box.label_set("street3", 0) == STREET


def test_a_closed_inbox_gives_what_it_has_and_then_ends() -> None:
    box = inbox()
    box.put(parts(1))
    box.close()
    assert box.take().n == 1
    with pytest.raises(Closed):
        box.take()
    with pytest.raises(Closed):
        box.label_set("street3", 5)
