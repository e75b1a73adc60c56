"""The socket thread: how it starts, is woken, fails and ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
import zmq

from streamseg.errors import PublishError, StreamsegError
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
    poller = thread.poller()
    while not thread.stopping:
        thread.poll(poller)


def test_start_returns_when_the_sockets_are_open_and_close_ends_it() -> None:
    bound: list[str] = []

    def work(thread: SocketThread) -> None:
        sock = thread.socket(zmq.ROUTER)
        sock.bind("tcp://127.0.0.1:*")
        bound.append(sock.getsockopt_string(zmq.LAST_ENDPOINT))
        serve(thread)

    before = set(threading.enumerate())
    with closing(SocketThread("test", work)) as thread:
        thread.start()
        assert bound[0].startswith("tcp://127.0.0.1:")
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
        thread.socket(zmq.ROUTER).bind("tcp://127.0.0.1:*")
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
    socks: list[zmq.Socket[Any]] = []

    def look() -> None:
        try:
            thread.check()
        except StreamsegError as error:
            found.append(error)

    def work(thread: SocketThread) -> None:
        socks.append(thread.socket(zmq.DEALER))
        thread.on_close(look)
        thread.opened()
        thread.poll(thread.poller())
        raise ZeroDivisionError("one by none")

    thread = SocketThread("test", work, explain, lambda error: told.append((error, socks[0].closed)))
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
        poller = thread.poller()
        thread.opened()
        while taken[0] < 20_000:
            if taken[0] == waiting[0]:
                thread.poll(poller)
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


def test_closing_leaves_the_time_to_send_what_waits() -> None:
    endpoints: list[str] = []

    def work(thread: SocketThread) -> None:
        sock = thread.socket(zmq.PUSH, linger_ms=10_000)
        sock.bind("tcp://127.0.0.1:*")
        endpoints.append(sock.getsockopt_string(zmq.LAST_ENDPOINT))
        thread.opened()
        sock.send(b"the tail")  # waits for the other end

    with (
        zmq.Context() as context,
        context.socket(zmq.PULL) as pull,
        closing(SocketThread("t", work)) as thread,
    ):
        thread.start()
        pull.setsockopt(zmq.RCVTIMEO, int(WAIT_S * 1000))
        pull.connect(endpoints[0])
        assert pull.recv() == b"the tail"
