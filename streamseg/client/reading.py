"""The two forms of reading what a receiver's thread brings: for threads and for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

from streamseg.client.receiver import Receiver
from streamseg.runtime.mailbox import Closed

T = TypeVar("T")


class Reading(ABC, Generic[T]):
    """What both forms have in common."""

    def __init__(self, receiver: Receiver, timeout_s: float | None) -> None:
        self._receiver = receiver
        self._timeout_s = timeout_s
        # One that nobody refers to any more is ended, so that its thread does not receive for ever. Without
        # waiting for it: this may be called in any thread at any moment, with locks that the thread needs.
        weakref.finalize(self, receiver.stop).atexit = False

    @property
    def endpoint(self) -> str:
        return self._receiver.endpoint

    @property
    def connected(self) -> bool:
        """Whether the daemon is connected now."""
        return self._receiver.connected

    def close(self) -> None:
        """Stop receiving; a reader that waits is woken, and reading ends. Closing twice is fine."""
        self._receiver.close()

    @abstractmethod
    def _take(self, timeout_s: float | None) -> T:
        """The next one; raises Closed, or TimeoutError after timeout_s."""

    @abstractmethod
    def _none_came(self, timeout_s: float | None) -> str:
        """What is said when nothing came within timeout_s."""


class ThreadReading(Reading[T]):
    """An iterator, and a context manager. Reading waits; it ends when close() is called."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        try:
            return self.read(self._timeout_s)
        except Closed:
            raise StopIteration from None

    def read(self, timeout_s: float | None = None) -> T:
        """The next one; raises TimeoutError after timeout_s, Closed once closed and empty."""
        try:
            return self._take(timeout_s)
        except TimeoutError as error:
            raise TimeoutError(self._none_came(timeout_s)) from error
        except Closed:
            self._receiver.check()
            raise


class AsyncReading(Reading[T]):
    """The same for `async for`; `async with` closes it at a known moment. Belongs to one event loop."""

    _arrived: asyncio.Event

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        """The next one, until closed. A loop that is left early leaves the subscription as it is."""
        try:
            return await self.read(self._timeout_s)
        except Closed:
            raise StopAsyncIteration from None

    async def read(self, timeout_s: float | None = None) -> T:
        """The next one; raises TimeoutError after timeout_s, Closed once closed and empty."""
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    self._arrived.clear()  # before looking, so that nothing is missed in between
                    with contextlib.suppress(TimeoutError):
                        return self._take(0)
                    await self._arrived.wait()
        except TimeoutError as error:
            raise TimeoutError(self._none_came(timeout_s)) from error
        except Closed:
            self._receiver.check()
            raise


def arrivals() -> tuple[asyncio.Event, Callable[[], None]]:
    """An event of the running loop, and what sets it from any thread, also when the loop has closed."""
    loop, arrived = asyncio.get_running_loop(), asyncio.Event()

    def on_arrival() -> None:
        with contextlib.suppress(RuntimeError):  # the loop has closed, so there is no reader any more
            loop.call_soon_threadsafe(arrived.set)

    return arrived, on_arrival
