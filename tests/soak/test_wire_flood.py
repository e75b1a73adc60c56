"""Random and mutated messages: to the client, from a hostile publisher, and to the daemon's sockets."""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Iterator

import psutil
import pytest
import zmq
import zstandard

from streamseg import wire
from streamseg.client import subscribe
from streamseg.config import PublishConfig
from streamseg.publish import Publisher
from streamseg.wire import MAX_PART
from tests.masks import STREET, make_mask
from tests.property.test_wire_fuzz import mutated, seeds
from tests.soak.flat import report, until

pytestmark = [pytest.mark.slow, pytest.mark.alone]

WAIT_S = 60.0
GROWTH = (
    24 << 20
)  # bytes that either side may take: buffers of ZeroMQ, a mask or two; never what a message claims
MANY = pytest.mark.parametrize(
    "messages", [4000, pytest.param(100_000, marks=[pytest.mark.soak, pytest.mark.timeout(1800)])]
)


def memory() -> int:
    rss: int = psutil.Process().memory_info().rss
    return rss


def bombs() -> list[list[bytes]]:
    """Small messages that would unpack to gigabytes, and shapes that ask for them."""
    packed = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 28))
    unstated = zstandard.ZstdCompressor(level=1, write_content_size=False).compress(bytes(1 << 28))
    parts = wire.encode_mask(make_mask(1, run=7, size=(9, 13)), "zstd")
    found = [[*parts[:2], packed], [*parts[:2], unstated]]
    for name, value in (("height", 2**31), ("width", 16384), ("pixels", 8192)):
        header = bytearray(parts[1])
        at = header.index(b"\xa5shape") + 6
        shape = b"\x92\xce" + value.to_bytes(4, "big") + b"\xce" + value.to_bytes(4, "big")
        header[at : at + 3] = shape
        found.append([parts[0], bytes(header), packed if name == "pixels" else b"x"])
    png = wire.encode_mask(make_mask(1, run=7, size=(9, 13)), "png")
    found.append([*png[:2], png[2][:16] + b"\x7f\xff\xff\xff\x7f\xff\xff\xff" + png[2][24:]])
    return found


def hostile(rng: random.Random, count: int) -> Iterator[list[bytes]]:
    good, evil = seeds(), bombs()
    for i in range(count):
        match i % 50:
            case 0:
                yield rng.choice(evil)
            case 1:
                yield [rng.choice((b"mask/gate/", b"rle/gate/", b"labels/x/"))] * rng.randint(1, 40)
            case 2 | 3 | 4 | 5:
                yield [b"mask/" + rng.randbytes(rng.randrange(60)) for _ in range(rng.randrange(1, 6))]
            case _:
                yield mutated(rng, good)


@MANY
def test_a_client_survives_a_hostile_publisher(messages: int) -> None:
    rng = random.Random(int(os.environ.get("STREAMSEG_SEED", "11")))
    with zmq.Context() as context, context.socket(zmq.PUB) as enemy, context.socket(zmq.ROUTER) as snapshots:
        for sock in (enemy, snapshots):
            sock.setsockopt(zmq.LINGER, 0)
            sock.setsockopt(zmq.SNDHWM, 64)
        enemy.setsockopt(zmq.XPUB_NODROP, 1)  # wait for room instead: each of them is to arrive
        enemy.setsockopt(zmq.SNDTIMEO, int(WAIT_S * 1000))
        port = enemy.bind_to_random_port("tcp://127.0.0.1")
        port_of_snapshots = snapshots.bind_to_random_port("tcp://127.0.0.1")
        begun = 0
        with subscribe(
            f"tcp://127.0.0.1:{port}",
            refined=True,
            snapshot=f"tcp://127.0.0.1:{port_of_snapshots}",
            newest=False,
            queue=16,
            timeout_s=WAIT_S,
        ) as masks:
            until(lambda: masks.connected, "no connection", WAIT_S)
            asker = snapshots.recv_multipart()[0]
            over = threading.Event()

            def read() -> None:
                while masks.read().stream != "honest":
                    pass
                over.set()

            reader = threading.Thread(target=read)
            reader.start()
            for number, parts in enumerate(hostile(rng, messages)):
                enemy.send_multipart([*parts])
                if number % 20 == 0:
                    reply = wire.snapshot_reply(7, [parts])
                    snapshots.send_multipart([asker, *mutated(rng, [reply])], zmq.DONTWAIT)
                if number == messages // 4:
                    begun = memory()
            peak = memory()
            good = make_mask(9, stream="honest", run=8, n=0)
            while not over.wait(0.01):
                enemy.send_multipart(wire.encode_mask(good, "zstd"))
                assert over.is_set() or reader.is_alive()
            reader.join(WAIT_S)
            assert masks.connected
            bad = masks.stats.bad
    report(
        f"client: {messages} messages of a hostile publisher, {bad} refused; "
        f"memory {begun >> 20} -> {peak >> 20} MiB"
    )
    assert bad > messages // 4
    assert peak - begun < GROWTH


