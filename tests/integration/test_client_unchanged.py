"""Unchanged frames between real publishers, relays and subscribers, old ones among them."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest

from streamseg.client import Subscription, subscribe, subscribe_async
from streamseg.config import PublishConfig
from streamseg.publish import Publisher
from streamseg.types import Mask
from tests.integration.children import ROOT
from tests.integration.daemons import Lines
from tests.integration.test_relay import relaying
from tests.masks import STREET, make_mask
from tests.waiting import LIMIT_S, until

BEFORE = "01fe3bc"
"""The last commit whose client does not know unchanged frames."""


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*", queue=100), [STREET]) as publisher:
        yield publisher


def follow(publisher: Publisher, stream: str = "gate", *, kind: str = "mask") -> None:
    assert publisher.wait_wanted(kind, stream, LIMIT_S)  # type: ignore[arg-type]
    assert publisher.wait_wanted("same", stream, LIMIT_S)


def facts(mask: Mask) -> tuple[int, int, int | None]:
    return mask.seq, mask.n, mask.same_as


FRAMES = [(5, None), (6, 5), (9, 5), (10, None), (11, 10)]
FOLLOWED = [(5, 0, None), (6, 0, 5), (9, 0, 5), (10, 1, None), (11, 1, 10)]


def test_labels_are_given_with_new_times_and_not_copied(publisher: Publisher) -> None:
    with subscribe(publisher.endpoint, ["gate"], newest=False, snapshot=False, timeout_s=LIMIT_S) as masks:
        follow(publisher)
        for seq, same_as in FRAMES:
            publisher.put(make_mask(seq, same_as=same_as))
        got = [next(masks) for _ in FRAMES]
        assert [facts(m) for m in got] == FOLLOWED
        assert got[1].labels is got[2].labels
        assert (got[0].labels == got[1].labels).all()
        assert (got[3].labels == got[4].labels).all()
        assert [m.pts for m in got] == [seq * 512 for seq, _ in FRAMES]
        assert all(0 <= masks.age_s(m) < LIMIT_S for m in got)
        stats = masks.stats
        assert (stats.received, stats.unchanged, stats.lost, stats.bad) == (5, 3, 0, 0)


def test_it_is_the_same_for_asyncio(publisher: Publisher) -> None:
    async def read() -> list[Mask]:
        async with subscribe_async(publisher.endpoint, ["gate"], newest=False, timeout_s=LIMIT_S) as masks:
            await asyncio.to_thread(follow, publisher)
            for seq, same_as in FRAMES:
                publisher.put(make_mask(seq, same_as=same_as))
            return [await masks.read(LIMIT_S) for _ in FRAMES]

    got = asyncio.run(read())
    assert [facts(m) for m in got] == FOLLOWED
    assert got[1].labels is got[2].labels


def test_confidence_and_refinement_hold_as_the_labels_do(publisher: Publisher) -> None:
    labels = make_mask(5).labels
    with (
        subscribe(
            publisher.endpoint, confidence=True, newest=False, snapshot=False, timeout_s=LIMIT_S
        ) as sure,
        subscribe(
            publisher.endpoint, refined=True, newest=False, snapshot=False, timeout_s=LIMIT_S
        ) as refined,
    ):
        for kind in ("mask", "mask+confidence", "refined"):
            follow(publisher, kind=kind)
        publisher.put(make_mask(5, confidence=labels))
        publisher.put(make_mask(6, same_as=5))
        publisher.put(make_mask(5, revision=1, refined_seq=5))
        publisher.put(make_mask(7, same_as=5))
        got = [next(sure) for _ in range(3)]
        assert [facts(m) for m in got] == [(5, 0, None), (6, 0, 5), (7, 0, 5)]
        assert got[2].confidence is got[1].confidence is not None
        assert (got[2].confidence == labels).all()
        got = [next(refined) for _ in range(4)]
        assert [(m.seq, m.revision) for m in got] == [(5, 0), (6, 0), (5, 1), (7, 1)]


def test_a_late_joiner_has_the_mask_and_the_last_unchanged_frame(publisher: Publisher) -> None:
    for seq, same_as in FRAMES:
        publisher.put(make_mask(seq, same_as=same_as))
    until(lambda: publisher.stats.unchanged == 3)
    with subscribe(publisher.endpoint, newest=False, timeout_s=LIMIT_S) as masks:
        assert [facts(next(masks)) for _ in range(2)] == [(10, 1, None), (11, 1, 10)]


def test_a_reader_that_holds_no_mask_gets_it_from_a_snapshot(publisher: Publisher) -> None:
    publisher.put(make_mask(5))
    until(lambda: publisher.stats.published == 1)
    with subscribe(publisher.endpoint, newest=False, timeout_s=LIMIT_S) as masks:
        assert next(masks).seq == 5
        follow(publisher)
        masks._inbox._tracks.clear()  # stands for a mask that was lost on the way
        publisher.put(make_mask(6, same_as=5))
        assert facts(next(masks)) == (5, 0, None)
        assert facts(next(masks)) == (6, 0, 5)
        assert masks.stats.bad == 0


def test_a_relay_passes_them_from_each_of_its_daemons_and_keeps_the_last() -> None:
    any_port = PublishConfig(endpoint="tcp://127.0.0.1:*")
    with (
        Publisher(any_port, [STREET]) as first,
        Publisher(any_port, [STREET]) as second,
        relaying([first.endpoint, second.endpoint]) as relay,
    ):
        streams = {"gate": first, "yard": second}
        with subscribe(relay.endpoint, newest=False, snapshot=False, timeout_s=LIMIT_S) as masks:
            for stream, publisher in streams.items():
                follow(publisher, stream)
                for seq, same_as in FRAMES:
                    publisher.put(make_mask(seq, same_as=same_as, stream=stream))
            got = [next(masks) for _ in range(10)]
            for stream, publisher in streams.items():
                own = [m for m in got if m.stream == stream]
                assert [facts(m) for m in own] == FOLLOWED
                assert {m.run for m in own} == {publisher.run}
            assert (masks.stats.lost, masks.stats.bad) == (0, 0)
        with subscribe(relay.endpoint, newest=False, timeout_s=LIMIT_S) as late:
            got = [next(late) for _ in range(4)]
            for stream in streams:
                assert [facts(m) for m in got if m.stream == stream] == FOLLOWED[3:]


READER = """
import json, sys
import streamseg.client
from streamseg.client import subscribe
with subscribe(sys.argv[1], ["gate"], newest=False, timeout_s=180) as masks:
    print("ready", streamseg.client.__file__, flush=True)
    for mask in masks:
        print(json.dumps([mask.seq, mask.n, int(mask.labels.sum())]), flush=True)
        if mask.seq == 99:
            break
    stats = masks.stats
    print(json.dumps([stats.lost, stats.bad, stats.restarts]), flush=True)
