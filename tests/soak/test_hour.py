"""An hour's worth of frames at full load, with subscribers that come, go and stand still."""

from __future__ import annotations

import itertools
import os
import random
import signal
import threading
import time
from pathlib import Path

import psutil
import pytest
import zmq

from streamseg.client import subscribe
from tests.integration.children import child
from tests.integration.daemons import run_daemon
from tests.media import draw_clip
from tests.ports import free_port
from tests.soak.flat import FLAT, Holds, report, settled, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

HOUR = 3600 * 25  # masks
STREAMS = ("gate", "yard", "door", "roof")
WAIT_S = 120.0


@pytest.mark.parametrize(
    "masks_in_all", [3000, pytest.param(HOUR, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])]
)
def test_memory_is_flat_and_a_fast_subscriber_has_every_mask(
    tmp_path: Path, tiny_engine: Path, masks_in_all: int
) -> None:
    clip = draw_clip(tmp_path / "red.mp4", frames=250)
    port = free_port()
    endpoint = f"tcp://127.0.0.1:{port}"
    config = tmp_path / "site.toml"
    config.write_text(
        "".join(f'[streams.{name}]\nsource = "{clip}"\nloop = true\n' for name in STREAMS)
        + f'[engine]\nname = "{tiny_engine}"\nthreads = 1\nprecision = "fp32"\nreplicas = 1\n'
        f'[publish]\nendpoint = "{endpoint}"\nqueue = 1000\n'
    )
    over = threading.Event()
    visits = [0]
    with (
        run_daemon(config) as daemon,
        subscribe(endpoint, newest=False, queue=100_000, timeout_s=WAIT_S) as masks,
        child("read_child", endpoint, 0.0) as stalled,
        zmq.Context() as context,
    ):
        pid = daemon.process.pid
        stalled.process.send_signal(signal.SIGSTOP)
        crowd = threading.Thread(target=come_and_go, args=(context, endpoint, over, visits))
        crowd.start()
        try:
            newest: dict[str, int] = {}
            memory: list[int] = []
            before: Holds | None = None
            begun_s = time.monotonic()
            for count in range(masks_in_all):
                mask = masks.read()
                assert newest.get(mask.stream, mask.n - 1) == mask.n - 1, (mask.stream, newest, mask.n)
                newest[mask.stream] = mask.n
                if count % (masks_in_all // 100) == 0:
                    memory.append(psutil.Process(pid).memory_info().rss)
            took_s = time.monotonic() - begun_s
        finally:
            over.set()
            crowd.join(WAIT_S)
            stalled.process.send_signal(signal.SIGCONT)
        assert not crowd.is_alive()
        assert masks.stats.lost == 0
        assert newest.keys() == set(STREAMS)
        assert stalled.end()["read"]  # it is served again
        until(lambda: settled(pid).sockets <= 4, "connections were left", WAIT_S)
        before = Holds.of(pid)
        time.sleep(2)
        assert settled(pid, before).threads <= before.threads
    quarters = [max(memory[i : i + 25]) for i in range(0, 100, 25)]
    report(
        f"{masks_in_all} masks of {len(STREAMS)} streams in {took_s:.0f} s "
        f"({masks_in_all / took_s:.0f} a second), none lost; {visits[0]} subscribers came and went; "
        f"highest memory of each quarter {[q >> 20 for q in quarters]} MiB"
    )
    assert quarters[3] <= quarters[2] * (1 + FLAT), memory


def come_and_go(
    context: zmq.Context[zmq.Socket[bytes]], endpoint: str, over: threading.Event, visits: list[int]
) -> None:
    """Subscribers of every sort: some read, some never do, some leave before they are connected."""
    rng = random.Random(int(os.environ.get("STREAMSEG_SEED", "3")))
    topics = (
        b"",
        b"mask/",
        b"refined/gate/",
        b"mask+confidence/yard/",
        b"rle/door/",
        b"labels/",
        b"status/",
        b"picture/",
    )
    there: list[zmq.Socket[bytes]] = []
    for number in itertools.count():
        if over.wait(rng.uniform(0, 0.2)):
            break
        sock = context.socket(zmq.SUB)
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVHWM, 2)
        sock.subscribe(rng.choice(topics))
        sock.connect(endpoint)
        there.append(sock)
        visits[0] = number + 1
        for one in there[:3]:
            if one.poll(0):
                one.recv_multipart()
        while len(there) > rng.randint(0, 12):
            there.pop(rng.randrange(len(there))).close()
    for sock in there:
        sock.close()
