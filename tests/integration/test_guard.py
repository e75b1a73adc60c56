"""The connection guard on real sockets: who is accepted, who is refused, and who is disconnected."""

from __future__ import annotations

import contextlib
import itertools
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq

from streamseg import wire
from streamseg.client import ClientKeys, Subscription, subscribe
from streamseg.config import PublishConfig
from streamseg.errors import ConfigError
from streamseg.net.curve_keys import make_keys
from streamseg.net.mask_sockets import MAX_SUBSCRIPTIONS
from streamseg.publish import Publisher
from tests.masks import STREET, make_mask
from tests.waiting import LIMIT_S, in_time, until


class Site:
    """A publisher that asks for keys, and sends a mask every 20 ms."""

    def __init__(self, folder: Path, transport: str = "tcp") -> None:
        self.folder = folder
        self.clients = folder / "clients"
        self.clients.mkdir()
        secret, self.public = make_keys(folder / "site")
        endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else f"ipc://{folder}/masks"
        self.publisher = Publisher(
            PublishConfig(
                endpoint=endpoint,
                curve_secret_key_file=str(secret),
                allowed_clients=str(self.clients),
                queue=1000,
            ),
            [STREET],
        )
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def keys(self, name: str, *, listed: bool) -> Path:
        secret, public = make_keys(self.folder / name)
        if listed:
            (self.clients / f"{name}.pub").write_bytes(public.read_bytes())
        return secret

    def subscribe(self, key: Path, **options: object) -> Subscription:
        return subscribe(
            self.publisher.endpoint, timeout_s=LIMIT_S, server_key=self.public, client_key_file=key, **options  # type: ignore[arg-type]
        )  # fmt: skip

    def __enter__(self) -> Site:
        self.publisher.start()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.publisher.close()
        self.publisher.check()

    def _send(self) -> None:
        seq = 0
        while not self._over.wait(0.02):
            self.publisher.put(make_mask(seq))
            seq += 1