"""


def test_a_reader_of_before_gets_every_real_mask_and_nothing_else(
    publisher: Publisher, tmp_path: Path
) -> None:
    packed = subprocess.run(
        ["git", "archive", BEFORE, "streamseg"], cwd=ROOT, capture_output=True, timeout=LIMIT_S, check=False
    )
    if packed.returncode:
        pytest.skip(f"the history of this checkout does not reach back to {BEFORE}")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(tmp_path, filter="data")
    assert not (tmp_path / "streamseg/wire/same.py").exists()
    with Lines([sys.executable, "-c", READER, publisher.endpoint], cwd=tmp_path) as reader:
        assert reader.more(0) == f"ready {tmp_path}/streamseg/client/__init__.py"
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        assert not publisher.wants("same", "gate")
        real = [seq for seq in range(100) if seq % 10 == 9]
        for seq in range(9, 100):
            publisher.put(make_mask(seq, same_as=None if seq in real else seq // 10 * 10 - 1))
        lines = [json.loads(reader.more(i)) for i in range(1, len(real) + 2)]
    expected = [[seq, n, int(make_mask(seq).labels.sum())] for n, seq in enumerate(real)]
    assert lines[:-1] == expected
    assert lines[-1] == [0, 0, 0]


@pytest.mark.slow
def test_a_minute_of_a_stream_of_which_nine_tenths_are_unchanged(publisher: Publisher) -> None:
    # A minute: what grows, and what drifts, is not seen in less.
    seconds, fps, real = 60, 30, 0

    def read(masks: Subscription, seq: int) -> Mask:
        while (mask := next(masks)).seq < seq:
            pass
        return mask

    with (
        subscribe(publisher.endpoint, timeout_s=LIMIT_S) as masks,
        subscribe(publisher.endpoint, newest=False, queue=10_000, timeout_s=LIMIT_S) as all_of_them,
    ):
        follow(publisher)
        begun, seen, late_s = time.monotonic(), 0, 0.0
        for seq in range(seconds * fps):
            if seq % 10 == 0:
                real = seq
            publisher.put(make_mask(seq, same_as=None if seq == real else real))
            if seq % 7 == 6:
                mask = read(masks, seq)
                late_s = max(late_s, masks.age_s(mask))
                seen += mask.seq == seq
                assert (mask.labels == make_mask(real).labels).all()
            time.sleep(max(0.0, begun + (seq + 1) / fps - time.monotonic()))
        last = seconds * fps - 1
        assert read(masks, last).same_as == real
        numbers = []
        while not numbers or numbers[-1][0] < last:
            mask = next(all_of_them)
            numbers.append((mask.seq, mask.n))
            assert mask.same_as == (None if mask.seq % 10 == 0 else mask.seq // 10 * 10)
        assert numbers == [(seq, seq // 10) for seq in range(seconds * fps)]
        assert seen == seconds * fps // 7
        assert late_s < 1.0
        for stats in (masks.stats, all_of_them.stats):
            assert (stats.received, stats.lost, stats.bad) == (seconds * fps, 0, 0)
            assert stats.unchanged == seconds * fps * 9 // 10
        assert len(masks._inbox._kept._masks) == 1
    assert publisher.stats.published == seconds * fps // 10
