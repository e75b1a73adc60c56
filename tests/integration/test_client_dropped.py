"""Connections that nobody closed end when nobody refers to them: their threads, files and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from operator import le

import pytest

from streamseg.client import subscribe, subscribe_async
from streamseg.client.control import ControlClient
from streamseg.config import PublishConfig
from streamseg.errors import ControlError, StreamsegError
from streamseg.publish import Publisher
from streamseg.types import Mask
from tests.masks import STREET, make_mask
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

TIMES = 3
NOBODY = f"tcp://127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*", queue=100), [STREET]) as publisher:
        publisher.put(make_mask(3))
        yield publisher.endpoint


def read_once(endpoint: str) -> None:
    next(iter(subscribe(endpoint, timeout_s=LIMIT_S)))


def nobody_there(_: str) -> None:
    subscribe(NOBODY)


def a_generator_left_early(endpoint: str) -> None:
    def masks() -> Iterator[Mask]:
        with subscribe(endpoint, timeout_s=LIMIT_S) as found:
            yield from found

    next(masks())


def a_loop_that_failed(endpoint: str) -> None:
    with contextlib.suppress(KeyError):
        for mask in subscribe(endpoint, timeout_s=LIMIT_S):
            raise KeyError(mask.stream)


def a_cycle(endpoint: str) -> None:
    class Robot:
        def __init__(self) -> None:
            self.masks = subscribe(endpoint, timeout_s=LIMIT_S)
            self.itself = self

    next(Robot().masks)


def another_thread(endpoint: str) -> None:
    thread = threading.Thread(target=read_once, args=(endpoint,))
    thread.start()
    thread.join(LIMIT_S)


def made_in_vain(endpoint: str) -> None:
    keys = {"server_key": "x" * 40, "client_key_file": "/nowhere/robot.key"}
    for where, snapshot, options in (
        ("nonsense", True, {}),
        (endpoint, "nonsense", {}),
        ("tcp://127.0.0.1", True, {}),
        (endpoint, True, keys),
    ):
        with pytest.raises(StreamsegError):
            subscribe(where, snapshot=snapshot, **options)  # type: ignore[arg-type]


def asyncio_loop(endpoint: str) -> None:
    async def main() -> None:
        async for _ in subscribe_async(endpoint, timeout_s=LIMIT_S):
            break

    asyncio.run(main())


def asyncio_generator(endpoint: str) -> None:
    async def masks() -> AsyncIterator[Mask]:
        async for mask in subscribe_async(endpoint, timeout_s=LIMIT_S):
            yield mask

    async def main() -> None:
        await anext(masks())

    asyncio.run(main())


def asyncio_task_cancelled(_: str) -> None:
    async def main() -> None:
        masks = subscribe_async(NOBODY)
        task = asyncio.create_task(anext(masks))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    asyncio.run(main())


def control_in_vain(_: str) -> None:
    with pytest.raises(ControlError, match="no answer"):
        ControlClient(NOBODY, timeout_s=0.01).status()
    for where in ("nonsense", "ipc:///nowhere/control"):
        with pytest.raises(StreamsegError):
            ControlClient(where)


WAYS: list[Callable[[str], None]] = [
    read_once, nobody_there, a_generator_left_early, a_loop_that_failed, a_cycle, another_thread,
    made_in_vain, asyncio_loop, asyncio_generator, asyncio_task_cancelled, control_in_vain,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_what_was_dropped_ends(way: Callable[[str], None], endpoint: str) -> None:
    before = files_and_threads()
    for _ in range(TIMES):
        way(endpoint)
    until(lambda: all(map(le, files_and_threads(), before)), f"{before} files and threads again")


def files_and_threads() -> tuple[int, int]:
    gc.collect()
    return len(os.listdir("/proc/self/fd")), threading.active_count()
