"""The publisher on real sockets: demand, numbering, snapshots, errors, and its end."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from streamseg import wire
from streamseg.config import PublishConfig
from streamseg.errors import PublishError
from streamseg.publish import Publisher
from streamseg.runtime.mailbox import Closed
from streamseg.types import LabelSet, Mask
from tests import hostile
from tests.masks import STREET, make_mask, make_picture, same
from tests.waiting import LIMIT_S, in_time, until


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher:
        yield publisher


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        yield context
        for sock in _open:
            sock.close(linger=0)
        _open.clear()


_open: list[zmq.Socket[bytes]] = []  # closed at the end of each test


def subscriber(context: Any, endpoint: str, *topics: bytes) -> zmq.Socket[bytes]:
    sock: zmq.Socket[bytes] = context.socket(zmq.SUB)
    _open.append(sock)
    sock.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
    sock.connect(endpoint)
    for topic in topics:
        sock.subscribe(topic)
    return sock


def ask(context: Any, endpoint: str, *prefixes: bytes, kind: int = zmq.DEALER) -> list[list[bytes]]:
    with context.socket(kind) as sock:
        sock.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(endpoint)
        sock.send_multipart(wire.snapshot_request(prefixes))
        return wire.parse_snapshot_reply(sock.recv_multipart())


def receive(sock: zmq.Socket[bytes]) -> Mask:
    mask = wire.decode_message(sock.recv_multipart())
    assert isinstance(mask, Mask)
    return mask


def test_a_mask_arrives_with_run_n_and_the_moment_it_left(publisher: Publisher, context: Any) -> None:
    sub = subscriber(context, publisher.endpoint, b"mask/gate/")
    assert publisher.wait_wanted("mask", "gate", LIMIT_S)
    before = time.time_ns()
    for seq in range(5, 8):
        publisher.put(make_mask(seq, n=99))
    masks = [receive(sub) for _ in range(3)]
    assert [(m.n, m.seq, m.run) for m in masks] == [
        (0, 5, publisher.run),
        (1, 6, publisher.run),
        (2, 7, publisher.run),
    ]
    assert all(before <= m.published_unix_ns <= time.time_ns() for m in masks)
    assert set(masks[0].stage_us) == {"infer", "encode"}


def test_streams_are_counted_apart_and_the_slash_ends_a_name(publisher: Publisher, context: Any) -> None:
    sub = subscriber(context, publisher.endpoint, b"mask/gate/")
    assert publisher.wait_wanted("mask", "gate", LIMIT_S)
    for stream in ("gate2", "gate2", "gate", "gate2", "gate"):
        publisher.put(make_mask(stream=stream))
    masks = [receive(sub) for _ in range(2)]
    assert [(m.stream, m.n) for m in masks] == [("gate", 0), ("gate", 1)]


def test_nothing_is_packed_that_nobody_asked_for(publisher: Publisher, context: Any) -> None:
    for seq in range(3):
        publisher.put(make_mask(seq))
    until(lambda: publisher.stats.published == 3)
    assert publisher.stats.messages == 0
    assert not publisher.wants("mask", "gate")
    sub = subscriber(context, publisher.endpoint, b"rle/gate/")
    assert publisher.wait_wanted("rle", "gate", LIMIT_S)
    assert not publisher.wants("mask", "gate")
    assert not publisher.wants("mask+confidence", "gate")
    assert not publisher.wants("rle", "yard")
    publisher.put(make_mask(3))
    mask = receive(sub)
    assert mask.n == 3
    assert "encode" not in mask.stage_us
    until(lambda: publisher.stats.messages == 1)
    sub.close()
    until(lambda: not publisher.wants("rle", "gate"))


def test_every_kind_of_message_goes_to_its_own_subscribers(publisher: Publisher, context: Any) -> None:
    kinds: tuple[wire.Kind, ...] = wire.KINDS
    subs = {kind: subscriber(context, publisher.endpoint, wire.topic_of(kind, "gate")) for kind in kinds}
    assert all(publisher.wait_wanted(kind, "gate", LIMIT_S) for kind in kinds)
    mask = make_mask(8)
    mask = make_mask(8, confidence=mask.labels)
    publisher.put(mask)
    publisher.put(make_mask(9))
    publisher.put(make_mask(8, revision=1, refined_seq=8))
    for kind in kinds:
        got = receive(subs[kind])
        assert got.seq == 8
        assert got.n == 0
        assert got.revision == (kind == "refined")
        assert (got.confidence is not None) == (kind == "mask+confidence")
        assert (got.labels == mask.labels).all()
    assert (publisher.stats.published, publisher.stats.refined) == (2, 1)


def unchanged(sock: zmq.Socket[bytes]) -> wire.SameHeader:
    return wire.parse_same(sock.recv_multipart())


def test_an_unchanged_frame_is_its_times_alone_and_uses_up_no_n(publisher: Publisher, context: Any) -> None:
    masks = subscriber(context, publisher.endpoint, b"mask/gate/")
    times = subscriber(context, publisher.endpoint, b"same/gate/")
    both = subscriber(context, publisher.endpoint, b"mask/", b"same/")
    assert publisher.wait_wanted("mask", "gate", LIMIT_S)
    assert publisher.wait_wanted("same", "gate", LIMIT_S)
    for kind in ("mask", "same"):  # of `both` alone
        assert publisher.wait_wanted(kind, "yard", LIMIT_S)  # type: ignore[arg-type]
    for seq, same_as in ((5, None), (6, 5), (9, 5), (10, None), (11, 10)):
        publisher.put(make_mask(seq, same_as=same_as, stage_us={"gate": 200}))
    assert [(m.n, m.seq) for m in (receive(masks), receive(masks))] == [(0, 5), (1, 10)]
    got = [unchanged(times) for _ in range(3)]
    assert [(m.n, m.seq, m.same_as) for m in got] == [(0, 6, 5), (0, 9, 5), (1, 11, 10)]
    assert all(m.run == publisher.run and m.stage_us == {"gate": 200} for m in got)  # nothing was packed
    assert got[0].published_unix_ns < got[1].published_unix_ns
    order = [both.recv_multipart()[0] for _ in range(5)]
    assert order == [b"mask/gate/", b"same/gate/", b"same/gate/", b"mask/gate/", b"same/gate/"]
    stats = publisher.stats
    assert (stats.published, stats.unchanged, stats.messages) == (2, 3, 5)


def test_unchanged_messages_alone_are_no_demand_for_masks(publisher: Publisher, context: Any) -> None:
    subscriber(context, publisher.endpoint, b"same/")
    assert publisher.wait_wanted("same", "gate", LIMIT_S)
    assert not any(publisher.wants(kind, "gate") for kind in wire.KINDS)


def test_what_comes_beside_an_unchanged_frame_has_the_n_of_the_mask_that_holds(
    publisher: Publisher, context: Any
) -> None:
    sub = subscriber(context, publisher.endpoint, b"picture/gate/")
    assert publisher.wait_wanted("picture", "gate", LIMIT_S)
    for mask in (make_mask(3), make_mask(5), make_mask(6, same_as=5), make_mask(7)):
        publisher.put(mask)
        publisher.put(make_picture(mask.seq))
    got = [wire.parse_picture(sub.recv_multipart()) for _ in range(4)]
    assert [(p.n, p.seq) for p in got] == [(0, 3), (1, 5), (1, 6), (2, 7)]


def test_a_snapshot_has_the_last_unchanged_frame_behind_its_mask(publisher: Publisher, context: Any) -> None:
    def snapshot() -> list[tuple[bytes, int]]:
        found = ask(context, publisher.snapshot_endpoint, b"mask/", b"same/", b"refined/")
        return [(m[0], msgspec.msgpack.decode(m[1])["seq"]) for m in found]

    for mask in (make_mask(5), make_mask(6, same_as=5), make_mask(7, same_as=5)):
        publisher.put(mask)
    until(lambda: publisher.stats.unchanged == 2)
    assert snapshot() == [(b"mask/gate/", 5), (b"same/gate/", 7)]
    publisher.put(make_mask(5, revision=1, refined_seq=5))
    until(lambda: publisher.stats.refined == 1)
    assert snapshot() == [(b"mask/gate/", 5), (b"refined/gate/", 5), (b"same/gate/", 7)]
    publisher.put(make_mask(8))
    until(lambda: publisher.stats.published == 2)
    assert snapshot() == [(b"mask/gate/", 8), (b"refined/gate/", 5)]  # it went with its mask
    publisher.put(make_mask(9, same_as=8))
    publisher.forget("gate")
    publisher.put(make_mask(1, stream="yard"))
    until(lambda: publisher.stats.published == 3)
    assert snapshot() == [(b"mask/yard/", 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"same_as": 4},
        {"epoch": 1},
        {"engine": "another"},
        {"label_set": "another"},
        {"size": (4, 6)},
        {"stream": "yard"},
    ],
)
def test_an_unchanged_frame_whose_mask_was_not_the_last_is_published_whole(
    publisher: Publisher, context: Any, change: dict[str, Any]
) -> None:
    sub = subscriber(context, publisher.endpoint, b"mask/", b"same/")
    assert publisher.wait_wanted("mask", "gate", LIMIT_S)
    publisher.put(make_mask(5))
    receive(sub)
    publisher.put(make_mask(6, **{"same_as": 5} | change))
    whole = receive(sub)
    assert whole.seq == 6
    publisher.put(make_mask(7, **{"same_as": 5} | change))  # from then on that one is the mask that holds
    assert (same := unchanged(sub)).same_as == 6
    assert same.n == whole.n


def test_a_refinement_has_the_n_of_its_keyframe(publisher: Publisher, context: Any) -> None:
    sub = subscriber(context, publisher.endpoint, b"refined/gate/")
    assert publisher.wait_wanted("refined", "gate", LIMIT_S)
    for epoch, seq in ((0, 10), (0, 12), (1, 0), (1, 10)):
        publisher.put(make_mask(seq, epoch=epoch))
    for epoch, seq in ((0, 12), (1, 10), (1, 77)):
        publisher.put(make_mask(seq, epoch=epoch, revision=1))
    assert [receive(sub).n for _ in range(3)] == [1, 3, 3]  # 77 was never published: the latest


def test_whoever_subscribes_to_label_sets_is_told_them(publisher: Publisher, context: Any) -> None:
    for _ in range(2):  # the second is told, too
        sub = subscriber(context, publisher.endpoint, b"labels/")
        assert wire.decode_message(sub.recv_multipart()) == STREET


def test_classes_that_are_new_come_in_front_of_their_first_mask(publisher: Publisher, context: Any) -> None:
    sock = subscriber(context, publisher.endpoint, b"labels/", b"mask/")
    assert publisher.wait_wanted("mask", "gate", LIMIT_S)
    assert wire.decode_message(sock.recv_multipart()) == STREET
    other = LabelSet("other-1", STREET.classes[:1])
    for _ in range(2):
        publisher.add_label_set(other)
        publisher.put(replace(make_mask(0), label_set="other-1"))
    publisher.add_label_set(LabelSet(STREET.id, tuple(STREET.classes)))
    got = [wire.decode_message(sock.recv_multipart()) for _ in range(3)]
    assert got[0] == other
    assert [m.n for m in got[1:] if isinstance(m, Mask)] == [0, 1]
    assert publisher.label_set("other-1") == other
    labels, *_ = ask(context, publisher.snapshot_endpoint, b"labels/other")
    assert wire.decode_message(labels) == other


@pytest.mark.parametrize("kind", [zmq.DEALER, zmq.REQ])
def test_a_snapshot_has_the_last_message_of_each_topic_asked_for(
    publisher: Publisher, context: Any, kind: int
) -> None:
    for seq in range(3):
        publisher.put(make_mask(seq))
        publisher.put(make_mask(seq, stream="yard"))
    publisher.put(make_mask(1, revision=1))
    until(lambda: publisher.stats.refined == 1)
    asked = publisher.snapshot_endpoint
    found = [
        wire.decode_message(m) for m in ask(context, asked, b"mask/gate/", b"refined/", b"labels/", kind=kind)
    ]
    assert [type(m) for m in found] == [LabelSet, Mask, Mask]
    assert [(m.stream, m.seq, m.n, m.revision) for m in found if isinstance(m, Mask)] == [
        ("gate", 2, 2, 0),
        ("gate", 1, 1, 1),
    ]
    assert ask(context, asked, b"mask/nobody/") == []
    assert {m[0] for m in ask(context, asked, b"mask/")} == {b"mask/gate/", b"mask/yard/"}
    assert len(ask(context, asked, b"")) == 1 + 2 * 2 + 1  # labels; mask and rle of both; refined


def test_a_snapshot_is_the_very_message_that_was_sent(publisher: Publisher, context: Any) -> None:
    sub = subscriber(context, publisher.endpoint, b"mask/gate/")
    assert publisher.wait_wanted("mask", "gate", LIMIT_S)
    publisher.put(make_mask(4))
    sent = sub.recv_multipart()
    assert ask(context, publisher.snapshot_endpoint, b"mask/gate/") == [sent]


def test_garbage_at_both_sockets_is_harmless(publisher: Publisher, context: Any) -> None:
    with context.socket(zmq.DEALER) as rude, context.socket(zmq.XSUB) as sub:
        rude.setsockopt(zmq.LINGER, 1000)
        rude.connect(publisher.snapshot_endpoint)
        for parts in (
            [b"x"],
            [b"", b"", b""],
            [b"snapshot"],
            [b"snapshot"] + [b"a"] * 100,
            [b"\xff" * 300] * 9,
        ):
            rude.send_multipart(parts)
        until(lambda: publisher.stats.refused == 5)
        sub.connect(publisher.endpoint)
        for parts in (
            [b"\x01mask/gate/", b"more"],
            [b"hello"],
            [b"\x00never/"],
            [b""],
            [b"\x01" + b"z" * 5000],
        ):
            sub.send_multipart(parts)
        with socket.create_connection(("127.0.0.1", int(publisher.endpoint.rpartition(":")[2]))) as raw:
            raw.sendall(b"GET / HTTP/1.1\r\n\r\n")
    publisher.put(make_mask(1))
    until(lambda: publisher.stats.published == 1)
    assert len(ask(context, publisher.snapshot_endpoint, b"mask/gate/")) == 1
    publisher.check()


def test_a_mask_too_large_to_publish_is_said_once_and_costs_no_other(
    publisher: Publisher, context: Any, caplog: pytest.LogCaptureFixture
) -> None:
    import numpy as np

    sub = subscriber(context, publisher.endpoint, b"mask/")
    assert publisher.wait_wanted("mask", "gate", LIMIT_S)
    for _ in range(3):
        publisher.put(make_mask(labels=np.zeros((1, wire.MAX_SIDE + 1), np.uint8)))
    publisher.put(make_mask(9, stream="yard"))
    assert receive(sub).stream == "yard"
    assert [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING] == [
        "gate: a mask of 1x16385 cannot be published: shape: 1x16385 is outside 1x1 to 16384 a side and "
        "67108864 pixels in all"
    ]


@pytest.mark.parametrize("transport", ["tcp", "ipc"])
def test_closing_delivers_the_tail(context: Any, tmp_path: Path, transport: str) -> None:
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{tmp_path}/masks"
    with Publisher(PublishConfig(endpoint=endpoint, encoding="raw"), [STREET]) as publisher:
        sub = subscriber(context, publisher.endpoint, b"mask/")
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        for seq in range(6):
            publisher.put(make_mask(seq, size=(360, 480)))
    assert [receive(sub).n for _ in range(6)] == list(range(6))  # read only after the publisher has ended


def test_closing_ends_soon_although_a_subscriber_reads_nothing(context: Any) -> None:
    def closed_after_s() -> float:
        with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*", encoding="raw")) as publisher:
            sub = subscriber(context, publisher.endpoint)
            sub.setsockopt(zmq.RCVHWM, 1)
            sub.subscribe(b"mask/")
            assert publisher.wait_wanted("mask", "gate", LIMIT_S)
            for seq in range(100):
                publisher.put(make_mask(seq, size=(1080, 1920)))
            begun = time.monotonic()
        took_s = time.monotonic() - begun
        publisher.close()
        with pytest.raises(Closed):
            publisher.put(make_mask())
        return took_s

    in_time(4, closed_after_s)


def test_a_port_in_use_is_named_with_the_way_out(publisher: Publisher) -> None:
    with pytest.raises(PublishError, match=f"{publisher.endpoint}: is in use; stop the other"):
        Publisher(PublishConfig(endpoint=publisher.endpoint)).start()


def test_a_snapshot_port_in_use_is_named(publisher: Publisher) -> None:
    config = PublishConfig(endpoint="tcp://127.0.0.1:*", snapshot_endpoint=publisher.snapshot_endpoint)
    with pytest.raises(PublishError, match=f"{publisher.snapshot_endpoint}: is in use"):
        Publisher(config).start()


def test_an_ipc_path_in_use_is_not_taken_over(tmp_path: Path) -> None:
    config = PublishConfig(endpoint=f"ipc://{tmp_path}/masks")
    with Publisher(config) as first:
        with pytest.raises(PublishError, match="is in use"):
            Publisher(config).start()
        first.check()
        assert first.snapshot_endpoint == f"ipc://{tmp_path}/masks.snapshot"
    Publisher(config).start()  # what the first left behind is no hindrance


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "notes.txt"
    precious.write_text("keep")
    with pytest.raises(PublishError, match="is not a socket"):
        Publisher(PublishConfig(endpoint=f"ipc://{precious}")).start()
    assert precious.read_text() == "keep"


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("tcp://203.0.113.1:5570", "is not an address of this machine"),
        ("tcp://nosuchnic:5570", "neither an address nor a network interface|not an address"),
        ("tcp://127.0.0.1", "is not an endpoint"),
        ("tcp://127.0.0.1:70000", "above 65535"),
        ("tcp://127.0.0.1:65535", "no port above it"),
        ("ipc:///nowhere/at/all", "does not exist"),
        ("ipc:///tmp/" + "x" * 120, "too long"),
    ],
)
def test_an_endpoint_that_cannot_be_had_is_named_with_the_way_out(endpoint: str, says: str) -> None:
    with pytest.raises(PublishError, match=says) as caught:
        Publisher(PublishConfig(endpoint=endpoint, insecure=True)).start()
    assert str(caught.value).startswith(endpoint)
    assert "\n" not in str(caught.value)


def test_a_failing_thread_closes_the_mailbox_and_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[Exception] = []
    publisher = Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), on_fail=told.append)
    publisher.start()

    def fail(mask: Mask) -> Mask:
        raise OSError("no space for this")

    monkeypatch.setattr(publisher, "_numbered", fail)
    publisher.put(make_mask())
    until(lambda: bool(told))
    assert isinstance(told[0], PublishError)
    with pytest.raises(PublishError, match="no space for this"):
        publisher.check()
    with pytest.raises(Closed):
        publisher.put(make_mask())
    publisher.close()


def test_two_runs_are_told_apart() -> None:
    config = PublishConfig()
    runs = {Publisher(config).run for _ in range(100)}
    assert len(runs) == 100
    assert all(0 < run < 2**53 for run in runs)


def test_masks_are_not_changed_by_publishing(publisher: Publisher) -> None:
    mask, twin = make_mask(3, captured_unix_ns=1), make_mask(3, captured_unix_ns=1)
    publisher.put(mask)
    until(lambda: publisher.stats.published == 1)
    assert same(mask, twin)


@pytest.mark.parametrize("pings", [0, 5])
@pytest.mark.parametrize("where", ["tcp://127.0.0.1:*", "ipc://{}/masks"])
def test_closing_leaves_a_reader_that_is_behind_the_time_to_take_what_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, pings: int
) -> None:
    monkeypatch.setattr("streamseg.net.mask_sockets.LINGER_S", LIMIT_S)
    publisher = Publisher(PublishConfig(endpoint=where.format(tmp_path), queue=1000))
    with publisher, hostile.connect(publisher.endpoint) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 10)
        hostile.shake_hands(sock, b"SUB")
        sock.sendall(hostile.frame(b"\x01mask/gate/"))
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        noise = np.random.default_rng(1)
        for seq in range(12):  # more than the kernel takes of them
            publisher.put(make_mask(seq, labels=noise.integers(0, 3, (300, 400)).astype(np.uint8)))
        closing = threading.Thread(target=publisher.close)
        closing.start()
        sock.sendall(hostile.PING * pings)  # are not read any more
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := sock.recv(1 << 14):
                data += more
                if pings and len(data) > 250_000:  # the rest waits in the kernel
                    closing.join(0.3)
                    pings = 0
        closing.join()
        assert data.count(b"\x01\nmask/gate/") == 12
        publisher.check()
