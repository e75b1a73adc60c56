"""The client against real publishers: late, many, restarted, hostile, and through asyncio."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest
import zmq
import zstandard

from streamseg import wire
from streamseg.client import Subscription, subscribe, subscribe_async
from streamseg.config import PublishConfig
from streamseg.errors import UsageError
from streamseg.publish import Publisher
from tests.integration.children import ROOT, Child
from tests.masks import STREET, make_mask, same
from tests.ports import free_port
from tests.waiting import LIMIT_S, until


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*", queue=100), [STREET]) as publisher:
        yield publisher


def test_a_late_joiner_has_the_last_mask_and_its_label_set_at_once(publisher: Publisher) -> None:
    for seq in range(3):
        publisher.put(make_mask(seq))
        publisher.put(make_mask(seq, stream="yard"))
    publisher.put(make_mask(1, revision=1))
    until(lambda: publisher.last("gate", refined=True), "the last of them is out")
    with subscribe(publisher.endpoint, refined=True, timeout_s=LIMIT_S) as masks:
        found = {(m.stream, m.n, m.revision) for m in (next(masks), next(masks), next(masks))}
        assert found == {("gate", 2, 0), ("yard", 2, 0), ("gate", 1, 1)}
        assert masks.label_set("street3") == STREET
        assert masks.connected
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        publisher.put(make_mask(3))
        assert next(masks).n == 3
        assert masks.stats.repeated == 0
        assert masks.stats.lost == 0


def _publish_states(publisher: Publisher, over: threading.Event) -> None:
    while not over.wait(0.02):
        for name in ("video", "gate"):
            publisher.put_status(wire.StreamStatus(stream=name, source="demo:", state="playing"))


def test_a_stream_that_does_not_exist_is_told_with_those_that_do(
    publisher: Publisher, caplog: pytest.LogCaptureFixture
) -> None:
    over = threading.Event()
    states = threading.Thread(target=_publish_states, args=(publisher, over))
    states.start()
    said = f"{publisher.endpoint}: no stream 'vdeo'; this service has gate, video"
    try:
        with subscribe(publisher.endpoint, ["vdeo"]) as masks:
            until(lambda: said in caplog.messages, "it is logged")
            with pytest.raises(TimeoutError, match="no stream 'vdeo'; this service has gate, video"):
                masks.read(timeout_s=0.01)
            publisher.put(make_mask(stream="vdeo"))  # it was added meanwhile
            assert masks.read(LIMIT_S).stream == "vdeo"
        caplog.clear()
        with subscribe(publisher.endpoint, ["gate"]) as masks:
            until(lambda: masks._inbox.unknown.settled, "its name has come")
            assert masks._inbox.unknown.text == ""
        assert caplog.messages == []
    finally:
        over.set()
        states.join()


def test_late_joiners_have_all_at_once_and_the_others_get_nothing_twice(publisher: Publisher) -> None:
    with subscribe(publisher.endpoint, newest=False, snapshot=False, timeout_s=LIMIT_S) as early:
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        for stream in ("gate", "yard"):
            publisher.put(make_mask(0, stream=stream))
        assert {next(early).stream, next(early).stream} == {"gate", "yard"}
        for _ in range(5):
            with subscribe(publisher.endpoint, timeout_s=LIMIT_S) as late:
                assert {next(late).stream, next(late).stream} == {"gate", "yard"}
                assert late.label_set("street3") == STREET
        publisher.put(make_mask(1))
        assert next(early).n == 1
        assert (early.stats.received, early.stats.repeated, early.stats.lost) == (3, 0, 0)


def test_however_many_streams_one_asks_for_all_come(publisher: Publisher) -> None:
    names = [f"camera{i}" for i in range(70)]
    with subscribe(publisher.endpoint, names, refined=True, snapshot=False, timeout_s=LIMIT_S) as masks:
        for name in names:
            assert publisher.wait_wanted("mask", name, LIMIT_S), name
            assert publisher.wait_wanted("refined", name, LIMIT_S), name
            publisher.put(make_mask(0, stream=name))
        assert {next(masks).stream for _ in names} == set(names)


def test_without_a_snapshot_only_what_comes_is_given(publisher: Publisher) -> None:
    publisher.put(make_mask(0))
    until(lambda: publisher.stats.published == 1)
    with subscribe(publisher.endpoint, ["gate"], snapshot=False, timeout_s=LIMIT_S) as masks:
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        publisher.put(make_mask(1))
        assert next(masks).n == 1


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_in_order_every_mask_comes_exactly_as_it_was_put(transport: str, tmp_path) -> None:  # type: ignore[no-untyped-def]
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/masks"
    with (
        Publisher(PublishConfig(endpoint=endpoint, queue=300), [STREET]) as publisher,
        subscribe(publisher.endpoint, ["gate"], newest=False, queue=300, timeout_s=LIMIT_S) as masks,
    ):
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        sent = [make_mask(seq) for seq in range(200)]
        for mask in sent:
            publisher.put(mask)
        for mask in sent:
            got = next(masks)
            expected = {
                "run": publisher.run,
                "published_unix_ns": got.published_unix_ns,
                "stage_us": got.stage_us,
            }
            assert same(got, make_mask(mask.seq, captured_unix_ns=mask.captured_unix_ns, **expected))
        assert (masks.stats.lost, masks.stats.skipped, masks.stats.bad) == (0, 0, 0)


def test_several_subscribers_each_have_their_own_view(publisher: Publisher) -> None:
    subs: list[Subscription] = [subscribe(publisher.endpoint, ["gate"], timeout_s=LIMIT_S) for _ in range(4)]
    subs.append(subscribe(publisher.endpoint, ["gate"], confidence=True, timeout_s=LIMIT_S))
    try:
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        assert publisher.wait_wanted("mask+confidence", "gate", LIMIT_S)
        labels = make_mask().labels
        publisher.put(make_mask(0, confidence=labels))
        masks = [next(sub) for sub in subs]
        assert {m.n for m in masks} == {0}
        assert [m.confidence is not None for m in masks] == [False] * 4 + [True]
        latest = subs[0].latest("gate")
        assert latest is not None
        assert same(latest, masks[0])
        assert 0 <= subs[0].age_s(masks[0]) < LIMIT_S
    finally:
        for sub in subs:
            sub.close()


def test_a_restart_of_the_daemon_is_survived() -> None:
    first = Child("publish_child", f"tcp://127.0.0.1:{free_port()}", 50, 36, 48)
    second = None
    try:
        with subscribe(first.says, ["gate"], timeout_s=LIMIT_S) as masks:
            while next(masks).n < 20:
                pass
            first.kill()
            second = Child("publish_child", first.says, 50, 36, 48)
            old = masks.latest("gate")
            assert old is not None
            deadline = time.monotonic() + LIMIT_S
            while (mask := next(masks)).run == old.run:
                assert time.monotonic() < deadline
            after = next(masks)
            assert after.run == mask.run
            assert after.n > mask.n
            assert masks.stats.restarts == 1
            assert masks.stats.bad == 0
    finally:
        first.kill()
        if second is not None:
            second.kill()


def test_a_daemon_that_comes_later_is_waited_for() -> None:
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    with subscribe(endpoint, timeout_s=LIMIT_S) as masks:
        assert not masks.connected
        with Publisher(PublishConfig(endpoint=endpoint)) as publisher:
            publisher.put(make_mask(4))
            assert next(masks).seq == 4


def test_waiting_ends_at_the_timeout_with_the_endpoint_named(publisher: Publisher) -> None:
    with (
        subscribe(publisher.endpoint, timeout_s=0.05) as masks,
        pytest.raises(TimeoutError, match=publisher.endpoint),
    ):
        next(masks)


def test_closing_from_another_thread_ends_the_loop(publisher: Publisher) -> None:
    masks = subscribe(publisher.endpoint)
    waiting = threading.Thread(target=lambda: list(masks))
    waiting.start()
    masks.close()
    waiting.join(LIMIT_S)
    assert not waiting.is_alive()
    masks.close()


@pytest.mark.parametrize(
    "endpoint", ["gate", "http://127.0.0.1:5570", "tcp://127.0.0.1", "tcp://h:0", "ipc://"]
)
def test_an_endpoint_that_is_none_is_refused(endpoint: str) -> None:
    with pytest.raises(UsageError, match="tcp://HOST:PORT or ipc://PATH"):
        subscribe(endpoint)


def test_a_hostile_publisher_is_counted_and_outlived() -> None:
    bad, good = (wire.encode_mask(make_mask(n, run=1, size=(8, 8)), "zstd") for n in (6, 7))
    bomb = zstandard.ZstdCompressor(level=1).compress(bytes(1 << 26))
    with zmq.Context() as context, context.socket(zmq.XPUB) as evil:
        evil.setsockopt(zmq.LINGER, 0)
        evil.setsockopt(zmq.SNDHWM, 1000)
        port = evil.bind_to_random_port("tcp://127.0.0.1")
        with subscribe(f"tcp://127.0.0.1:{port}", timeout_s=LIMIT_S) as masks:
            assert evil.poll(LIMIT_S * 1000)
            for _ in range(2):
                assert evil.recv()[0] == 1
            rng = np.random.default_rng(3)
            for _ in range(100):
                evil.send_multipart([b"mask/gate/", rng.bytes(200), rng.bytes(50)])
            evil.send_multipart([b"mask/gate/"])
            evil.send_multipart([b"mask/gate/"] + [b""] * 50)
            evil.send_multipart([bad[0], bad[1], bomb])
            # One part above MAX_PART: the client hangs up, and the subscription comes back by itself.
            evil.send_multipart([good[0], bytes(wire.MAX_PART + 1), b""])
            while True:
                assert evil.poll(LIMIT_S * 1000), "it did not come back"
                if evil.recv() == b"\x01mask/":
                    break
            evil.send_multipart(good)
            mask = next(masks)
            assert (mask.seq, mask.size) == (7, (8, 8))
            assert masks.stats.bad >= 102


def test_asyncio_reads_the_same_masks(publisher: Publisher) -> None:
    async def read() -> list[int]:
        seen = []
        async with subscribe_async(publisher.endpoint, ["gate"], newest=False, timeout_s=LIMIT_S) as masks:
            assert await asyncio.to_thread(publisher.wait_wanted, "mask", "gate", LIMIT_S)
            for seq in range(5):
                publisher.put(make_mask(seq))
            assert await masks.label_set("street3", LIMIT_S) == STREET
            async for mask in masks:
                seen.append(mask.n)
                if mask.n == 4:
                    break
        return seen

    assert asyncio.run(read()) == [0, 1, 2, 3, 4]


def test_asyncio_waits_end_at_the_timeout_and_at_close(publisher: Publisher) -> None:
    async def wait() -> None:
        with pytest.raises(TimeoutError, match=publisher.endpoint):
            async for _ in subscribe_async(publisher.endpoint, timeout_s=0.05):
                pass
        masks = subscribe_async(publisher.endpoint)
        asyncio.get_running_loop().call_later(0.05, masks.close)
        assert [mask async for mask in masks] == []

    asyncio.run(wait())


def test_a_program_that_forgets_to_close_ends_all_the_same(publisher: Publisher) -> None:
    publisher.put(make_mask(3))
    code = (
        "from streamseg.client import subscribe\n"
        f"masks = subscribe({publisher.endpoint!r}, timeout_s={LIMIT_S})\n"
        "print(next(masks).seq)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=True, cwd=ROOT
    )
    assert (done.stdout, done.stderr) == ("3\n", "")


def test_the_five_line_subscriber_in_examples_prints_masks() -> None:
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher:
        publisher.put(make_mask(3))
        command = [sys.executable, str(ROOT / "examples/subscribe.py"), publisher.endpoint]
        here = os.environ | {"PYTHONPATH": str(ROOT)}
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=here) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            process.terminate()
    assert "gate" in line
    assert "street3" in line