@pytest.fixture(params=["tcp", "ipc"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with Site(tmp_path, request.param) as site:
        yield site


def test_a_listed_key_gets_masks_and_label_sets(site: Site) -> None:
    with site.subscribe(site.keys("robot", listed=True)) as masks:
        assert next(masks).stream == "gate"
        assert masks.label_set(STREET.id, LIMIT_S) == STREET
    assert site.publisher.stats.denied == 0


def test_the_process_itself_is_let_in_by_a_key_that_no_list_has(site: Site) -> None:
    assert site.publisher.own_keys is not None
    keys = ClientKeys(*site.publisher.own_keys)
    with subscribe(site.publisher.endpoint, timeout_s=LIMIT_S, keys=keys) as masks:
        assert next(masks).stream == "gate"
        assert masks.label_set(STREET.id, LIMIT_S) == STREET
    assert site.publisher.stats.denied == 0


def test_whoever_shows_no_listed_key_receives_nothing_and_disturbs_nobody(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    good = site.keys("robot", listed=True)
    stranger = site.keys("stranger", listed=False)
    other_server = make_keys(site.folder / "elsewhere")[1]
    endpoint = site.publisher.endpoint
    with (
        site.subscribe(good, newest=False, queue=10_000) as masks,
        site.subscribe(stranger) as unlisted,
        subscribe(endpoint) as plain,
        subscribe(endpoint, server_key=other_server, client_key_file=good) as wrong_server,
    ):
        first = next(masks).n
        until(lambda: site.publisher.stats.denied > 0)
        read = [next(masks).n for _ in range(50)]  # a second in which the others get nothing
        assert read[0] > first
        assert [b - a for a, b in itertools.pairwise(read)] == [1] * 49
        assert [s.stats.received for s in (unlisted, plain, wrong_server)] == [0, 0, 0]
        assert masks.stats.lost == 0
        texts = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
        key = (site.folder / "stranger.pub").read_text().splitlines()[-1]
        assert any("does not know our key" in text and key in text for text in texts)
        assert any("refused the key" in text and key in text for text in texts)


def test_the_snapshot_socket_asks_for_keys_too(site: Site) -> None:
    until(lambda: site.publisher.stats.published > 0)
    with zmq.Context() as context, context.socket(zmq.DEALER) as plain:
        plain.setsockopt(zmq.LINGER, 0)
        plain.connect(site.publisher.snapshot_endpoint)
        plain.send_multipart(wire.snapshot_request([b"mask/"]))
        with site.subscribe(site.keys("robot", listed=True)) as masks:
            next(masks)
            until(lambda: site.publisher.stats.snapshots == 1)
        assert not plain.poll(500)
    assert site.publisher.stats.snapshots == 1


def test_a_revoked_client_is_cut_off_within_a_second_and_the_others_lose_nothing(site: Site) -> None:
    robots, laptop = [f"robot{i}" for i in range(3)], site.keys("laptop", listed=True)
    keys = [site.keys(name, listed=True) for name in robots]
    with contextlib.ExitStack() as owned:
        stays = owned.enter_context(site.subscribe(laptop, newest=False, queue=100_000))
        listed = [
            (name, owned.enter_context(site.subscribe(key))) for name, key in zip(robots, keys, strict=True)
        ]
        for _, masks in listed:
            next(masks)
        first = next(stays)
        cut_off = []

        def cut_off_after_s() -> float:
            name, revoked = listed.pop()
            begun_s = time.monotonic()
            (site.clients / f"{name}.pub").unlink()
            until(lambda: not revoked.connected)
            cut_off.append((revoked, revoked.stats.received))
            return time.monotonic() - begun_s

        in_time(1.0, cut_off_after_s)
        until(lambda: site.publisher.stats.denied > 0)  # it came back, and was refused
        last = [next(stays).n for _ in range(30)]
        assert all(revoked.stats.received == received for revoked, received in cut_off)
        assert stays.connected
        assert stays.stats.lost == 0
        assert last[-1] > first.n
        # Of each its subscription, and its snapshot connection.
        assert len(cut_off) <= site.publisher.stats.disconnected <= 2 * len(cut_off)


def test_a_key_that_is_added_later_gets_in_without_a_restart(site: Site) -> None:
    key = site.keys("late", listed=False)
    with site.subscribe(key) as masks:
        until(lambda: site.publisher.stats.denied > 0)
        (site.clients / "late.pub").write_bytes((site.folder / "late.pub").read_bytes())
        assert next(masks).stream == "gate"


def test_a_list_in_one_file_is_read_again_and_says_its_wrong_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret, public = make_keys(tmp_path / "site")
    robot, robot_public = make_keys(tmp_path / "robot")
    listed = tmp_path / "clients"
    listed.write_text(f"# who may subscribe\n\n{robot_public.read_text().splitlines()[-1]} robot\n")
    config = PublishConfig(
        endpoint="tcp://127.0.0.1:*", curve_secret_key_file=str(secret), allowed_clients=str(listed)
    )
    with Publisher(config, [STREET]) as publisher:
        publisher.put(make_mask())
        with subscribe(
            publisher.endpoint, timeout_s=LIMIT_S, server_key=public, client_key_file=robot
        ) as masks:
            next(masks)
            listed.write_text("no key at all\n")
            until(lambda: not masks.connected)
    assert f"{listed}:1: not a key of 40 characters; left out" in caplog.text


def test_a_list_that_is_removed_lets_nobody_in(site: Site) -> None:
    key = site.keys("robot", listed=True)
    with site.subscribe(key) as masks:
        next(masks)
        for file in site.clients.iterdir():
            file.unlink()
        site.clients.rmdir()
        until(lambda: not masks.connected)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (
            lambda site: (site.folder / "site.key").unlink(),
            "publish.curve_secret_key_file: .* cannot be read",
        ),
        (lambda site: (site.folder / "site.key").write_text("x\n"), "must hold one key of 40 characters"),
        (lambda site: site.clients.rmdir(), "publish.allowed_clients: .* does not exist"),
    ],
)
def test_keys_that_cannot_be_had_end_the_start_with_the_setting_named(
    tmp_path: Path, spoil: Callable[[Site], None], says: str
) -> None:
    site = Site(tmp_path)
    spoil(site)
    with pytest.raises(ConfigError, match=says):
        site.publisher.start()


def test_connections_above_the_limit_are_hung_up_and_the_others_stay() -> None:
    config = PublishConfig(endpoint="tcp://127.0.0.1:*", max_connections=4)
    with Publisher(config, [STREET]) as publisher:
        publisher.put(make_mask(1))
        with subscribe(publisher.endpoint, ["gate"], timeout_s=LIMIT_S) as masks:
            next(masks)
            port = int(publisher.endpoint.rpartition(":")[2])
            with contextlib.ExitStack() as crowd:
                for _ in range(20):
                    crowd.enter_context(socket.create_connection(("127.0.0.1", port)))
                until(lambda: publisher.stats.disconnected >= 18)
                until(lambda: publisher.stats.connections <= 4)
                assert publisher.wait_wanted("mask", "gate", LIMIT_S)
                publisher.put(make_mask(2))
                assert next(masks).seq == 2
            until(lambda: publisher.stats.connections == 2)


def test_a_connection_with_endless_subscriptions_is_hung_up() -> None:
    with (
        Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher,
        zmq.Context() as context,
        context.socket(zmq.XSUB) as greedy,
        subscribe(publisher.endpoint, ["gate"], timeout_s=LIMIT_S) as masks,
    ):
        greedy.setsockopt(zmq.LINGER, 0)
        greedy.setsockopt(zmq.SNDHWM, 0)
        greedy.connect(publisher.endpoint)
        for i in range(MAX_SUBSCRIPTIONS + 1000):
            greedy.send(b"\x01greedy/%d" % i)
        until(lambda: publisher.stats.disconnected >= 1)
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        publisher.put(make_mask(1))
        assert next(masks).seq == 1


def test_no_file_descriptor_is_left_by_those_who_were_refused(site: Site) -> None:
    stranger = site.keys("stranger", listed=False)
    with site.subscribe(site.keys("robot", listed=True)) as masks:
        next(masks)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(5):
            denied = site.publisher.stats.denied
            with site.subscribe(stranger):
                until(lambda denied=denied: site.publisher.stats.denied > denied)  # type: ignore[misc]
        until(lambda: len(os.listdir("/proc/self/fd")) <= before)
