"""The relay between real daemons and real subscribers: who gets what, and what is asked for upstream."""

from __future__ import annotations

import itertools
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import zmq

from streamseg import wire
from streamseg.cli import main
from streamseg.client import ClientKeys, subscribe
from streamseg.config import PublishConfig
from streamseg.errors import UsageError
from streamseg.net.curve_keys import make_keys, public_of, read_key
from streamseg.publish import Publisher
from streamseg.relay import Relay
from streamseg.relay.rounds import Rounds
from tests.integration.daemons import Lines, run_daemon
from tests.masks import STREET, make_mask
from tests.media import draw_clip
from tests.ports import free_port
from tests.unit.test_daemon_systemd import Manager
from tests.waiting import LIMIT_S, until

ANY = "tcp://127.0.0.1:*"


@contextmanager
def relaying(
    upstreams: list[str],
    config: PublishConfig | None = None,
    server_key: bytes = b"",
    *,
    within_s: float = 5.0,
) -> Iterator[Relay]:
    """A relay in a thread. within_s: what a daemon has not sent by then is left out of a snapshot."""
    relay = Relay([(u, server_key) for u in upstreams], config or PublishConfig(endpoint=ANY))
    errors: list[BaseException] = []

    def run() -> None:
        try:
            relay.run()
        except BaseException as error:  # noqa: BLE001 - the test looks at it
            errors.append(error)
            relay.ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        assert relay.ready.wait(LIMIT_S)
        assert not errors
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("streamseg.relay.rounds.ANSWER_WITHIN_S", within_s)
            yield relay
    finally:
        relay.stop()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishConfig(endpoint=ANY), [STREET]) as publisher:
        yield publisher


class Site:
    """Keys of a daemon, a relay and its clients, and a daemon's configuration."""

    def __init__(self, folder: Path, engine: Path) -> None:
        self.folder, self.engine = folder, engine
        self.clients = folder / "clients"
        self.clients.mkdir()
        for name in ("daemon", "relay", "robot", "stranger"):
            make_keys(folder / name)
        for name in ("relay", "robot"):
            self.allow(name)
        self.clip = draw_clip(folder / "red.mp4", frames=20)

    def allow(self, name: str) -> None:
        (self.clients / f"{name}.pub").write_bytes((self.folder / f"{name}.pub").read_bytes())

    def daemon(self, stream: str, port: int) -> Lines:
        config = self.folder / f"{stream}.toml"
        config.write_text(
            f'[streams.{stream}]\nsource = "{self.clip}"\nrealtime = true\nloop = true\nmax_fps = 10\n'
            f'[engine]\nname = "{self.engine}"\nthreads = 1\n'
            f'[publish]\nendpoint = "tcp://127.0.0.1:{port}"\n'
            f'curve_secret_key_file = "{self.folder}/daemon.key"\nallowed_clients = "{self.clients}"\n'
        )
        return run_daemon(config)

    def secret(self, name: str) -> bytes:
        return read_key(self.folder / f"{name}.key", "test")

    def keys(self, name: str, server: str) -> ClientKeys:
        return ClientKeys(public_of(self.secret(server)), self.secret(name))


@pytest.mark.slow
def test_two_daemons_and_fifty_subscribers_with_keys_on_both_sides(tmp_path: Path, tiny_engine: Path) -> None:
    site = Site(tmp_path, tiny_engine)
    ports = {"gate": free_port(), "yard": free_port()}
    config = PublishConfig(
        endpoint=ANY,
        curve_secret_key_file=str(tmp_path / "relay.key"),
        allowed_clients=str(site.clients),
    )
    upstreams = [f"tcp://127.0.0.1:{port}" for port in ports.values()]
    with ExitStack() as owned:
        daemons = {name: owned.enter_context(site.daemon(name, port)) for name, port in ports.items()}
        relay = owned.enter_context(relaying(upstreams, config, public_of(site.secret("daemon"))))
        context = owned.enter_context(zmq.Context())
        crowd = []
        for _ in range(50):
            sock = owned.enter_context(context.socket(zmq.SUB))
            sock.setsockopt(zmq.LINGER, 0)
            keys = site.keys("robot", "relay")
            sock.curve_serverkey, sock.curve_publickey, sock.curve_secretkey = (
                keys.server, keys.public, keys.secret,
            )  # fmt: skip
            sock.subscribe(b"mask/")
            sock.subscribe(b"labels/")
            sock.connect(relay.endpoint)
            crowd.append(sock)
        runs = [wait_for_all(crowd, ports) for _ in range(2)]
        assert all(seen == {"gate": 1, "yard": 1} for seen in runs[1])
        until(lambda: relay.stats.subscribers == 50)

        stranger = owned.enter_context(subscribe(relay.endpoint, keys=site.keys("stranger", "relay")))
        late = owned.enter_context(
            subscribe(relay.endpoint, keys=site.keys("robot", "relay"), timeout_s=LIMIT_S)
        )
        assert {late.read().stream for _ in range(10)} == {"gate", "yard"}
        assert late.label_set("tiny-4", LIMIT_S).classes[1].name == "red"

        daemons["gate"].kill()
        until(lambda: relay.stats.connected == 1)
        assert late.read().stream in ports  # yard goes on
        owned.enter_context(site.daemon("gate", ports["gate"]))
        again = wait_for_all(crowd, ports, restarted=("gate", {run for run in newest_runs(crowd, "gate")}))
        assert all(seen.keys() == ports.keys() for seen in again)
        assert stranger.stats.received == 0
        until(lambda: relay.stats.denied > 0)


