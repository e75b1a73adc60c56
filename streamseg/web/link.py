"""The control client for an event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from streamseg.client.control import ControlClient
from streamseg.errors import ControlError, StreamsegError
from streamseg.wire.control import Status

T = TypeVar("T")

TIMEOUT_S = 3.0
MAX_WAITING = 32  # requests of pages, each of which may take TIMEOUT_S


class Link:
    """Owns a ControlClient, in a thread of its own: a ControlClient belongs to one thread, and waits.

    All that it asks for is asked for remotely: a page is not the daemon's own user. With remote=False it is
    for what this process asks for by itself.
    """

    def __init__(self, endpoint: str, *, timeout_s: float = TIMEOUT_S, remote: bool = True) -> None:
        self._endpoint, self._timeout_s, self._remote = endpoint, timeout_s, remote
        self._client: ControlClient | None = None  # of the thread
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="control")
        self._waiting = 0  # calls of ask()
        self._status: Status | ControlError | None = None
        self._status_s = 0.0
        self._asking = asyncio.Lock()  # guards _status: one request at a time, shared by all who wait

    async def ask(self, what: Callable[[ControlClient], T]) -> T:
        """Call what(client) in the thread; raises ControlError, also where no daemon answers."""
        if self._waiting >= MAX_WAITING:
            raise ControlError("no answer", f"{MAX_WAITING} requests wait for the daemon already")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._ask, what)
        finally:
            self._waiting -= 1

    async def status(self, max_age_s: float) -> Status:
        """The daemon's status, or that it does not answer, at most max_age_s old; raises ControlError."""
        async with self._asking:
            if self._status is None or time.monotonic() - self._status_s > max_age_s:
                try:
                    self._status = await self.ask(lambda daemon: daemon.status())
                except ControlError as error:
                    self._status = error
                self._status_s = time.monotonic()
            if isinstance(self._status, ControlError):
                raise ControlError(self._status.code, *self._status.problems)
            return self._status

    async def close(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._forget)
        self._thread.shutdown()

    def _ask(self, what: Callable[[ControlClient], T]) -> T:
        try:
            if self._client is None:
                self._client = ControlClient(self._endpoint, timeout_s=self._timeout_s, remote=self._remote)
            return what(self._client)
        except ControlError:
            raise
        except StreamsegError as error:
            self._forget()
            raise ControlError("no answer", str(error)) from error

    def _forget(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
