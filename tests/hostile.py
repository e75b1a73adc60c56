"""A peer that keeps to ZMTP as far as it likes: mutated frames, floods, PINGs, resets; and what it attacks.

python -m tests.hostile peer ENDPOINT KIND SEED FRAMES    connects, again and again
python -m tests.hostile publisher PORT KIND SEED FRAMES   is connected to; ends when it has sent so many
python -m tests.hostile victim                            has sockets of all kinds; prints where they are
"""

from __future__ import annotations

import contextlib
import json
import random
import socket
import struct
import sys
import tempfile
import threading
import time

from tests.waiting import LIMIT_S

GREETING = b"\xff" + bytes(7) + b"\x01\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
PING = b"\x04\x07\x04PING\x00\x00"
SUBSCRIBE, CANCEL = b"\x09SUBSCRIBE", b"\x06CANCEL"
OF = {"masks": b"SUB", "snapshots": b"DEALER", "control": b"REQ", "publisher": b"PUB", "answers": b"ROUTER"}


def frame(body: bytes, flags: int = 0) -> bytes:
    if len(body) < 256:
        return bytes([flags, len(body)]) + body
    return struct.pack(">BQ", flags | 2, len(body)) + body


def ready(kind: bytes) -> bytes:
    return frame(b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind, 4)


def connect(endpoint: str) -> socket.socket:
    if endpoint.startswith("ipc://"):
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(LIMIT_S)
        sock.connect(endpoint.removeprefix("ipc://"))
        return sock
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    return socket.create_connection((host, int(port)), timeout=LIMIT_S)


def shake_hands(sock: socket.socket, kind: bytes, within_s: float = LIMIT_S) -> None:
    """As a socket of this kind; raises OSError when the other end has gone."""
    sock.settimeout(within_s)
    sock.sendall(GREETING)
    exactly(sock, 64)
    sock.sendall(ready(kind))
    exactly(sock, exactly(sock, 2)[1])


def exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        more = sock.recv(count - len(data))
        if not more:
            raise ConnectionError("closed")
        data += more
    return data


def reset(sock: socket.socket) -> None:
    """End a connection as a machine that was killed does."""
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def frames(rng: random.Random, what: str, count: int) -> list[bytes]:
    """So many frames: mostly of one kind, so that floods and endless messages are among them."""
    number = rng.randrange(1 << 30)
    good = {
        "masks": [
            frame(b"\x01mask/%d/" % number), frame(b"\x00mask/%d/" % number), frame(b"\x01picture/gate/"),
            frame(SUBSCRIBE + b"rle/", 4), frame(CANCEL + b"rle/", 4), frame(b"\x01" + bytes(4000)),
        ],
        "snapshots": [
            frame(b"snapshot", 1) + frame(b"mask/gate/"),
            frame(b"", 1) + frame(b"snapshot", 1) + frame(b"labels/"),
            frame(b"x" * 5),
        ],
        "control": [
            frame(b"\x81\xa7request\xa6status"), frame(b"", 1) + frame(b"\xc1" * 50), frame(bytes(3000)),
        ],
        "publisher": [
            frame(b"mask/gate/", 1) + frame(b"\x80", 1) + frame(b"x" * 30),
            frame(b"labels/x/", 1) + frame(b"\x80"),
            frame(b"status/%d/" % number, 1) + frame(b"\x80"),
            frame(b"mask/gate/", 1) + frame(bytes(3000), 1),
        ],
        "answers": [frame(b"snapshot", 1) + frame(b"\x80"), frame(b"snapshot", 1) + frame(bytes(500), 1)],
    }[what]  # fmt: skip
    common = [
        PING,
        PING[:-1] + b"x" * 4,
        frame(b"\x04PONG", 4),
        frame(b"x", 1),
        frame(b"", 1),
        frame(bytes(900), 1),
    ]
    found = []
    while len(found) < count:
        one = rng.choice(good if rng.random() < 0.6 else common)
        for _ in range(min(count - len(found), rng.choice((1, 1, 2, 30, 400)))):
            found.append(mutated(rng, one) if rng.random() < 0.01 else one)
    return found


def mutated(rng: random.Random, one: bytes) -> bytes:
    data = bytearray(one)
    match rng.randrange(5):
        case 0:
            data[rng.randrange(len(data))] = rng.randrange(256)
        case 1:
            data = data[: rng.randrange(len(data))]
        case 2:
            data[0] = rng.randrange(256)
        case 3:
            data = bytearray([2 | rng.randrange(2)]) + rng.randbytes(8) + data
        case _:
            data = bytearray(rng.randbytes(rng.randrange(40)))
    return bytes(data)


def attack(sock: socket.socket, rng: random.Random, what: str, most: int) -> int:
    """One connection's worth of frames; how many were sent before it was hung up on, at least one."""
    done, count = 1, min(most, rng.choice((1, 20, 500, 5000)))
    try:
        if rng.random() < 0.1:
            sock.sendall(mutated(rng, GREETING + ready(OF[what])))
        else:
            shake_hands(sock, OF[what], within_s=5)
        sent = frames(rng, what, count)
        for at in range(0, count, 100):
            sock.sendall(b"".join(sent[at : at + 100]))
            done = at + 100
    except OSError:
        pass
    (reset if rng.random() < 0.5 else socket.socket.close)(sock)
    return done


def as_peer(endpoint: str, what: str, seed: int, count: int) -> None:
    rng = random.Random(seed)
    while count > 0:
        with contextlib.suppress(OSError):
            count -= attack(connect(endpoint), rng, what, count)


def as_publisher(port: int, what: str, seed: int, count: int) -> None:
    rng = random.Random(seed)
    with socket.create_server(("127.0.0.1", port)) as listening:
        while count > 0:
            count -= attack(listening.accept()[0], rng, what, count)


def as_victim() -> None:
    from streamseg.config import ControlConfig, PublishConfig
    from streamseg.daemon.control import ControlServer
    from streamseg.publish import Publisher
    from streamseg.relay import Relay
    from streamseg.wire.control import Done
    from tests.masks import STREET, make_mask

    over = threading.Event()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as owned:
        control = f"ipc://{folder}/control"
        owned.enter_context(ControlServer(ControlConfig(), control, lambda *_: Done()))
        tcp = owned.enter_context(Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]))
        ipc = owned.enter_context(Publisher(PublishConfig(endpoint=f"ipc://{folder}/masks"), [STREET]))
        relay = Relay([(tcp.endpoint, b"")], PublishConfig(endpoint="tcp://127.0.0.1:*"))
        relaying = threading.Thread(target=relay.run, daemon=True)
        relaying.start()
        relay.ready.wait()
        where = {"control control": control}
        for name, one in (("tcp", tcp), ("ipc", ipc), ("relay", relay)):
            where |= {f"{name} masks": one.endpoint, f"{name} snapshots": one.snapshot_endpoint}
        print(json.dumps(where), flush=True)
        threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
        seq = 0
        while not over.wait(0.02):
            for publisher in (tcp, ipc):
                publisher.put(make_mask(seq).stamped(captured_unix_ns=time.time_ns()))
                publisher.check()
            assert relaying.is_alive()
            seq += 1
        relay.stop()
        relaying.join()


def main(role: str, *words: str) -> None:
    if role == "victim":
        as_victim()
    elif role == "peer":
        as_peer(words[0], words[1], int(words[2]), int(words[3]))
    else:
        as_publisher(int(words[0]), words[1], int(words[2]), int(words[3]))


if __name__ == "__main__":
    main(*sys.argv[1:])
