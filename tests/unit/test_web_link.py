"""What the console asks the daemon, where that answers nothing."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import zmq

from streamseg.errors import ControlError

pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")

from streamseg.web.link import MAX_WAITING, Link


def test_all_who_wait_for_the_status_share_one_request(tmp_path: Path) -> None:
    """Takes as long as they wait."""
    endpoint = f"ipc://{tmp_path}/control"

    async def ask() -> list[object]:
        health = Link(endpoint, timeout_s=1.5)
        try:
            return await asyncio.gather(*(health.status(60.0) for _ in range(20)), return_exceptions=True)
        finally:
            await health.close()

    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:
        silent.bind(endpoint)
        answers = asyncio.run(ask())
        requests = 0
        while silent.poll(0):
            silent.recv_multipart()
            requests += 1
    assert requests == 1
    assert [str(answer) for answer in answers] == [f"{endpoint}: no answer in 1.5 s"] * 20


def test_more_requests_than_can_wait_are_refused_at_once(tmp_path: Path) -> None:
    async def ask() -> list[object]:
        pages = Link(f"ipc://{tmp_path}/control", timeout_s=0.02)
        try:
            asked = (pages.ask(lambda daemon: daemon.pause("gate")) for _ in range(MAX_WAITING + 5))
            return await asyncio.gather(*asked, return_exceptions=True)
        finally:
            await pages.close()

    with zmq.Context() as context, context.socket(zmq.ROUTER) as silent:
        silent.bind(f"ipc://{tmp_path}/control")
        answers = asyncio.run(ask())
    assert all(isinstance(answer, ControlError) for answer in answers)
    assert sum("requests wait for the daemon already" in str(answer) for answer in answers) == 5
