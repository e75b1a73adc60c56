"""Receive what is counted and outlined in masks: the newest document of each stream.

with subscribe_polygons("tcp://127.0.0.1:5570", ["gate"]) as polygons:
    for document in polygons:
        for polygon in document.polygons:
            print(document.stream, document.seq, polygon.name, polygon.area, polygon.rings[0])

The daemon makes them while somebody subscribes. subscribe_zones() is the same for shares of zones.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from streamseg.client.receiver import Receiver
from streamseg.errors import WireError
from streamseg.net.curve_keys import ClientKeys, client_keys
from streamseg.runtime.mailbox import Closed
from streamseg.wire import PolygonsDocument, ZonesDocument, parse_polygons, parse_zones

MAX_STREAMS = 4096  # that a subscriber keeps; more can only be an attack

D = TypeVar("D", ZonesDocument, PolygonsDocument)


@dataclass(slots=True)
class DocumentStats:
    """Counted since the subscription began."""

    received: int = 0
    skipped: int = 0  # that a newer one replaced before they were read
    bad: int = 0  # messages that break the protocol


def subscribe_zones(
    endpoint: str,
    streams: Sequence[str] | None = None,
    *,
    timeout_s: float | None = None,
    server_key: str | Path | None = None,
    client_key_file: str | Path | None = None,
    keys: ClientKeys | None = None,
) -> DocumentSubscription[ZonesDocument]:
    """Receive the shares of these streams' zones (all, when None). The arguments are those of subscribe()."""
    found = keys or client_keys(server_key, client_key_file)
    return DocumentSubscription(endpoint, "zones", parse_zones, streams, timeout_s, found)


def subscribe_polygons(
    endpoint: str,
    streams: Sequence[str] | None = None,
    *,
    timeout_s: float | None = None,
    server_key: str | Path | None = None,
    client_key_file: str | Path | None = None,
    keys: ClientKeys | None = None,
) -> DocumentSubscription[PolygonsDocument]:
    """Receive the outlines of these streams' regions (all, when None), as subscribe_zones() does shares."""
    found = keys or client_keys(server_key, client_key_file)
    return DocumentSubscription(endpoint, "polygons", parse_polygons, streams, timeout_s, found)


class _Newest(Generic[D]):
    """The newest document of each stream, on its way from the receiver's thread to a reader's."""

    def __init__(self, parse: Callable[[Sequence[bytes]], D]) -> None:
        self.stats = DocumentStats()
        self._parse: Callable[[Sequence[bytes]], D] = parse
        self._waiting: dict[str, Sequence[bytes]] = {}  # by topic; who has waited longest is first
        self._closed = False
        self._changed = threading.Condition()  # guards the two above, and _arrived
        self._arrived: Callable[[], None] | None = None  # tells an event loop

    def put(self, parts: Sequence[bytes], *, snapshot: bool = False) -> None:
        topic = parts[0].decode("utf-8", "replace") if parts else ""
        with self._changed:
            self.stats.received += 1
            if topic not in self._waiting and len(self._waiting) >= MAX_STREAMS:
                self.stats.bad += 1
                return
            self.stats.skipped += topic in self._waiting
            self._waiting[topic] = parts  # which keeps its place in the line
            self._tell()

    def put_snapshot(self, messages: Sequence[Sequence[bytes]]) -> None:
        for parts in messages:
            self.put(parts, snapshot=True)

    def put_bad(self) -> None:
        self.stats.bad += 1

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._tell()

    def take(self, timeout_s: float | None) -> D:
        """The next document; raises Closed, or TimeoutError after timeout_s."""
        while True:
            with self._changed:
                if not self._changed.wait_for(lambda: self._waiting or self._closed, timeout_s):
                    raise TimeoutError("none came")
                if not self._waiting:
                    raise Closed
                parts = self._waiting.pop(next(iter(self._waiting)))
            try:
                return self._parse(parts)  # in the reader's own time
            except WireError:
                self.stats.bad += 1

    def tell(self, arrived: Callable[[], None]) -> None:
        with self._changed:
            self._arrived = arrived

    def _tell(self) -> None:
        self._changed.notify_all()
        if self._arrived is not None:
            with contextlib.suppress(RuntimeError):  # the loop has closed, so there is no reader any more
                self._arrived()


class DocumentSubscription(Generic[D]):
    """An iterator of documents, for `for` and `async for`, and a context manager of both kinds.

    Reading waits; it ends when close() is called.
    """

    def __init__(
        self,
        endpoint: str,
        kind: str,
        parse: Callable[[Sequence[bytes]], D],
        streams: Sequence[str] | None,
        timeout_s: float | None,
        keys: ClientKeys | None,
    ) -> None:
        topics = [f"{kind}/".encode()] if streams is None else [f"{kind}/{s}/".encode() for s in streams]
        self._newest: _Newest[D] = _Newest(parse)
        self._receiver = Receiver(endpoint, topics, False, self._newest, keys)
        self._kind, self._timeout_s = kind, timeout_s
        weakref.finalize(self, self._receiver.stop).atexit = False  # as that of masks

    @property
    def endpoint(self) -> str:
        return self._receiver.endpoint

    @property
    def stats(self) -> DocumentStats:
        return self._newest.stats

    @property
    def connected(self) -> bool:
        """Whether the daemon is connected now."""
        return self._receiver.connected

    def read(self, timeout_s: float | None = None) -> D:
        """The next document; raises TimeoutError after timeout_s, Closed once closed and empty."""
        try:
            return self._newest.take(timeout_s)
        except TimeoutError as error:
            raise TimeoutError(self._none_came(timeout_s)) from error
        except Closed:
            self._receiver.check()
            raise

    async def read_async(self, timeout_s: float | None = None) -> D:
        """read() for asyncio."""
        loop, arrived = asyncio.get_running_loop(), asyncio.Event()

        def tell() -> None:
            loop.call_soon_threadsafe(arrived.set)

        self._newest.tell(tell)
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    arrived.clear()  # before looking, so that nothing is missed in between
                    with contextlib.suppress(TimeoutError):
                        return self.read(0)
                    await arrived.wait()
        except TimeoutError as error:
            raise TimeoutError(self._none_came(timeout_s)) from error

    def close(self) -> None:
        """Stop receiving; a reader that waits is woken, and reading ends. Closing twice is fine."""
        self._receiver.close()

    def __enter__(self) -> DocumentSubscription[D]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aenter__(self) -> DocumentSubscription[D]:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[D]:
        return self

    def __next__(self) -> D:
        try:
            return self.read(self._timeout_s)
        except Closed:
            raise StopIteration from None

    def __aiter__(self) -> DocumentSubscription[D]:
        return self

    async def __anext__(self) -> D:
        try:
            return await self.read_async(self._timeout_s)
        except Closed:
            raise StopAsyncIteration from None

    def _none_came(self, timeout_s: float | None) -> str:
        return f"{self.endpoint}: no {self._kind} came for {timeout_s or 0:g} s"
