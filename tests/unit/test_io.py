"""What is sent to a peer that reads slowly, or not any more."""

from __future__ import annotations

import contextlib
import random
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from streamseg.net.curve import CurveClient, CurveServer
from streamseg.net.curve_keys import from_z85, make_pair
from streamseg.net.io import JOIN_BELOW, MOST_PIECES, Outbox, Outgoing
from streamseg.net.zmtp import Bounds, Mechanism, Null, Peer
from tests.hostile import PING, frame
from tests.waiting import LIMIT_S

BOUNDS = Bounds((1 << 20,), parts=5000, total=1 << 30)
PING_BODY = b"\x04PING\x00\x00"


class Ends:
    """Both ends of a connection after the handshake: ours sends by an outbox, theirs reads when it likes."""

    def __init__(self, ours: Mechanism, theirs: Mechanism) -> None:
        self.sock, self.other = socket.socketpair()
        self.sock.setblocking(False)
        self.other.setblocking(False)
        for sock in (self.sock, self.other):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.peer, self.reader = (
            Peer(b"XPUB", [b"SUB"], BOUNDS, ours),
            Peer(b"SUB", [b"XPUB"], BOUNDS, theirs),
        )
        for _ in range(6):
            for one, two in ((self.reader, self.peer), (self.peer, self.reader)):
                data, one.outgoing = b"".join(one.outgoing), []
                two.receive(data)
        assert self.reader.ready
        self.changes: list[bool] = []  # whether something waited, at each change
        self.broken = 0
        self.out = Outbox(self.sock, lambda: self.changes.append(bool(self.out)), self._break)
        self.out.seal = self.peer.encode if self.peer.sealed else None
        self.got: list[list[bytes]] = []

    def _break(self) -> None:
        self.broken += 1
        self.out.close()

    def ping(self) -> None:
        """Their PING arrives."""
        sealed = self.reader.sealed
        data = frame(self.reader._mechanism.seal(PING_BODY, command=True)) if sealed else PING
        self.peer.receive(data)
        self.out.add_pong(self.peer.pong)

    def read(self, most: int = 1 << 30) -> None:
        """Take what has been sent, in pieces; raises Refused where that is not in order."""
        with contextlib.suppress(BlockingIOError):
            while most > 0:
                data = self.other.recv(min(most, 3000))
                most -= len(data)
                self.got += self.reader.receive(data)

    def read_all(self) -> None:
        while self.out:
            self.out.flush()
            self.read()
        self.read()


@pytest.fixture(params=["open", "sealed"])
def ends(request: pytest.FixtureRequest) -> Iterator[Ends]:
    if request.param == "open":
        ends = Ends(Null(), Null())
    else:
        (public, secret), (_, own) = make_pair(), make_pair()
        server = CurveServer(from_z85(secret), lambda _: True)
        ends = Ends(server, CurveClient(from_z85(public), from_z85(own)))
    with ends.sock, ends.other:
        yield ends


def test_pings_of_a_slow_reader_cost_it_no_message(ends: Ends) -> None:
    rng = random.Random(3)
    sent = []
    for at in range(300):
        message = [b"mask/gate/", b"%d" % at, bytes(rng.randrange(9000))]
        if ends.out.send(Outgoing(message), 6):
            sent.append(message)
        if rng.random() < 0.5:
            ends.ping()
        if rng.random() < 0.7:
            ends.out.flush()
            ends.read(rng.randrange(12_000))
    ends.read_all()
    assert ends.got == sent
    assert 20 < len(sent) < 300  # some found no room


def test_a_message_for_many_is_sealed_for_each(ends: Ends) -> None:
    message = Outgoing([b"mask/gate/", bytes(100_000)])
    for _ in range(3):
        assert ends.out.send(message, 8)
        ends.ping()
    ends.read_all()
    assert ends.got == [list(message.parts)] * 3


def test_a_message_of_more_pieces_than_the_kernel_takes_at_once_arrives(ends: Ends) -> None:
    parts = [b"snapshot", *(bytes([at % 256]) * JOIN_BELOW for at in range(MOST_PIECES + 10))]
    assert ends.out.send(Outgoing(parts), 1)
    ends.read_all()
    assert ends.got == [parts]
    assert ends.broken == 0


@pytest.mark.parametrize("messages", [1, 2])
def test_it_is_told_when_all_has_been_sent(ends: Ends, messages: int) -> None:
    filled = 0
    with contextlib.suppress(BlockingIOError):
        while True:
            filled += ends.sock.send(bytes(1000))
    for _ in range(messages):
        ends.out.send(Outgoing([b"x"]), 8)
    assert ends.changes == [True]  # nothing of it could be sent
    while filled:
        filled -= len(ends.other.recv(filled))
    ends.out.flush()
    assert ends.changes == [True, False]


def test_what_cannot_be_sent_breaks_the_connection_once(ends: Ends) -> None:
    ends.other.close()
    assert not ends.out.send(Outgoing([b"x"]), 8)
    assert not ends.out.send(Outgoing([b"x"]), 8)
    ends.out.flush()
    assert ends.broken == 1


SEND_TO_NOBODY = """
import signal, socket
from streamseg.net.io import Outbox, Outgoing
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
ours, theirs = socket.socketpair()
theirs.close()
broken = []
Outbox(ours, lambda: None, lambda: broken.append(1)).send(Outgoing([b"x"]), 1)
assert broken
"""


def test_a_peer_that_is_gone_does_not_end_a_program_that_leaves_sigpipe_at_its_default() -> None:
    assert signal.getsignal(signal.SIGPIPE) is signal.SIG_IGN  # what Python does, and a program may change
    done = subprocess.run([sys.executable, "-c", SEND_TO_NOBODY], check=False, timeout=LIMIT_S)
    assert done.returncode == 0
