"""A slow reader sees fresh masks; one that stands still harms nobody; memory stays flat at both ends.

STREAMSEG_FRESHNESS_S=60 makes each of them the one-minute form.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from streamseg.client import subscribe
from tests.integration.children import HeldUp, child
from tests.waiting import LIMIT_S

SECONDS = float(os.environ.get("STREAMSEG_FRESHNESS_S", "6"))
FLAT = 16 << 20  # bytes: a few masks of 2 MB more or less wait at a time

pytestmark = [pytest.mark.slow, pytest.mark.alone, pytest.mark.timeout(120 + 3 * SECONDS)]


def assert_flat(rss: list[int]) -> None:
    """The last third uses no more than the middle one (the first is start-up)."""
    third = len(rss) // 3
    assert third > 3
    assert max(rss[2 * third :]) - max(rss[third : 2 * third]) < FLAT


def overdue_ms(published: dict[str, Any], read: dict[str, Any]) -> float:
    """How long, at worst, a newer mask had been published when an older one was handed out.

    Compared with what the publisher had really sent by then. Time in which a busy machine let one of the two
    processes not run at all, in the two seconds before, is taken off: what is left is due to waiting masks.
    """
    sent: list[int] = published["put_unix_ns"]
    held_up: list[tuple[int, int]] = published["held_up"] + read["held_up"]
    worst = 0
    for at, seq in read["read"]:
        if seq + 1 < len(sent) and sent[seq + 1] < at:
            excused = sum(late for when, late in held_up if at - 2_000_000_000 < when < at + 500_000_000)
            worst = max(worst, at - sent[seq + 1] - excused)
    return worst / 1e6


@pytest.mark.parametrize(
    ("size", "transport"),
    [((100, 200), "tcp"), ((1080, 1920), "tcp"), ((1080, 1920), "ipc")],
    ids=["20KB-tcp", "2MB-tcp", "2MB-ipc"],
)
def test_a_reader_of_200_ms_sees_masks_no_older_than_250(
    size: tuple[int, int], transport: str, tmp_path: Any
) -> None:
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/masks"
    with (
        child("publish_child", endpoint, 30, *size) as publisher,
        child("read_child", publisher.says, 0.2) as reader,
    ):
        time.sleep(SECONDS)
        read = reader.end()
        published = publisher.end()
    assert len(read["read"]) > SECONDS
    seqs = [seq for _, seq in read["read"]]
    assert seqs == sorted(set(seqs))
    assert overdue_ms(published, read) <= 250
    assert read["stats"]["skipped"] > len(read["read"])
    assert_flat(read["rss"])
    assert_flat(published["rss"])


def test_a_stalled_reader_neither_slows_nor_grows_the_publisher_nor_the_others() -> None:
    with (
        child("publish_child", "tcp://127.0.0.1:*", 30, 1080, 1920) as publisher,
        child("read_child", publisher.says, 0.0) as stalled,
        subscribe(publisher.says, ["gate"], timeout_s=LIMIT_S) as masks,
    ):
        held_up = HeldUp()
        next(masks)
        stalled.process.send_signal(signal.SIGSTOP)
        stopped_ns = time.time_ns()
        deadline = time.monotonic() + SECONDS
        read = []
        while time.monotonic() < deadline:
            mask = next(masks)
            read.append((time.time_ns(), mask.seq))
        woken_ns = time.time_ns()
        stalled.process.send_signal(signal.SIGCONT)
        time.sleep(4)  # longer than the two seconds in which being held up excuses
        late = stalled.end()
        published = publisher.end()
    assert len(read) > SECONDS * 5
    assert overdue_ms(published, {"read": read, "held_up": held_up.times}) <= 250
    assert published["slowest_put_s"] < 1 + max((late for _, late in published["held_up"]), default=0) / 1e9
    assert_flat(published["rss"])
    asleep = [at for at, _ in late["read"] if stopped_ns + 5e8 < at < woken_ns]
    assert not asleep
    assert late["read"][-1][0] > woken_ns
    assert overdue_ms(published, late | {"read": late["read"][-1:]}) <= 250  # it is up to date again