def newest_runs(crowd: list[zmq.Socket[bytes]], stream: str) -> Iterator[int]:
    """Empty the sockets, and tell the runs of a stream that were still there."""
    for sock in crowd:
        while sock.poll(0):
            parts = sock.recv_multipart()
            if parts[0] == f"mask/{stream}/".encode():
                yield wire.parse_message(parts).header.run  # type: ignore[union-attr]


def wait_for_all(
    crowd: list[zmq.Socket[bytes]],
    streams: dict[str, int],
    restarted: tuple[str, set[int]] = ("", set()),
) -> list[dict[str, int]]:
    """Read until every socket has had a mask of each stream (of another run, where restarted)."""
    seen: list[dict[str, int]] = [{} for _ in crowd]
    poller = zmq.Poller()
    for sock in crowd:
        poller.register(sock, zmq.POLLIN)
    deadline = time.monotonic() + LIMIT_S
    while any(len(s) < len(streams) for s in seen):
        assert time.monotonic() < deadline, seen
        for sock, _ in poller.poll(1000):
            parts = sock.recv_multipart()
            if parts[0].startswith(b"mask/"):
                header = wire.parse_message(parts).header  # type: ignore[union-attr]
                if not (header.stream == restarted[0] and header.run in restarted[1]):
                    seen[crowd.index(sock)][header.stream] = 1
    return seen


def test_what_nobody_asks_for_here_is_not_asked_for_there(publisher: Publisher) -> None:
    with relaying([publisher.endpoint]) as relay:
        until(lambda: relay.stats.connected == 1)
        assert not publisher.wants("mask", "gate")
        with (
            subscribe(relay.endpoint, ["gate"], timeout_s=LIMIT_S) as one,
            subscribe(relay.endpoint, ["gate"], timeout_s=LIMIT_S) as other,
        ):
            until(lambda: relay.stats.subscribers == 2)
            assert publisher.wait_wanted("mask", "gate", LIMIT_S)
            assert not publisher.wants("mask", "yard")
            assert not publisher.wants("refined", "gate")
            assert publisher.stats.subscribers == 1
            publisher.put(make_mask(1))
            assert [one.read().seq, other.read().seq] == [1, 1]
            one.close()
            publisher.put(make_mask(2))
            assert other.read().seq == 2  # the other one still asks for it
        until(lambda: not publisher.wants("mask", "gate"))


def test_a_late_joiner_has_the_last_mask_and_the_label_set_without_waiting_for_a_new_one(
    publisher: Publisher,
) -> None:
    with Publisher(PublishConfig(endpoint=ANY), [STREET]) as second:
        publisher.put(make_mask(7))
        second.put(make_mask(3, stream="yard"))
        with relaying([publisher.endpoint, second.endpoint]) as relay:
            until(lambda: relay.stats.connected == 2)
            for _ in range(2):  # the second one finds everything subscribed to already
                with subscribe(relay.endpoint, timeout_s=LIMIT_S) as masks:
                    assert {(m.stream, m.seq) for m in (masks.read(), masks.read())} == {
                        ("gate", 7),
                        ("yard", 3),
                    }
                    assert masks.label_set(STREET.id, LIMIT_S) == STREET


def test_a_snapshot_does_not_wait_for_a_daemon_that_is_away(publisher: Publisher) -> None:
    publisher.put(make_mask(7))
    with relaying([publisher.endpoint, f"tcp://127.0.0.1:{free_port()}"], within_s=0.5) as relay:
        until(lambda: relay.stats.connected == 1)
        with zmq.Context() as context, context.socket(zmq.REQ) as asker:
            asker.setsockopt(zmq.LINGER, 0)
            asker.connect(relay.snapshot_endpoint)
            asker.send_multipart(wire.snapshot_request([b"mask/gate/"]))
            assert asker.poll(int(LIMIT_S * 1000))
            messages = wire.parse_snapshot_reply(asker.recv_multipart())
    assert [message[0] for message in messages] == [b"mask/gate/"]


def test_a_fast_reader_misses_none_and_one_that_stands_still_costs_the_others_nothing(
    publisher: Publisher,
) -> None:
    with relaying([publisher.endpoint]) as relay, zmq.Context() as context, context.socket(zmq.SUB) as idle:
        idle.setsockopt(zmq.LINGER, 0)
        idle.setsockopt(zmq.RCVHWM, 2)
        idle.subscribe(b"mask/")
        idle.connect(relay.endpoint)
        with subscribe(relay.endpoint, newest=False, queue=10_000, timeout_s=LIMIT_S) as masks:
            until(lambda: relay.stats.subscribers == 2)
            assert publisher.wait_wanted("mask", "gate", LIMIT_S)
            read = []
            for seq in range(300):
                publisher.put(make_mask(seq, size=(360, 480)))
                read.append(masks.read())
            assert [b.n - a.n for a, b in itertools.pairwise(read)] == [1] * 299
            assert masks.stats.lost == 0


