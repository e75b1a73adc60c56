"""The asyncio form of the subscription against the real daemon: fresh, through a restart, many at once."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
from pathlib import Path

from streamseg.client import AsyncSubscription, subscribe_async
from streamseg.config import PublishConfig
from streamseg.publish import Publisher
from streamseg.runtime.mailbox import Closed
from streamseg.types import Mask
from tests.integration.children import ROOT
from tests.integration.daemons import Lines, run_daemon
from tests.masks import STREET, make_mask
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, until


def words(tiny_engine: Path, tmp_path: Path, endpoint: str, *, streams: int = 1) -> list[str | Path]:
    clip = draw_clip(tmp_path / "red.mp4", frames=30)
    return [
        *["--source", clip] * streams,
        *("--engine", tiny_engine, "--realtime", "--loop", "--endpoint", endpoint),
    ]


async def take(masks: AsyncSubscription, count: int) -> list[Mask]:
    return [await masks.read(LIMIT_S) for _ in range(count)]


def test_a_reader_that_blocks_its_event_loop_gets_the_newest_of_each_stream(
    tiny_engine: Path, tmp_path: Path
) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"

    got: list[Mask] = []

    def newer(masks: AsyncSubscription, stream: str) -> int:
        """How many masks of a stream have come since one of them was handed out."""
        latest = masks.latest(stream)
        last = next((mask.n for mask in reversed(got) if mask.stream == stream), None)
        return (
            0 if latest is None else latest.n - (first.setdefault(stream, latest.n) if last is None else last)
        )

    first: dict[str, int] = {}

    async def read() -> None:
        async with subscribe_async(endpoint, timeout_s=LIMIT_S) as masks:
            async for mask in masks:
                got.append(mask)
                # Stands for slow work, in the wrong place on purpose.
                until(lambda: all(newer(masks, stream) > 10 for stream in ("video0", "video1")))
                if len(got) == 8:
                    break
            assert masks.stats.skipped >= 20
            assert masks.stats.lost == 0

    with run_daemon(*words(tiny_engine, tmp_path, endpoint, streams=2)):
        asyncio.run(read())
    assert [m.stream for m in got[-4:]] in (["video0", "video1"] * 2, ["video1", "video0"] * 2)
    assert min((b.n - a.n) for a, b in zip(got[-4:], got[-2:], strict=False)) > 5


def test_a_restart_of_the_daemon_is_followed(tiny_engine: Path, tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"

    async def follow() -> None:
        async with subscribe_async(endpoint) as masks:
            first = await asyncio.to_thread(run_daemon, *words(tiny_engine, tmp_path, endpoint))
            try:
                before = await take(masks, 5)
            finally:
                await asyncio.to_thread(first.kill)
            second = await asyncio.to_thread(run_daemon, *words(tiny_engine, tmp_path, endpoint))
            try:
                async with asyncio.timeout(LIMIT_S):
                    while (await masks.read(LIMIT_S)).run == before[-1].run:
                        pass
                after = await take(masks, 5)
            finally:
                await asyncio.to_thread(second.kill)
            assert len({m.run for m in after}) == 1
            assert (masks.stats.restarts, masks.stats.bad) == (1, 0)

    asyncio.run(follow())


def test_several_subscriptions_share_an_event_loop_and_a_cancelled_wait_harms_none(
    tiny_engine: Path, tmp_path: Path
) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"

    async def read() -> None:
        async with subscribe_async(endpoint) as masks, subscribe_async(endpoint) as others:
            for _ in range(20):
                waiting = asyncio.ensure_future(masks.read(LIMIT_S))
                await asyncio.sleep(0)
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            got = await asyncio.gather(take(masks, 5), take(others, 5))
            assert [len(one) for one in got] == [5, 5]
            assert (await masks.label_set("tiny-4", LIMIT_S)).names == ("other", "red", "green", "blue")

    with run_daemon(*words(tiny_engine, tmp_path, endpoint)):
        asyncio.run(read())


def test_the_example_prints_masks(tiny_engine: Path, tmp_path: Path) -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with (
        run_daemon(*words(tiny_engine, tmp_path, endpoint)),
        Lines([sys.executable, ROOT / "examples/subscribe_async.py", endpoint]) as program,
    ):
        assert program.more(3).startswith("video ")


def test_a_loop_that_is_left_early_leaves_the_subscription_open_until_nobody_refers_to_it() -> None:
    async def read(endpoint: str) -> None:
        masks = subscribe_async(endpoint, timeout_s=LIMIT_S)
        for _ in range(2):
            async for mask in masks:
                assert mask.stream == "gate"
                break
            publisher.put(make_mask())
        thread = masks._receiver
        del masks
        gc.collect()
        with contextlib.suppress(Closed):  # behind what it still holds; TimeoutError if it never ends
            while True:
                thread._inbox.take(LIMIT_S)

    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher:
        publisher.put(make_mask())
        asyncio.run(read(publisher.endpoint))
