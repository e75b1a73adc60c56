"""polygons/<stream>/ of a whole daemon: the outlines of the very masks that it publishes, and its client."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from streamseg.analytics.regions import fill
from streamseg.client import subscribe, subscribe_polygons, subscribe_zones
from streamseg.config import Config, EngineConfig, PublishConfig, StreamConfig
from streamseg.daemon import Daemon
from streamseg.publish import Publisher
from streamseg.runtime.mailbox import Closed
from streamseg.types import IGNORE, Mask
from streamseg.wire import PolygonsDocument
from tests.integration.daemons import in_thread
from tests.masks import STREET, make_mask
from tests.vectors.make_vectors import example_polygons
from tests.waiting import LIMIT_S, until


@pytest.fixture(scope="module")
def daemon(tiny_engine: Path) -> Iterator[Daemon]:
    one = Daemon(
        Config(
            streams={"gate": StreamConfig(source="demo:", loop=True, realtime=True, max_fps=10)},
            engine=EngineConfig(name=str(tiny_engine), threads=1),
            publish=PublishConfig(endpoint="tcp://127.0.0.1:0", queue=1000),
        )
    )
    with in_thread(one):
        assert one.ready.wait(LIMIT_S)
        yield one


def test_outlines_of_a_daemon_filled_again_are_its_masks(daemon: Daemon) -> None:
    compared = 0
    with (
        subscribe(daemon.endpoint, newest=False, queue=500) as masks,
        subscribe_polygons(daemon.endpoint, ["gate"], timeout_s=LIMIT_S) as polygons,
    ):
        seen: dict[int, Mask] = {}
        for document in polygons:
            while not seen or max(seen) < document.n:
                mask = masks.read(LIMIT_S)
                seen[mask.n] = mask
            if document.n not in seen:  # it was before our first mask
                continue
            mask = seen[document.n]
            assert (document.seq, document.run, document.epoch, document.pts) == (
                mask.seq,
                mask.run,
                mask.epoch,
                mask.pts,
            )
            assert (document.shape, document.label_set) == (mask.size, mask.label_set)
            again = np.full(mask.size, IGNORE, np.uint8)
            for polygon in document.polygons:
                again[fill(polygon.rings, mask.size)] = polygon.id
            assert document.left_out == 0
            assert (again == mask.labels).mean() >= 0.99
            compared += 1
            if compared == 5:
                break
    with subscribe_zones(daemon.endpoint, timeout_s=LIMIT_S) as zones:
        (picture,) = next(iter(zones)).zones
        assert picture.zone == "picture"


def test_nobody_asks_and_nothing_is_made(daemon: Daemon) -> None:
    assert daemon.publisher is not None
    publisher = daemon.publisher
    until(lambda: not publisher.wants("polygons", "gate") and not publisher.wants("zones", "gate"))
    before = publisher.stats.documents
    n = publisher.stats.published
    until(lambda: publisher.stats.published > n + 3)
    assert publisher.stats.documents <= before + 1


def sent(publisher: Publisher, seq: int, stream: str = "gate") -> None:
    """Publish a mask and its polygons, which then have its number."""
    mask = make_mask(seq, stream=stream)
    publisher.put(mask)
    publisher.put(msgspec.structs.replace(example_polygons(mask), stream=stream))


def test_a_slow_reader_gets_the_newest_of_each_stream() -> None:
    with (
        Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher,
        subscribe_polygons(publisher.endpoint, timeout_s=LIMIT_S) as polygons,
    ):
        until(lambda: publisher.wants("polygons", "gate"))
        for seq in range(10):
            for stream in ("gate", "yard"):
                sent(publisher, seq, stream)
        until(lambda: polygons.stats.received == 20)
        found = [next(polygons) for _ in range(2)]
        assert {one.stream: one.seq for one in found} == {"gate": 9, "yard": 9}
        assert (polygons.stats.skipped, polygons.stats.bad) == (18, 0)
        with pytest.raises(TimeoutError, match=r"no polygons came for 0.05 s"):
            polygons.read(0.05)
        threading.Timer(0.05, polygons.close).start()
        with pytest.raises(Closed):
            polygons.read()
        assert list(polygons) == []


def test_asyncio_reads_the_same() -> None:
    async def read(endpoint: str, ready: threading.Event) -> list[PolygonsDocument]:
        async with subscribe_polygons(endpoint, ["gate"], timeout_s=LIMIT_S) as polygons:
            ready.set()
            found = []
            async for document in polygons:
                found.append(document)
                if document.seq == 2:
                    break
            with pytest.raises(TimeoutError):
                await polygons.read_async(0.05)
            return found

    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher:
        ready = threading.Event()

        def publish() -> None:
            assert ready.wait(LIMIT_S)
            until(lambda: publisher.wants("polygons", "gate"))
            for seq in range(3):
                sent(publisher, seq)

        thread = threading.Thread(target=publish)
        thread.start()
        found = asyncio.run(read(publisher.endpoint, ready))
        thread.join()
    assert found[-1].seq == 2
    assert [one.seq for one in found] == sorted(one.seq for one in found)
    gc.collect()