def test_a_part_above_the_limit_is_hung_up_on_and_the_client_comes_back() -> None:
    with zmq.Context() as context, context.socket(zmq.PUB) as enemy:
        enemy.setsockopt(zmq.LINGER, 0)
        port = enemy.bind_to_random_port("tcp://127.0.0.1")
        with subscribe(f"tcp://127.0.0.1:{port}", snapshot=False, timeout_s=WAIT_S) as masks:
            until(lambda: masks.connected, "no connection", WAIT_S)
            before = memory()
            huge = zmq.Frame(bytes(MAX_PART + 1))
            enemy.send_multipart([b"mask/gate/", huge, b"x"])
            until(lambda: not masks.connected, "it stayed", WAIT_S)
            del huge
            deadline = time.monotonic() + WAIT_S
            while masks.stats.received == 0:
                assert time.monotonic() < deadline
                enemy.send_multipart(wire.encode_mask(make_mask(1, run=3), "zstd"))
                time.sleep(0.02)
            assert memory() - before < 2 * MAX_PART


@MANY
def test_the_daemons_sockets_take_any_bytes_and_serve_the_others(messages: int) -> None:
    rng = random.Random(int(os.environ.get("STREAMSEG_SEED", "12")))
    requests = [
        wire.snapshot_request([b"mask/gate/", b"labels/"]),
        [b"", *wire.snapshot_request([b"mask/"])],
        [b"\x01mask/gate/"],
        [b"\x00mask/gate/"],
    ]
    with (
        Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher,
        zmq.Context() as context,
        subscribe(publisher.endpoint, newest=False, queue=100, timeout_s=WAIT_S) as honest,
    ):
        assert publisher.wait_wanted("mask", "gate", WAIT_S)
        addresses = [
            ("127.0.0.1", int(e.rpartition(":")[2]))
            for e in (publisher.endpoint, publisher.snapshot_endpoint)
        ]
        seq = begun = 0
        for round_ in range(20):
            if round_ == 5:
                begun = memory()
            with context.socket(zmq.DEALER) as asker, context.socket(zmq.XSUB) as greedy:
                for sock, endpoint in ((asker, publisher.snapshot_endpoint), (greedy, publisher.endpoint)):
                    sock.setsockopt(zmq.LINGER, 0)
                    sock.setsockopt(zmq.SNDTIMEO, int(WAIT_S * 1000))
                    sock.setsockopt(zmq.RCVHWM, 10)
                    sock.connect(endpoint)
                for _ in range(messages // 40):
                    asker.send_multipart(mutated(rng, requests))
                    greedy.send(
                        rng.choice((b"\x01", b"\x00", b"\x02", b"")) + rng.randbytes(rng.randrange(300))
                    )
                    while asker.poll(0):
                        asker.recv_multipart()
                for address in addresses * 4:
                    with socket.create_connection(address) as raw:
                        raw.sendall(rng.randbytes(rng.randrange(1, 500)))
                publisher.put(make_mask(seq))
                assert honest.read().seq == seq
                seq += 1
        publisher.check()
        until(lambda: publisher.stats.connections == 2, "connections were left", WAIT_S)
        peak = memory()
        refused, answered = publisher.stats.refused, publisher.stats.snapshots
        assert honest.stats.lost == 0
    report(
        f"daemon: {messages} messages to its sockets, {refused} refused, {answered} answered; memory "
        f"{begun >> 20} -> {peak >> 20} MiB"
    )
    assert refused > messages // 10
    assert answered > 0
    assert peak - begun < GROWTH
