"""Run where /etc/hosts has the names six (::1) and both (127.0.0.1, ::1): reaches services by name.

Prints a line for each way, which begins with ok when it worked.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

import zmq

from streamseg.client import subscribe
from streamseg.client.control import ControlClient
from streamseg.config import PublishConfig
from streamseg.publish import Publisher
from streamseg.wire.control import Done, encode, parse_request
from tests.integration.test_relay import relaying
from tests.masks import STREET, make_mask
from tests.waiting import LIMIT_S

SIX, FOUR = "tcp://[::1]", "tcp://127.0.0.1"
WAYS = [  # where the service listens, the name that a client has
    (SIX, "six"),
    (SIX, "both"),
    (FOUR, "both"),
    (FOUR, "localhost"),
    ("tcp://[::]", "both"),
    ("tcp://[::]", "127.0.0.1"),
    ("tcp://[::]", "[::1]"),
    ("tcp://*", "both"),
    ("tcp://both", "both"),
    ("tcp://lo", "localhost"),
]


@contextlib.contextmanager
def publishing(listen: str) -> Iterator[tuple[Publisher, int]]:
    """A publisher with a last mask, for those who come late; and its port."""
    config = PublishConfig(endpoint=f"{listen}:*", insecure=True)
    with Publisher(config, [STREET]) as publisher:
        publisher.put(make_mask(3))
        yield publisher, int(publisher.endpoint.rpartition(":")[2])


def first(endpoint: str) -> None:
    with subscribe(endpoint, timeout_s=LIMIT_S) as masks:
        assert next(masks).seq == 3


def relayed() -> None:
    with (
        publishing(SIX) as (publisher, port),
        relaying([f"tcp://six:{port}"]) as relay,
        subscribe(relay.endpoint, timeout_s=LIMIT_S) as masks,
    ):
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        publisher.put(make_mask(4))
        assert next(masks).seq in (3, 4)


def controlled() -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as daemon:
        daemon.setsockopt(zmq.IPV6, 1)
        port = daemon.bind_to_random_port(SIX)

        def answer() -> None:
            address, request = daemon.recv_multipart()
            daemon.send_multipart([address, encode(Done(id=parse_request(request).id))])

        thread = threading.Thread(target=answer)
        thread.start()
        with ControlClient(f"tcp://six:{port}", timeout_s=LIMIT_S) as client:
            client.pause("gate")
        thread.join(LIMIT_S)


def main() -> None:
    for listen, name in WAYS:
        with publishing(listen) as (_, port):
            first(f"tcp://{name}:{port}")
        print("ok", listen, name, flush=True)
    relayed()
    print("ok relay", flush=True)
    controlled()
    print("ok control", flush=True)


if __name__ == "__main__":
    main()
