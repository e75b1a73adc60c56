"""ZMTP as pure code, and with libzmq at the other end: bounds, handshakes, keys, and what is refused."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from streamseg.client import ClientKeys
from streamseg.client.control import ControlClient
from streamseg.config import ControlConfig, PublishConfig
from streamseg.daemon.control import ControlServer
from streamseg.errors import ControlError
from streamseg.net import options
from streamseg.net.connection import Connection
from streamseg.net.curve import CurveClient, CurveServer
from streamseg.net.curve_keys import from_z85, make_pair, public_of, to_z85
from streamseg.net.io import Loop, Outgoing
from streamseg.net.mask_sockets import MAX_SUBSCRIPTIONS
from streamseg.net.zmtp import Bounds, Mechanism, Null, Peer, Refused
from streamseg.publish import Publisher
from streamseg.wire import parse_snapshot_reply, snapshot_request
from streamseg.wire.control import AnyReply, AnyRequest, Done, Reload, SetLogLevel, encode, parse_reply
from tests import hostile
from tests.hostile import PING, frame
from tests.masks import STREET, make_mask
from tests.waiting import LIMIT_S, until

ROUTER, DEALER = b"ROUTER", b"DEALER"
BOUNDS = Bounds((10, 100), parts=3, total=150)


def pair(theirs: Mechanism | None = None, ours: Mechanism | None = None) -> tuple[Peer, Peer]:
    """A DEALER and a ROUTER that have shaken hands."""
    one = Peer(DEALER, [ROUTER], BOUNDS, theirs or Null())
    two = Peer(ROUTER, [DEALER], BOUNDS, ours or Null())
    for _ in range(6):
        for a, b in ((one, two), (two, one)):
            data, a.outgoing = b"".join(a.outgoing), []
            b.receive(data)
    assert one.ready
    assert two.ready
    return one, two


def curve(listed: Callable[[bytes], bool] = lambda _: True) -> tuple[CurveClient, CurveServer]:
    (public, secret), (_, own) = make_pair(), make_pair()
    return CurveClient(from_z85(public), from_z85(own)), CurveServer(from_z85(secret), listed)


def wire_of(peer: Peer, parts: list[bytes]) -> bytes:
    message = Outgoing(parts)
    return b"".join(peer.encode(message) if peer.sealed else message.plain())


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize("step", [1, 7, 64, 100_000])
def test_messages_arrive_whole_however_their_bytes_are_cut(keys: bool, step: int) -> None:
    one, two = pair(*curve()) if keys else pair()
    sent = [[b"a"], [b"", b"x" * 100, b"y" * 40], [b"topic/", b"z"]]
    data = b"".join(wire_of(one, parts) for parts in sent)
    got = [message for at in range(0, len(data), step) for message in two.receive(data[at : at + step])]
    assert got == sent


@pytest.mark.parametrize("keys", [False, True])
@pytest.mark.parametrize(
    "parts",
    [[b"x" * 11], [b"", b"x" * 101], [b"", b"", b"", b""], [b"x", b"y" * 100, b"z" * 60]],
    ids=["a first part too long", "another too long", "too many", "too much together"],
)
def test_what_is_beyond_the_bounds_is_refused(keys: bool, parts: list[bytes]) -> None:
    one, two = pair(*curve()) if keys else pair()
    with pytest.raises(Refused):
        two.receive(wire_of(one, parts))


def test_a_size_is_refused_before_any_of_its_bytes_has_come() -> None:
    _, two = pair()
    with pytest.raises(Refused, match="part of 1099511627776 bytes"):
        two.receive(b"\x02" + (1 << 40).to_bytes(8, "big"))


@pytest.mark.parametrize(
    "data", [b"\x08\x00", b"\xff" * 9, b"\x05\x01x", b"\x06" + (1 << 30).to_bytes(8, "big")]
)
def test_frames_that_are_not_of_zmtp_are_refused(data: bytes) -> None:
    _, two = pair()
    with pytest.raises(Refused):
        two.receive(data)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n", b"\xff" + bytes(8) + b"\x7f\x01", bytes(64),
        hostile.GREETING[:12] + b"PLAIN".ljust(52, b"\0"), hostile.GREETING[:12] + b"CURVE".ljust(52, b"\0"),
        hostile.GREETING + frame(b"hello"), hostile.GREETING + frame(b"\x05READY\xff", 4),
        hostile.GREETING + frame(b"\x05READY" + b"\x00" * 5, 4), hostile.GREETING + hostile.ready(b"PUB"),
        hostile.GREETING + b"\x06" + (1 << 20).to_bytes(8, "big"),
        hostile.GREETING + frame(b"\x05ERROR\x03400", 4),
    ],
)  # fmt: skip
def test_whoever_does_not_shake_hands_is_refused(data: bytes) -> None:
    with pytest.raises(Refused):
        Peer(ROUTER, [DEALER], BOUNDS, Null()).receive(data)


@pytest.mark.parametrize("keys", [False, True])
def test_a_ping_is_answered_once_with_what_it_said(keys: bool) -> None:
    one, two = pair(*curve()) if keys else pair()
    ping = b"\x04PING\x00\x0ahello"
    if keys:
        sealed = one._mechanism.seal(ping, command=True)
        two.receive(frame(sealed))
        opened = one._mechanism.open(two.pong[2:])
        assert opened == (False, True, b"\x04PONGhello")
    else:
        assert two.receive(frame(ping, 4) * 50) == []
        assert two.pong == frame(b"\x04PONGhello", 4)


def test_a_key_that_is_not_listed_and_another_servers_key_are_refused() -> None:
    with pytest.raises(Refused) as caught:
        pair(*curve(lambda _: False))
    assert caught.value.answer == b"\x05ERROR\x03400"
    with pytest.raises(Refused):
        pair(curve()[0], curve()[1])


def test_boxes_that_come_again_or_are_changed_are_refused() -> None:
    for spoil in (lambda data: data, lambda data: data[:-1] + bytes([data[-1] ^ 1])):
        one, two = pair(*curve())
        data = wire_of(one, [b"once"])
        two.receive(data if spoil(data) == data else b"")
        with pytest.raises(Refused):
            two.receive(spoil(data))


def test_random_handshakes_end_in_refusal_and_nothing_else() -> None:
    rng = random.Random(4)
    good = hostile.GREETING + hostile.ready(DEALER)
    refused = 0
    for _ in range(3000):
        data = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        peer = Peer(ROUTER, [DEALER], BOUNDS, rng.choice((Null, lambda: curve()[1]))())
        try:
            peer.receive(bytes(data[: rng.randrange(len(data) + 1)]))
        except Refused:
            refused += 1
    assert refused > 300


def test_keys_are_those_of_libzmq() -> None:
    public, secret = zmq.curve_keypair()
    assert public_of(secret) == public
    assert to_z85(from_z85(public)) == public


@pytest.mark.parametrize("keys", [False, True])
def test_our_client_and_libzmqs_router_understand_each_other(keys: bool) -> None:
    ours = None
    got: list[list[bytes]] = []
    loop = Loop().open()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        if keys:
            server_public, server_secret = zmq.curve_keypair()
            router.curve_server, router.curve_secretkey = True, server_secret
            ours = ClientKeys(server_public, make_pair()[1])
        router.setsockopt(zmq.HEARTBEAT_IVL, 20)
        port = router.bind_to_random_port("tcp://127.0.0.1")
        asker = Connection(
            loop, b"DEALER", f"tcp://127.0.0.1:{port}", options.CONTROL_REPLY, got.append, ours
        )
        asker.send([b"hello", b"x" * 70_000])
        until(lambda: loop.poll(5) or router.poll(0))
        address, *parts = router.recv_multipart()
        assert parts == [b"hello", b"x" * 70_000]
        for at in range(20):  # PINGs of libzmq come between
            router.send_multipart([address, b"%d" % at, b"y" * 70_000])
            until(lambda at=at: loop.poll(20) or len(got) > at)  # type: ignore[misc]
        assert [message[0] for message in got] == [b"%d" % at for at in range(20)]
        assert asker.connected
        asker.close()
    loop.close()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher:
        publisher.put(make_mask(1))
        yield publisher
        publisher.check()


def hung_up(sock: socket.socket, data: bytes, limit: int) -> bool:
    """Whether the other end goes before it has taken so many bytes."""
    sock.settimeout(LIMIT_S)
    try:
        for _ in range(limit // len(data)):
            sock.sendall(data)
        return sock.recv(1) == b""
    except OSError:
        return True


@pytest.mark.parametrize(
    "part", [frame(b"", 1), frame(b"x", 1), frame(b"x" * 4096, 1)], ids=["0", "1", "4096"]
)
@pytest.mark.parametrize("where", ["masks", "snapshots", "control"])
def test_a_message_without_end_is_hung_up_on(
    publisher: Publisher, tmp_path: object, part: bytes, where: str
) -> None:
    endpoint = f"ipc://{tmp_path}/control"
    with ControlServer(ControlConfig(), endpoint, lambda *_: Done()):
        to = {"masks": publisher.endpoint, "snapshots": publisher.snapshot_endpoint, "control": endpoint}[
            where
        ]
        with hostile.connect(to) as sock:
            hostile.shake_hands(sock, hostile.OF[where])
            assert hung_up(sock, part * 100, 10 << 20)
        with hostile.connect(to) as sock:  # others are let in
            hostile.shake_hands(sock, hostile.OF[where])


@pytest.mark.parametrize("part", [frame(b"", 1), frame(b"mask/gate/", 1), frame(b"x" * 4096, 1)])
@pytest.mark.parametrize("kind", [b"SUB", b"DEALER"])
def test_our_client_hangs_up_on_a_message_without_end_and_comes_again(part: bytes, kind: bytes) -> None:
    loop = Loop().open()
    got: list[list[bytes]] = []
    other = {b"SUB": b"PUB", b"DEALER": b"ROUTER"}[kind]
    bounds = options.MASK if kind == b"SUB" else options.SNAPSHOT_REPLY
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        connection = Connection(loop, kind, f"tcp://127.0.0.1:{port}", bounds, got.append)
        ends: list[bool] = []

        def attack() -> None:
            for _ in range(2):
                with listening.accept()[0] as sock:
                    hostile.shake_hands(sock, other)
                    ends.append(hung_up(sock, part * 1000, 200 << 20))

        attacker = threading.Thread(target=attack)
        attacker.start()
        while attacker.is_alive():
            loop.poll(5)
        assert ends == [True, True]
        assert got == []
        connection.close()
    loop.close()


def test_prefixes_longer_than_any_topic_are_not_kept(publisher: Publisher) -> None:
    with hostile.connect(publisher.endpoint) as sock:
        hostile.shake_hands(sock, b"SUB")
        for size in (257, 1000, 4095):
            sock.sendall(frame(b"\x01" + bytes(size)) * 50 + frame(hostile.SUBSCRIBE + bytes(size - 10), 4))
        sock.sendall(frame(b"\x01mask/gate/"))
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        assert publisher._demand._prefixes == {b"mask/gate/"} | {b"\0" * n for n in (247,) if n <= 256}


def test_what_a_connection_has_subscribed_to_at_once_counts_and_not_what_it_ever_did(
    publisher: Publisher,
) -> None:
    with hostile.connect(publisher.endpoint) as sock:
        hostile.shake_hands(sock, b"SUB")
        for begin, end in ((b"\x01", b"\x00"), (b"\x01", b"\x00")):
            for at in range(0, MAX_SUBSCRIPTIONS * 2, 100):
                names = [b"rle/%d/" % n for n in range(at, at + 100)]
                sock.sendall(b"".join(frame(begin + name) + frame(end + name) for name in names))
        sock.sendall(frame(b"\x01mask/gate/") * 3 * MAX_SUBSCRIPTIONS)
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        assert publisher.stats.disconnected == 0


def test_a_flood_with_pings_and_a_reset_leaves_nothing_behind(publisher: Publisher) -> None:
    for to, kind, one in (
        (publisher.endpoint, b"SUB", frame(b"\x02x")),
        (publisher.snapshot_endpoint, b"DEALER", frame(b"x")),
    ):
        for _ in range(3):
            sock = hostile.connect(to)
            hostile.shake_hands(sock, kind)
            sock.sendall((one * 40 + PING) * 300)
            hostile.reset(sock)
    until(lambda: publisher.stats.connections == 0)


def test_a_snapshot_that_is_not_taken_stops_the_reading_and_no_more(publisher: Publisher) -> None:
    with (
        hostile.connect(publisher.snapshot_endpoint) as sock,
        hostile.connect(publisher.snapshot_endpoint) as good,
    ):
        request = frame(b"snapshot", 1) + frame(b"mask/")
        hostile.shake_hands(sock, b"DEALER")
        hostile.shake_hands(good, b"DEALER")
        sock.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 100 << 20:
                sent += sock.send(request * 1000)
        assert sent < 100 << 20
        good.sendall(request)
        assert hostile.exactly(good, 10)[2:] == b"snapshot"


def test_who_refuses_us_is_told_apart(tmp_path: object) -> None:
    secret = make_pair()[1]
    with ControlServer(ControlConfig(), f"ipc://{tmp_path}/control", lambda *_: Done()) as server:
        client = ControlClient(server.endpoint, keys=ClientKeys(make_pair()[0], secret), timeout_s=1)
        with client, pytest.raises(ControlError, match="the daemon uses no keys"):
            client.status()


@contextlib.contextmanager
def proxy(context: zmq.Context[zmq.Socket[bytes]], to: str) -> Iterator[str]:
    """A ROUTER and a DEALER of libzmq that pass on what comes; yields where."""
    with (
        context.socket(zmq.ROUTER) as front,
        context.socket(zmq.DEALER) as back,
        context.socket(zmq.PAIR) as ours,
        context.socket(zmq.PAIR) as theirs,
    ):
        front.bind("inproc://front")
        back.linger = 0
        back.connect(to)
        ours.bind("inproc://end")
        theirs.connect("inproc://end")
        thread = threading.Thread(target=zmq.proxy_steerable, args=(front, back, None, theirs))
        thread.start()
        yield "inproc://front"
        ours.send(b"TERMINATE")
        thread.join()


@pytest.mark.parametrize("by_proxy", [False, True])
@pytest.mark.parametrize("set_up", [(), (zmq.REQ_RELAXED, zmq.REQ_CORRELATE)], ids=["plain", "correlated"])
def test_a_req_of_libzmq_is_answered_however_it_is_set_up(
    publisher: Publisher, tmp_path: Path, set_up: tuple[int, ...], by_proxy: bool
) -> None:
    def ask(endpoint: str, request: list[bytes]) -> list[list[bytes]]:
        with contextlib.ExitStack() as owned:
            context = owned.enter_context(zmq.Context())
            if by_proxy:
                endpoint = owned.enter_context(proxy(context, endpoint))
            req = owned.enter_context(context.socket(zmq.REQ))
            req.linger, req.rcvtimeo = 0, int(LIMIT_S * 1000)
            for option in set_up:
                req.setsockopt(option, 1)
            req.connect(endpoint)
            answers = []
            for _ in range(2):
                req.send_multipart(request)
                answers.append(req.recv_multipart())
            return answers

    control = f"ipc://{tmp_path}/control"
    with ControlServer(ControlConfig(), control, lambda *_: Done()):
        for snapshot in ask(publisher.snapshot_endpoint, snapshot_request([b"mask/gate/"])):
            assert [message[0] for message in parse_snapshot_reply(snapshot)] == [b"mask/gate/"]
        for (answer,) in ask(control, [encode(SetLogLevel(level="info", id=7))]):
            assert parse_reply(answer) == Done(id=7)


@pytest.mark.parametrize("where", ["tcp://127.0.0.1:*", ""], ids=["tcp", "a path"])
def test_heartbeats_are_answered_while_a_change_takes_long(tmp_path: Path, where: str) -> None:
    go_on = threading.Event()

    def answer(request: AnyRequest, local: bool) -> AnyReply:
        assert go_on.wait(LIMIT_S)
        return Done()

    with (
        ControlServer(ControlConfig(endpoint=where), f"ipc://{tmp_path}/control", answer) as server,
        zmq.Context() as context,
        context.socket(zmq.REQ) as req,
    ):
        req.linger, req.rcvtimeo = 0, int(LIMIT_S * 1000)
        req.setsockopt(zmq.HEARTBEAT_IVL, 100)
        req.setsockopt(zmq.HEARTBEAT_TIMEOUT, 1000)
        req.connect(server.endpoint)
        with req.get_monitor_socket(zmq.EVENT_DISCONNECTED) as events:
            req.send(encode(Reload(id=3)))
            assert not events.poll(1500)  # longer than libzmq waits for an answer to its PING
            go_on.set()
            assert parse_reply(req.recv()) == Done(id=3)
            req.disable_monitor()
