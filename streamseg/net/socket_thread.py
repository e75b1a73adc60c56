"""A thread that opens, uses and closes sockets, and that other threads can wake and end."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

from streamseg.errors import StreamsegError
from streamseg.net.io import Loop
from streamseg.net.ipc_paths import IpcPaths


class SocketThread:
    """Runs work(self) in a thread that owns a loop and every socket that is watched by it.

    work opens its sockets, calls opened(), and then loop.poll() until `stopping`. What it opened is closed in
    reverse order when it returns or raises. start() returns when opened() was called and raises the error of
    a thread that failed before. A later error is kept for check(); on_fail is called with it, by the thread,
    when all sockets are closed. An error that is not a StreamsegError becomes explain(error), with the error
    as its cause.

    start(), run(), check() and close() belong to the owner; wake() and stop() may come from any thread and
    from a signal handler.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[SocketThread], None],
        explain: Callable[[Exception], Exception] = lambda error: error,
        on_fail: Callable[[Exception], None] | None = None,
    ) -> None:
        self.stopping = False
        self.loop = Loop()  # opened and closed by the thread
        self.wake = self.loop.wake
        """Make the running or the next poll() return. Never waits; does nothing once the thread has ended."""
        self.paths = IpcPaths(self.loop)  # that its sockets listen on; kept where they are
        self._name = name
        self._work = work
        self._explain = explain
        self._on_fail = on_fail
        self._error: Exception | None = None
        self._owned = contextlib.ExitStack()
        self._opened = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread and wait until it has opened its sockets; raises what kept it from that."""
        self._thread = threading.Thread(target=self._live, name=self._name, daemon=True)
        self._thread.start()
        self._opened.wait()
        self.check()

    def run(self) -> None:
        """Do the same in the calling thread, until stop(); raises what work raised."""
        self._live()
        self.check()

    def stop(self) -> None:
        """Ask the thread to end; returns at once."""
        self.stopping = True
        self.wake()

    def close(self) -> None:
        """End the thread, and wait for it. Closing twice is fine, and so is closing what was not started."""
        self.stop()
        if self._thread is not None:
            self._thread.join()

    def check(self) -> None:
        """Raise the error that ended the thread, if one did."""
        if self._error is not None:
            raise self._error

    def on_close(self, callback: Callable[..., object], *args: Any, **options: Any) -> None:
        """Call this when the thread ends, before what was opened earlier is closed; check() then raises."""
        self._owned.callback(callback, *args, **options)

    def opened(self) -> None:
        """Let start() return: the sockets are bound or connected."""
        self._opened.set()

    def _live(self) -> None:
        # Inside, so that the callbacks of on_close() find the error; and outside, for what fails in closing.
        with self._keep_error(), contextlib.ExitStack() as self._owned, self._keep_error():
            self.loop.open()
            self.on_close(self.loop.close)
            self.on_close(self.paths.close)
            self._work(self)
        had_opened = self._opened.is_set()
        self._opened.set()
        if self._error is not None and had_opened and self._on_fail is not None:
            self._on_fail(self._error)

    @contextlib.contextmanager
    def _keep_error(self) -> Iterator[None]:
        try:
            yield
        except StreamsegError as error:
            self._error = self._error or error
        except Exception as error:  # noqa: BLE001 - handed on, to check() and to on_fail
            explained = self._explain(error)
            if explained is not error:
                explained.__cause__ = error
            self._error = self._error or explained
