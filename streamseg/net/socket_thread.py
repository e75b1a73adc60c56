"""A thread that opens, uses and closes ZeroMQ sockets, and that other threads can wake and end."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from streamseg.errors import StreamsegError
from streamseg.net.ipc_paths import IpcPaths

Ready = dict[Any, int]
"""What poll() found: socket or file descriptor → events."""


class SocketThread:
    """Runs work(self) in a thread that owns a ZeroMQ context and every socket made by socket().

    work opens its sockets, calls opened(), and serves until `stopping`. What it opened is closed in
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
        self.context: zmq.Context[zmq.Socket[bytes]]  # made and ended by the thread
        self._name = name
        self._work = work
        self._explain = explain
        self._on_fail = on_fail
        self._error: Exception | None = None
        self.paths = IpcPaths()  # that its sockets listen on; poll() keeps them where they are
        self._owned = contextlib.ExitStack()
        self._opened = threading.Event()
        self._thread: threading.Thread | None = None
        self._wake_lock = threading.RLock()  # guards _wake_fd; a signal may come while it is held
        self._wake_fd = -1

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

    def wake(self) -> None:
        """Make the running or the next poll() return. Never waits; does nothing once the thread has ended."""
        with self._wake_lock:
            if self._wake_fd >= 0:
                os.eventfd_write(self._wake_fd, 1)

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

    def socket(self, kind: int, linger_ms: int = 0) -> zmq.Socket[bytes]:
        """Make a socket; at the end it is closed, and up to linger_ms go to what it has still to send."""
        sock = self.context.socket(kind)
        self.on_close(sock.close, linger=linger_ms)
        return sock

    def on_close(self, callback: Callable[..., object], *args: Any, **options: Any) -> None:
        """Call this when the thread ends, before what was opened earlier is closed; check() then raises."""
        self._owned.callback(callback, *args, **options)

    def opened(self) -> None:
        """Let start() return: the sockets are bound or connected."""
        self._opened.set()

    def poller(self, *sources: zmq.Socket[bytes]) -> zmq.Poller:
        """A poller for what arrives on these sockets, and for wake()."""
        poller = zmq.Poller()
        for source in (self._wake_fd, *sources):
            poller.register(source, zmq.POLLIN)
        return poller

    def poll(self, poller: zmq.Poller, timeout_ms: int | None = None) -> Ready:
        """Wait for the poller's sources, for wake(), or until timeout_ms; None waits on.

        Returns the sources that are ready: none after a mere wake().
        """
        ready: Ready = dict(poller.poll(self.paths.wait_ms(timeout_ms)))
        self.paths.look()
        if ready.pop(self._wake_fd, 0):
            os.eventfd_read(self._wake_fd)
        return ready

    def _live(self) -> None:
        # Inside, so that the callbacks of on_close() find the error; and outside, for what fails in closing.
        with self._keep_error(), contextlib.ExitStack() as self._owned, self._keep_error():
            self._open()
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

    def _open(self) -> None:
        self.context = zmq.Context()
        self.on_close(self.paths.close)
        # destroy() and not term(), which would wait without end for a socket that a failure left open.
        self.on_close(self.context.destroy, linger=0)
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.on_close(self._close_wake)

    def _close_wake(self) -> None:
        with self._wake_lock:
            wake_fd, self._wake_fd = self._wake_fd, -1
            os.close(wake_fd)
