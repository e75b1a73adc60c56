"""The socket thread: how it starts, is woken, fails and ends."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from streamseg.errors import PublishError, StreamsegError
from streamseg.net.io import READ
from streamseg.net.socket_thread import SocketThread

WAIT_S = 20.0


def explain(error: Exception) -> StreamsegError:
    return StreamsegError(f"it failed: {error}")


@contextmanager
def closing(thread: SocketThread) -> Iterator[SocketThread]:
    try:
        yield thread
    finally:
        thread.close()


def serve(thread: SocketThread) -> None:
    """Serve until stopping, by wake() alone."""
    thread.opened()
    while not thread.stopping:
        thread.loop.poll()


def listen(thread: SocketThread) -> socket.socket:
    """A socket that listens, and belongs to the thread."""
    sock = socket.create_server(("127.0.0.1", 0))
    thread.on_close(sock.close)
    thread.loop.watch(sock, READ, lambda _: None)
    return sock


def test_start_returns_when_the_sockets_are_open_and_close_ends_it() -> None:
    bound: list[int] = []

    def work(thread: SocketThread) -> None:
        bound.append(listen(thread).getsockname()[1])
        serve(thread)

    before = set(threading.enumerate())
    with closing(SocketThread("test", work)) as thread:
        thread.start()
        assert bound[0] > 0
        assert any(t.name == "test" for t in threading.enumerate())
    assert set(threading.enumerate()) <= before
    thread.close()
    thread.wake()  # nothing happens


def test_what_was_not_started_can_be_closed_and_stop_before_run_ends_it_at_once() -> None:
    thread = SocketThread("test", serve)
    thread.close()
    thread.run()


def test_an_error_before_opened_is_raised_by_start_and_nothing_is_left_open() -> None:
    told: list[Exception] = []

    def work(thread: SocketThread) -> None:
        listen(thread)
        raise PublishError("no such port")

    files = len(os.listdir("/proc/self/fd"))
    thread = SocketThread("test", work, explain, told.append)
    with pytest.raises(PublishError, match="no such port"):
        thread.start()
    with pytest.raises(PublishError, match="no such port"):
        thread.check()
    thread.close()
    assert told == []
    assert len(os.listdir("/proc/self/fd")) <= files


def test_a_later_error_is_explained_kept_for_check_and_told_when_all_is_closed() -> None:
    told: list[tuple[Exception, bool]] = []
    found: list[Exception] = []
    socks: list[socket.socket] = []

    def look() -> None:
        try:
            thread.check()
        except StreamsegError as error:
            found.append(error)

    def work(thread: SocketThread) -> None:
        socks.append(listen(thread))
        thread.on_close(look)
        thread.opened()
        thread.loop.poll()
        raise ZeroDivisionError("one by none")

    thread = SocketThread("test", work, explain, lambda error: told.append((error, socks[0].fileno() < 0)))
    with closing(thread):
        thread.start()
        thread.check()
        thread.wake()
    (error, closed), *_ = told
    assert str(error) == "it failed: one by none"
    assert isinstance(error.__cause__, ZeroDivisionError)
    assert closed
    assert found == [error]
    with pytest.raises(StreamsegError, match="one by none"):
        thread.check()


def test_what_was_opened_is_closed_in_reverse_order_and_each_thing_although_one_fails() -> None:
    closed: list[str] = []

    def fail() -> None:
        closed.append("second")
        raise OSError("cannot close")

    def work(thread: SocketThread) -> None:
        thread.on_close(closed.append, "first")
        thread.on_close(fail)
        thread.on_close(closed.append, "third")
        thread.opened()

    thread = SocketThread("test", work, explain)
    with suppress(StreamsegError):  # it may fail before start() returns
        thread.start()
    thread.close()
    assert closed == ["third", "second", "first"]
    with pytest.raises(StreamsegError, match="cannot close"):
        thread.check()


def test_no_wake_up_is_lost_between_looking_and_polling() -> None:
    """As a publisher works: put and wake in one thread, look and poll without a timeout in the other."""
    waiting, taken = [0], [0]

    def work(thread: SocketThread) -> None:
        thread.opened()
        while taken[0] < 20_000:
            if taken[0] == waiting[0]:
                thread.loop.poll()
            taken[0] = waiting[0]

    with closing(SocketThread("test", work)) as thread:
        thread.start()
        for _ in range(20_000):
            waiting[0] += 1
            thread.wake()
        deadline = time.monotonic() + WAIT_S
        while taken[0] < 20_000:
            assert time.monotonic() < deadline
            time.sleep(0.001)


def test_a_signal_handler_may_stop_what_runs_in_the_main_thread() -> None:
    thread = SocketThread("test", serve)
    before = signal.signal(signal.SIGUSR1, lambda *_: thread.stop())
    try:
        timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGUSR1))
        timer.start()
        thread.run()
        timer.join()
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_timers_and_calls_of_other_threads_come_in_the_order_of_their_time() -> None:
    told: list[str] = []

    def work(thread: SocketThread) -> None:
        thread.opened()
        thread.loop.later(0.02, lambda: told.append("later"))
        thread.loop.later(0.01, lambda: told.append("sooner"))
        while len(told) < 3:
            thread.loop.poll()

    with closing(SocketThread("test", work)) as thread:
        thread.start()
        thread.loop.call(lambda: told.append("called"))
    assert sorted(told) == ["called", "later", "sooner"]
    assert told.index("sooner") < told.index("later")


def test_what_an_earlier_callback_ended_is_not_called_any_more() -> None:
    told: list[int] = []

    def work(thread: SocketThread) -> None:
        pairs = [socket.socketpair() for _ in range(2)]

        def read(at: int) -> None:
            told.append(at)
            thread.loop.unwatch(pairs[1 - at][0])
            thread.loop.unwatch(pairs[at][0])

        for at, (ours, theirs) in enumerate(pairs):
            thread.on_close(ours.close)
            thread.on_close(theirs.close)
            theirs.send(b"x")
            thread.loop.watch(ours, READ, lambda _, at=at: read(at))  # type: ignore[misc]
        thread.opened()
        for _ in range(3):
            thread.loop.poll(10)

    with closing(SocketThread("test", work)) as thread:
        thread.start()
    assert len(told) == 1
