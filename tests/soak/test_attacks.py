"""The connection guard under attack: replays, and handshakes that are never finished."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.client import subscribe
from tests.integration.test_guard import Site
from tests.soak.cable import Cable
from tests.soak.flat import report
from tests.waiting import LIMIT_S, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

GREETING = b"\xff\x00\x00\x00\x00\x00\x00\x00\x01\x7f\x03\x00CURVE".ljust(64, b"\x00")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path) as site:
        yield site


def port_of(endpoint: str) -> int:
    return int(endpoint.rpartition(":")[2])


def heard(sock: socket.socket, seconds: float) -> bytes:
    """All that comes within so many seconds, or until the other side closes the connection."""
    got = b""
    deadline = time.monotonic() + seconds
    with contextlib.suppress(OSError):
        while (left_s := deadline - time.monotonic()) > 0:
            sock.settimeout(left_s)
            more = sock.recv(1 << 16)
            if not more:
                break
            got += more
    return got


def test_the_recorded_bytes_of_a_good_client_bring_nothing(site: Site) -> None:
    robot = site.keys("robot", listed=True)
    to = port_of(site.publisher.endpoint)
    with Cable(to) as cable:
        with subscribe(
            f"tcp://127.0.0.1:{cable.port}",
            snapshot=False,
            timeout_s=LIMIT_S,
            server_key=site.public,
            client_key_file=robot,
        ) as masks:
            for _ in range(10):
                next(masks)
        recorded = bytes(cable.sent[0])
    assert b"INITIATE" in recorded
    until(lambda: site.publisher.stats.subscribers == 0)
    sent = site.publisher.stats.messages
    for cut in (len(recorded), recorded.index(b"INITIATE"), 64):
        with socket.create_connection(("127.0.0.1", to)) as thief:
            thief.sendall(recorded[:cut])
            said = heard(thief, 1.0)
        assert b"MESSAGE" not in said
        assert len(said) < 1000
    assert site.publisher.stats.messages == sent  # nothing was even asked for
    with site.subscribe(robot) as masks:  # the daemon is as it was
        next(masks)


@pytest.mark.parametrize("how", ["nothing", "greeting"])
@pytest.mark.parametrize("seconds", [1.5, pytest.param(60.0, marks=pytest.mark.soak)])
def test_half_open_handshakes_do_not_keep_a_good_client_out(site: Site, how: str, seconds: float) -> None:
    robot = site.keys("robot", listed=True)
    address = ("127.0.0.1", port_of(site.publisher.endpoint))
    over = threading.Event()
    opened = [0]

    def flood() -> None:
        crowd: list[socket.socket] = []
        while not over.is_set():
            with contextlib.suppress(OSError):
                sock = socket.create_connection(address, timeout=1)
                crowd.append(sock)
                opened[0] += 1
                if how == "greeting":
                    sock.sendall(GREETING)
            if len(crowd) > 700:
                crowd.pop(0).close()
            over.wait(0.001)
        for sock in crowd:
            sock.close()

    with site.subscribe(robot, newest=False, queue=100_000) as before:
        next(before)
        files = len(os.listdir("/proc/self/fd"))
        attacker = threading.Thread(target=flood)
        attacker.start()
        slowest_s, joined = 0.0, 0
        try:
            until(lambda: opened[0] > 600)  # more than max_connections
            begun_s = time.monotonic()
            while time.monotonic() < begun_s + seconds:
                asked_s = time.monotonic()
                with site.subscribe(robot) as good:
                    next(good)
                slowest_s = max(slowest_s, time.monotonic() - asked_s)
                joined += 1
        finally:
            over.set()
            attacker.join(LIMIT_S)
        assert before.connected
        assert before.stats.lost == 0
        assert before.stats.restarts == 0
        until(lambda: len(os.listdir("/proc/self/fd")) <= files + 4)
    report(f"{opened[0]} half-open handshakes ({how}): {joined} good clients in, slowest {slowest_s:.2f} s")
