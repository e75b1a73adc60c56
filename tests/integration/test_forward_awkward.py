"""`streamseg forward` against brokers that refuse things and hooks that answer badly."""

from __future__ import annotations

import email.utils
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.answers import FakeDaemon, event_document, zones_parts
from tests.brokers import Broker, Reader
from tests.hooks import Hook
from tests.integration.test_forward import FLOOD, daemon, forwarding, numbers
from tests.waiting import LIMIT_S, until

__all__ = ["daemon"]

CLASSES = {f"class-{i:03d}-of-many": 0.01 for i in range(50)}


@pytest.mark.parametrize("limit", ["max_packet_size 3000", "message_size_limit 3000"])
def test_what_is_too_large_for_a_broker_is_left_out_and_no_event_waits_behind_it(
    daemon: FakeDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: str
) -> None:
    with Broker(tmp_path, "allow_anonymous true", limit) as broker, Reader(broker) as reader:
        place = {"url": broker.url, "shares_every_s": 0.1, "classes": list(CLASSES)}
        with forwarding(daemon, mqtt={"home": place}):
            daemon.send(zones_parts("gate", {"ramp": CLASSES, "kerb": {"water": 0.5}}))
            daemon.event(event_document(0))
            daemon.event(event_document(1, classes=[f"{'water' * 40} {n}" for n in range(20)]))
            daemon.event(event_document(2))
            until(lambda: 2 in numbers(reader.of(FLOOD)), lambda: caplog.text)
            assert numbers(reader.of(FLOOD)) == [0, 2]
            said = json.loads(reader.wait("streamseg/gate/zone/kerb")[-1])
            assert said["percent"] == {"water": 50.0}
    assert caplog.text.count("homeassistant/device/streamseg/gate/config, so it is left out") == 1
    assert caplog.text.count("refuses event") == 1
    assert caplog.text.count("tried again") <= 1


@pytest.mark.parametrize("lacks", ["max_qos 0", "retain_available false"])
def test_a_broker_that_lacks_what_is_needed_costs_one_line_that_says_what(
    daemon: FakeDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture, lacks: str
) -> None:
    with (
        Broker(tmp_path, "allow_anonymous true", lacks) as broker,
        forwarding(daemon, mqtt={"h": {"url": broker.url}}),
    ):
        until(lambda: "QoS 1 and retained messages" in caplog.text, lambda: caplog.text)
        assert "password" not in caplog.text


@contextmanager
def raw_hook(answer: Callable[[socket.socket, int], None]) -> Iterator[tuple[str, list[int]]]:
    """A server that answers the n-th POST as answer(sock, n) does, then hangs up; the events posted."""
    posted: list[int] = []
    over = threading.Event()

    def serve() -> None:
        while not over.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    def one(sock: socket.socket) -> None:
        with sock:
            data = b""
            while not data.endswith(b"}") and (more := sock.recv(65536)):
                data += more
            posted.append(json.loads(data.partition(b"\r\n\r\n")[2])["event_n"])
            try:
                answer(sock, len(posted))
                sock.settimeout(LIMIT_S)
                sock.recv(1)
            except OSError:
                pass  # the client went

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/hook", posted
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
HEADERS = b"HTTP/1.1 %d Some Words\r\nContent-Length: 1000000000000\r\n\r\nfirst "


@pytest.mark.parametrize(
    ("first", "posts"),
    [
        (HEADERS % 200, [0, 1]),  # taken, whatever follows
        (HEADERS % 400, [0, 1]),  # refused for good
        (HEADERS % 500, [0, 0, 1]),
        (b"HTTP/1.1 500 X\r\nA: " + b"a" * 100_000 + b"\r\n\r\n", [0, 0, 1]),
        (b"\x16\x03\x01 this is no HTTP\r\n\r\n", [0, 0, 1]),
        (b"", [0, 0, 1]),
    ],
)
def test_an_answer_that_never_ends_or_is_none_counts_by_what_it_has_said(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture, first: bytes, posts: list[int]
) -> None:
    def answer(sock: socket.socket, n: int) -> None:
        sock.sendall(first if n == 1 else OK)

    within_s = LIMIT_S if first else 1.0  # what says nothing is waited for
    with (
        raw_hook(answer) as (url, posted),
        forwarding(daemon, webhook={"p": {"url": url, "timeout_s": within_s}}),
    ):
        daemon.event(event_document(0))
        daemon.event(event_document(1))
        until(lambda: 1 in posted, lambda: (posted, caplog.text))
        if first:
            assert posted == posts
        else:  # a late answer of ours is none, too
            assert posted[:2] == posts[:2]
            assert posted == sorted(posted)
    assert "Traceback" not in caplog.text
    assert all(len(record.getMessage()) < 500 for record in caplog.records)


@pytest.mark.slow
@pytest.mark.parametrize("as_date", [False, True])
def test_a_hook_is_left_alone_for_as_long_as_it_asks(daemon: FakeDaemon, as_date: bool) -> None:
    """Waits for 3 s, that a date with whole seconds tells a pause from none."""
    times: list[float] = []

    def answer(_: bytes) -> tuple[int, dict[str, str]]:
        times.append(time.monotonic())
        if len(times) > 1:
            return 200, {}
        date = email.utils.formatdate(time.time() + 4, usegmt=True)
        return 429, {"Retry-After": date if as_date else "3"}

    with Hook() as hook, forwarding(daemon, webhook={"p": {"url": hook.url}}):
        hook.answer = answer
        daemon.event(event_document(0))
        until(lambda: len(times) == 2, "the second try")
    assert times[1] - times[0] >= 2.9
