"""Mutated ZMTP at every socket that we listen on, and at the client: nothing ends, grows or gets old."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

import psutil
import pytest

from streamseg.client import subscribe
from tests.integration.children import ROOT
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

SEED = int(os.environ.get("STREAMSEG_SEED", "5"))
GROWTH = 16 << 20
OLDER_S = 0.05  # masks of a good reader, at the median; on an idle machine
WHERE = (
    "tcp masks",
    "tcp snapshots",
    "ipc masks",
    "ipc snapshots",
    "relay masks",
    "relay snapshots",
    "control control",
)
MANY = pytest.param(1_000_000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])


def run(*words: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.hostile", *map(str, words)]
    return subprocess.Popen(command, cwd=ROOT, text=True, **options)  # type: ignore[call-overload,no-any-return]


@pytest.fixture
def victim() -> Iterator[tuple[psutil.Process, dict[str, str]]]:
    with run("victim", stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        try:
            yield psutil.Process(process.pid), json.loads(process.stdout.readline())
            process.communicate(timeout=LIMIT_S)
            assert process.returncode == 0
        finally:
            process.kill()


def ages(endpoint: str, attackers: Sequence[subprocess.Popen[str]], least_s: float) -> list[float]:
    """How old the masks of a good reader are while the attackers are at it."""
    found = []
    until_s = time.monotonic() + least_s
    with subscribe(endpoint, newest=False, queue=10_000, timeout_s=LIMIT_S) as masks:
        while any(one.poll() is None for one in attackers) or time.monotonic() < until_s:
            found.append(masks.age_s(next(masks)))
    return found


@pytest.mark.parametrize("count", [1_000, MANY])
def test_mutated_frames_at_every_listener(victim: tuple[psutil.Process, dict[str, str]], count: int) -> None:
    process, where = victim
    assert sorted(where) == sorted(WHERE)
    for name, endpoint in where.items():  # what is made once, such as the first of each kind of object
        run("peer", endpoint, name.split()[1], SEED, min(count, 1000)).wait()
    before = process.memory_info().rss
    usual = sorted(ages(where["tcp masks"], [], 0.3))
    peers = [
        run("peer", endpoint, name.split()[1], SEED + at, count)
        for at, (name, endpoint) in enumerate(where.items())
    ]
    with contextlib.ExitStack() as owned:
        for one in peers:
            owned.callback(one.kill)
        during = sorted(ages(where["tcp masks"], peers, 0.3))
    assert process.memory_info().rss - before < GROWTH
    for name in ("ipc masks", "relay masks"):
        with subscribe(where[name], timeout_s=LIMIT_S) as masks:
            assert next(masks).stream == "gate"
    if count > 100_000:
        print(f"median age {usual[len(usual) // 2]:.4f} s, then {during[len(during) // 2]:.4f} s")
        assert during[len(during) // 2] < usual[len(usual) // 2] + OLDER_S


@pytest.mark.parametrize("count", [4_000, MANY])
def test_mutated_frames_at_the_client(count: int) -> None:
    port = free_port()
    code = (
        "import sys, time\nfrom streamseg.client import subscribe\nfrom streamseg.net import options\n"
        "options.RECONNECT_S = options.LONGEST_RECONNECT_S = 0.002\n"
        f"with subscribe('tcp://127.0.0.1:{port}', snapshot='tcp://127.0.0.1:{port + 1}') as masks:\n"
        "    sys.stdin.read()\n    masks._receiver.check()\n"
    )
    client = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    attackers = [
        run("publisher", port, "publisher", SEED, count // 2),
        run("publisher", port + 1, "answers", SEED, 200),
    ]
    with contextlib.ExitStack() as owned:
        for one in (client, *attackers):
            owned.callback(one.kill)
        process = psutil.Process(client.pid)
        until(lambda: attackers[0].poll() is not None, limit_s=LIMIT_S if count < 100_000 else 1800)
        before = process.memory_info().rss
        again = run("publisher", port, "publisher", SEED + 1, count // 2)
        owned.callback(again.kill)
        until(lambda: again.poll() is not None, limit_s=LIMIT_S if count < 100_000 else 1800)
        assert client.poll() is None
        assert process.memory_info().rss - before < GROWTH
        client.communicate(timeout=LIMIT_S)
        assert client.returncode not in (-signal.SIGABRT, -signal.SIGSEGV)
        assert client.returncode == 0
