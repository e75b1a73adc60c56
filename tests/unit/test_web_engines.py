"""A page that chooses a network is always answered, and only what it may choose is fetched."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, cast

import msgspec
import pytest

from streamseg.client.control import ControlClient
from streamseg.errors import ControlError
from streamseg.inference.engine_folders import RELEASED_ENGINES
from streamseg.wire.control import Status
from tests.unit.test_web import status as status_of
from tests.waiting import LIMIT_S

pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")
pytest.importorskip("prometheus_client", reason="pip install 'streamseg[web]'")

from streamseg.web.engines import Fetcher, choices
from streamseg.web.server import Console
from streamseg.web.setup import WebSetup
from streamseg.web.viewer import Do, Viewer

NAME = RELEASED_ENGINES[0]


class Daemon:
    """Stands in for the links to a daemon: its status, and a refusal of whatever is asked for."""

    def __init__(self, status: Status) -> None:
        self._status = status

    async def status(self, max_age_s: float) -> Status:
        return self._status

    async def ask(self, what: Callable[[ControlClient], Any]) -> Any:
        raise ControlError("refused", "by the daemon")


class Page:
    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any]) -> None:
        self.got.append(message)


def asked(monkeypatch: pytest.MonkeyPatch, fetch: Callable[[str], None], stream: str, *sections: str) -> Any:
    """The problems that a page is told which chooses the released network for a stream."""
    monkeypatch.setattr("streamseg.web.engines._fetch", fetch)
    console, page = Console(WebSetup(listen="127.0.0.1:0", control="ipc:///nowhere")), Page()
    daemon: Any = Daemon(msgspec.structs.replace(status_of(), engine_names=["default", *sections]))
    console._health = console._loading = daemon
    do = Do(id=1, what="engine", stream=stream, settings={"engine": NAME})
    asyncio.run(asyncio.wait_for(console._do(cast(Viewer, page), do), LIMIT_S))
    (message,) = page.got
    return message["problems"]


@pytest.mark.parametrize(
    ("stream", "sections", "fetched"), [("gate", (), [NAME]), ("gate", (NAME,), []), ("yard", (), [])]
)
def test_only_what_is_missing_is_fetched_for_a_stream_that_is_there(
    monkeypatch: pytest.MonkeyPatch, stream: str, sections: tuple[str, ...], fetched: list[str]
) -> None:
    got: list[str] = []
    assert asked(monkeypatch, got.append, stream, *sections) == ["by the daemon"]
    assert got == fetched
    offered = [
        one["text"]
        for one in choices(msgspec.structs.replace(status_of(), engine_names=list(sections)))
        if one["name"] == NAME
    ]
    assert len(offered) == 1
    assert ("a download of" in offered[0]) == (not sections)


def test_a_page_is_told_what_the_disk_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(name: str) -> None:
        raise PermissionError(13, "Permission denied", "/cache")

    assert asked(monkeypatch, fetch, "gate") == ["[Errno 13] Permission denied: '/cache'"]


def test_all_who_ask_for_a_network_share_its_download_and_nothing_else_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetched, go_on = [], threading.Event()

    def fetch(name: str) -> None:
        fetched.append(name)
        assert go_on.wait(LIMIT_S)

    async def run() -> None:
        fetcher = Fetcher()
        waiting = [asyncio.create_task(fetcher.fetch(NAME)) for _ in range(50)]
        for _ in range(50):
            await asyncio.wait_for(asyncio.to_thread(lambda: None), LIMIT_S)
        waiting.pop().cancel()  # a page that goes away takes the download from nobody
        go_on.set()
        await asyncio.wait_for(asyncio.gather(*waiting), LIMIT_S)
        assert fetched == [NAME]
        await asyncio.wait_for(fetcher.fetch(NAME), LIMIT_S)
        fetcher.close()

    monkeypatch.setattr("streamseg.web.engines._fetch", fetch)
    asyncio.run(run())
    assert fetched == [NAME, NAME]