def test_two_streams_of_one_name_are_told(publisher: Publisher, caplog: pytest.LogCaptureFixture) -> None:
    with (
        Publisher(PublishConfig(endpoint=ANY), [STREET]) as second,
        relaying([publisher.endpoint, second.endpoint]) as relay,
        subscribe(relay.endpoint, ["gate"], timeout_s=LIMIT_S) as masks,
    ):
        for one in (publisher, second):
            assert one.wait_wanted("mask", "gate", LIMIT_S)
            one.put(make_mask(1))
            masks.read()
    assert "mask/gate/: comes from" in caplog.text


def test_a_relay_of_a_relay_passes_on_just_as_well(publisher: Publisher) -> None:
    publisher.put(make_mask(1))
    with relaying([publisher.endpoint]) as near, relaying([near.endpoint]) as far:
        until(lambda: far.stats.connected == 1 and near.stats.connected == 1)
        with subscribe(far.endpoint, timeout_s=LIMIT_S) as masks:
            assert masks.read().seq == 1
            assert publisher.wait_wanted("mask", "gate", LIMIT_S)
            publisher.put(make_mask(2))
            assert masks.read().seq == 2


def test_rounds_ask_once_for_all_who_wait() -> None:
    rounds = Rounds()
    rounds.ask([b"a"], [b"mask/gate/"])
    rounds.ask([b"b"], [b"labels/"])
    assert list(rounds.begin([0, 1], 0.0)) == [[b"labels/", b"mask/gate/"]]
    assert list(rounds.begin([0, 1], 0.0)) == []
    rounds.answer(0, [[b"mask/gate/", b"x"], [b"labels/street/", b"y"]])
    assert list(rounds.answered(0.1)) == []
    rounds.answer(1, [[b"labels/street/", b"y"]])
    assert list(rounds.answered(0.1)) == [
        ([b"a"], [[b"mask/gate/", b"x"]]),
        ([b"b"], [[b"labels/street/", b"y"]]),
    ]


def test_rounds_leave_out_who_is_late_and_never_ask_for_more_than_one_request_holds() -> None:
    rounds = Rounds()
    for i in range(3):
        rounds.ask([b"%d" % i], [b"mask/%d-%d/" % (i, k) for k in range(wire.MAX_PREFIXES)])
    assert len(next(rounds.begin([0], 0.0))) == wire.MAX_PREFIXES
    assert list(rounds.answered(0.4)) == []
    assert list(rounds.answered(0.6)) == [([b"0"], [])]
    assert len(next(rounds.begin([0], 0.7))) == wire.MAX_PREFIXES


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "name at least one daemon"),
        (["tcp://127.0.0.1"], "endpoint: must be tcp://HOST:PORT"),
        (["tcp://h:5570", "tcp://h:5570"], "is named twice"),
        (["tcp://h:5570", "--endpoint", "tcp://*:5580"], "--endpoint: .* is reachable from other machines"),
        (["tcp://h:5570", "--allowed-clients", "x"], "--curve-secret-key-file: is missing"),
        (["tcp://h:5570", "--server-key", "nokey"], "--server-key: nokey cannot be read"),
        (["tcp://h:5570", "--server-key", "a" * 40], "a daemon with a key requires ours"),
        (["tcp://h:1", "tcp://h:3", "tcp://h:5", *["--server-key", "a" * 40] * 2], "one for each"),
    ],
)  # fmt: skip
def test_bad_words_are_one_line_with_the_option_named(
    words: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("streamseg.cli.relay.start_logging", lambda level: None)
    monkeypatch.setattr(sys, "argv", ["streamseg", "relay", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert re.search(says, said), said


def test_systemd_is_told_and_sigterm_ends_it_at_once(
    tmp_path: Path, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = Manager(f"{tmp_path}/notify")
    monkeypatch.setenv("NOTIFY_SOCKET", f"{tmp_path}/notify")
    monkeypatch.setenv("WATCHDOG_USEC", "4000000")
    port = free_port()
    words = ["relay", publisher.endpoint, "--endpoint", f"tcp://127.0.0.1:{port}"]
    with Lines([sys.executable, "-m", "streamseg", *words], errors=True) as relay:
        manager.wait_for("READY=1")
        manager.wait_for("WATCHDOG=1")
        with subscribe(f"tcp://127.0.0.1:{port}", timeout_s=LIMIT_S) as masks:
            assert publisher.wait_wanted("mask", "gate", LIMIT_S)
            publisher.put(make_mask(1))
            assert masks.read().seq == 1
            os.kill(relay.process.pid, signal.SIGTERM)
            assert relay.process.wait(LIMIT_S) == 0
        manager.wait_for("STOPPING=1")
    manager.close()


def test_a_relay_without_daemons_is_refused() -> None:
    with pytest.raises(UsageError, match="at least one"):
        Relay([], PublishConfig())
