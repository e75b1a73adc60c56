"""What has reached a subscriber: merged, counted, newest first."""

from __future__ import annotations

import contextlib
from typing import Any, Literal

import pytest

from streamseg import wire
from streamseg.client.inbox import Inbox
from streamseg.client.kept import Arrival, KeptMasks
from streamseg.runtime.mailbox import Closed
from streamseg.types import Mask
from tests.masks import STREET, make_mask
from tests.waiting import LIMIT_S


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
        box.label_set("street3", LIMIT_S)


def unchanged(seq: int, n: int, same_as: int, **fields: Any) -> list[bytes]:
    return wire.encode_same(make_mask(seq, n=n, same_as=same_as, **{"run": 1, "size": (4, 6)} | fields))


def real(seq: int, n: int, *, revision: Literal[0, 1] = 0, run: int = 1) -> list[bytes]:
    mask = make_mask(seq, n=n, run=run, size=(4, 6), revision=revision)
    return wire.encode_mask(mask, "zstd", kind="refined" if revision else "mask")


def everything(box: Inbox) -> list[Mask]:
    found = []
    with contextlib.suppress(TimeoutError):
        while True:
            found.append(box.take(timeout_s=0))
    return found


def test_an_unchanged_frame_gives_the_mask_that_holds_with_its_own_times() -> None:
    box = inbox(newest=False)
    box.put(real(5, 2))
    for seq in (6, 9):
        box.put(unchanged(seq, 2, 5, captured_unix_ns=seq, stage_us={"gate": 9}))
    box.put(real(10, 3))
    box.put(unchanged(11, 3, 10))
    masks = everything(box)
    assert [(m.seq, m.n, m.same_as) for m in masks] == [
        (5, 2, None), (6, 2, 5), (9, 2, 5), (10, 3, None), (11, 3, 10),
    ]  # fmt: skip
    assert [m.captured_unix_ns for m in masks[1:3]] == [6, 9]
    assert masks[1].labels is masks[2].labels  # not copied
    assert masks[3].labels is masks[4].labels  # nor unpacked twice
    assert (masks[0].labels == masks[1].labels).all()
    assert box.latest("gate").labels is masks[4].labels  # type: ignore[union-attr]
    stats = box.stats
    assert (stats.received, stats.unchanged, stats.lost, stats.repeated, stats.bad) == (5, 3, 0, 0, 0)


def test_unchanged_frames_are_no_loss_and_hide_none() -> None:
    box = inbox()
    for message in (real(5, 2), unchanged(6, 2, 5), real(7, 3), unchanged(8, 3, 7), real(20, 6)):
        box.put(message)
    assert box.stats.lost == 2
    assert [m.seq for m in everything(box)] == [20]
    assert box.stats.skipped == 4


def test_of_unchanged_frames_the_newest_waits_and_has_labels_that_were_never_read() -> None:
    box = inbox()
    box.put(real(5, 2))
    box.put(unchanged(6, 2, 5))
    box.put(unchanged(7, 2, 5))
    (mask,) = everything(box)
    assert (mask.seq, mask.same_as, box.stats.skipped) == (7, 5, 2)


def test_an_unchanged_frame_gives_the_refined_mask_once_that_has_come() -> None:
    box = inbox(newest=False)
    for message in (real(5, 2), unchanged(6, 2, 5), real(5, 2, revision=1), unchanged(7, 2, 5)):
        box.put(message)
    masks = everything(box)
    assert [(m.seq, m.revision, m.same_as) for m in masks] == [
        (5, 0, None), (6, 0, 5), (5, 1, None), (7, 1, 5),
    ]  # fmt: skip
    assert (latest := box.latest("gate")) is not None
    assert (latest.seq, latest.revision) == (7, 1)


def test_an_older_unchanged_frame_of_the_plain_mask_makes_way_for_a_refined_one() -> None:
    box = inbox()
    for message in (real(5, 2), unchanged(6, 2, 5), real(5, 2, revision=1), unchanged(7, 2, 5)):
        box.put(message)
    assert [(m.seq, m.revision) for m in everything(box)] == [(7, 1)]
    box.put(unchanged(8, 2, 5))
    box.put(real(9, 3))
    assert sorted((m.seq, m.revision) for m in everything(box)) == [(8, 1), (9, 0)]


@pytest.mark.parametrize(
    "message",
    [
        unchanged(6, 3, 5),  # of a mask that was lost
        unchanged(6, 2, 4),
        unchanged(6, 2, 5, run=2),
        unchanged(6, 2, 5, epoch=1),
        unchanged(6, 2, 5, stream="yard"),
        unchanged(6, 2, 5, engine="another"),
        unchanged(6, 2, 5, label_set="another"),
        unchanged(6, 2, 5, size=(4, 7)),
    ],
)
def test_an_unchanged_frame_whose_mask_is_not_held_is_passed_over(message: list[bytes]) -> None:
    box, asked = inbox(), []
    box.put(real(5, 2))
    everything(box)
    box.put(message)
    assert not everything(box)
    assert (box.stats.received, box.stats.lost, box.stats.bad) == (1, 0, 0)
    for connected in (False, True, True):
        box.look(connected, lambda: asked.append(1))
    assert len(asked) == 1  # for a snapshot: its mask may be in it


def test_late_unchanged_frames_of_a_snapshot_are_repeats() -> None:
    box = inbox()
    for message in (real(5, 2), unchanged(8, 2, 5)):
        box.put(message)
    for message in (real(5, 2), unchanged(7, 2, 5), unchanged(8, 2, 5)):
        box.put(message, snapshot=True)
    assert [m.seq for m in everything(box)] == [8]
    box.put(real(9, 3))
    box.put(unchanged(8, 2, 5), snapshot=True)
    assert [m.seq for m in everything(box)] == [9]
    assert (box.stats.repeated, box.stats.lost, box.stats.unchanged) == (4, 0, 1)


def test_a_restart_in_the_middle_of_unchanged_frames_loses_nothing() -> None:
    box = inbox(newest=False)
    for message in (
        real(5, 2), unchanged(6, 2, 5), real(0, 0, run=2), unchanged(7, 2, 5), unchanged(1, 0, 0, run=2),
    ):  # fmt: skip
        box.put(message)
    assert [(m.run, m.seq) for m in everything(box)] == [(1, 5), (1, 6), (2, 0), (2, 1)]
    assert (box.stats.restarts, box.stats.lost) == (1, 0)


def test_a_flood_of_unchanged_frames_makes_no_streams() -> None:
    box = inbox()
    for number in range(3000):
        box.put(unchanged(6, 2, 5, stream=f"s{number}"))
    assert not box._tracks
    assert not box._unchanged


def test_unpacked_masks_are_bounded_and_unpacked_again() -> None:
    kept = KeptMasks(most=50)  # two masks of 24 bytes
    arrivals = []
    for stream in ("a", "b", "c"):
        message = wire.parse_message(parts(2, stream=stream))
        assert isinstance(message, wire.MaskMessage)
        arrivals.append(Arrival(message))
    first, second, third = (kept.mask_of(one) for one in arrivals)
    assert kept.mask_of(arrivals[2]).labels is third.labels
    assert kept.mask_of(arrivals[1]).labels is second.labels
    again = kept.mask_of(arrivals[0])
    assert again.labels is not first.labels
    assert (again.labels == first.labels).all()
    assert kept._bytes == 48
