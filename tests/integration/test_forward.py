"""`streamseg forward` against real servers: mosquitto, HTTP, Kafka's own mock cluster, files."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import re
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from streamseg.cli import cli
from streamseg.config import build_settings
from streamseg.forward import Forwarder
from streamseg.forward.settings import ForwardConfig
from tests.answers import FakeDaemon, event_document, zones_parts
from tests.brokers import Broker, Reader
from tests.hooks import Hook
from tests.integration.children import ROOT
from tests.integration.daemons import Lines, environment
from tests.integration.mistakes import Place, full_disk
from tests.waiting import LIMIT_S, until

FLOOD = "streamseg/gate/event/flood"
DEVICE = "homeassistant/device/streamseg/gate/config"


@pytest.fixture
def daemon() -> Iterator[FakeDaemon]:
    with FakeDaemon() as daemon:
        yield daemon


@contextlib.contextmanager
def forwarding(daemon: FakeDaemon, **places: Any) -> Iterator[Forwarder]:
    """A forwarder in a thread, once it is subscribed."""
    config = build_settings(ForwardConfig, {"endpoint": daemon.endpoint, **places})
    asked = daemon.asked
    forwarder = Forwarder(config)
    thread = threading.Thread(target=forwarder.run, daemon=True)
    thread.start()
    try:
        until(lambda: daemon.asked > asked or not thread.is_alive(), "the forwarder")
        assert thread.is_alive()
        yield forwarder
    finally:
        forwarder.stop()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


def command(daemon: FakeDaemon, *words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "streamseg", "forward", daemon.endpoint, *words]


def numbers(documents: list[bytes]) -> list[int]:
    return [json.loads(document)["event_n"] for document in documents if document]


def test_a_broker_gets_events_shares_and_a_device_that_home_assistant_finds(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    with Broker(tmp_path) as broker, Reader(broker) as reader:
        with forwarding(daemon, mqtt={"home": {"url": broker.url, "shares_every_s": 0.1}}):
            daemon.event(event_document(0))
            daemon.event(event_document(1))
            daemon.send(zones_parts("gate", {"picture": {"road": 0.5}, "ramp": {"water": 0.4}}))
            assert numbers(reader.wait(FLOOD, 2)) == [0, 1]
            said = json.loads(reader.wait("streamseg/gate/zone/ramp")[0])
            assert said["percent"] == {"water": 40.0}
            until(lambda: len(json.loads(reader.of(DEVICE)[-1])["components"]) == 3, "the components")
            assert reader.wait("streamseg/gate/availability")[-1] == b"online"
            with Reader(broker, "homeassistant/#") as late:
                assert json.loads(late.wait(DEVICE)[0])["device"]["name"] == "gate", "it is retained"
        assert reader.wait("streamseg/_forward/streamseg", 2) == [b"online", b"offline"]


def test_what_is_gone_is_taken_back_from_home_assistant_also_after_a_restart(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    place = {"home": {"url": "", "shares_every_s": 0.1}}
    with Broker(tmp_path) as broker, Reader(broker) as reader:
        place["home"]["url"] = broker.url
        with forwarding(daemon, mqtt=place):
            daemon.event(event_document(0))
            daemon.send(zones_parts("gate", {"picture": {"road": 0.5}, "ramp": {"water": 0.4}}))
            reader.wait("streamseg/gate/zone/ramp")
            reader.wait(FLOOD)
        with forwarding(daemon, mqtt=place):
            daemon.send(zones_parts("gate", {"picture": {"road": 0.5}}))
            assert reader.wait("streamseg/gate/zone/ramp", 2)[-1] == b""
            between, after = (json.loads(data)["components"] for data in reader.of(DEVICE)[-2:])
            key = "streamseg_gate_zone_ramp_water"
            assert between[key] == {"platform": "sensor"}, "how a component is removed"
            assert set(between) - set(after) == {key}
            daemon.send(zones_parts("gate", {}, events=["flood", "jam"]))
            until(lambda: "streamseg_gate_event_jam" in json.loads(reader.of(DEVICE)[-1])["components"],
                  "a sensor for an event that has not been yet")  # fmt: skip
            daemon.send(zones_parts("gate", {}, events=[]))
            until(lambda: reader.of(FLOOD)[-1] == b"", "its last state to go")
            until(lambda: "streamseg_gate_event_flood" not in json.loads(reader.of(DEVICE)[-1])["components"],
                  "the event's sensor to go")  # fmt: skip


@pytest.mark.slow
def test_a_killed_forwarder_goes_on_behind_the_last_event_that_was_taken(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    out = tmp_path / "out.jsonl"
    words = ("--out", out, "--state", tmp_path / "state")
    for n in range(0, 60, 20):
        asked = daemon.asked
        with Lines(command(daemon, *words), errors=True) as process:
            until(lambda asked=asked: daemon.asked > asked, "the forwarder")
            for i in range(n, n + 10):
                daemon.event(event_document(i, stream="gate"))
            until(lambda n=n: out.exists() and len(events_in(out)) >= n + 5, lambda: process.lines)
            process.process.kill()
        for i in range(n + 10, n + 20):  # while nobody listens
            daemon.event(event_document(i), silent=True)
    with Lines(command(daemon, *words), errors=True):
        until(lambda: len(set(events_in(out))) == 60, lambda: events_in(out))
    found = events_in(out)
    assert sorted(set(found)) == list(range(60))
    assert [n for at, n in enumerate(found) if n not in found[:at]] == list(range(60)), "in order"


def events_in(path: Path) -> list[int]:
    said = [json.loads(line) for line in path.read_text().split("\n")[:-1]]  # the last is being written
    return [one["event_n"] for one in said if one["kind"] == "event"]


@pytest.mark.slow
def test_a_broker_that_is_away_for_10_000_messages_gets_all_events_in_order_and_the_newest_shares(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    with Broker(tmp_path) as broker:
        words = ("--mqtt", broker.url, "--out", tmp_path / "there.jsonl", "--state", state)
        with Lines(command(daemon, *words), errors=True) as process:
            process.wait("mqtt main: connected to")
            until(lambda: daemon.asked, "the forwarder")
            broker.stop()
            memory = psutil.Process(process.process.pid).memory_info
            before = 0
            for n in range(10_000):
                daemon.event(event_document(n))
                if n % 50 == 0:
                    daemon.send(zones_parts("gate", {"ramp": {"water": n / 10_000}}, n))
                if n % 500 == 499:
                    until(lambda n=n: taken(state) > n, lambda: f"{taken(state)} taken")
                    before = before or memory().rss
            daemon.send(zones_parts("gate", {"ramp": {"water": 1.0}}, 10_000))
            there = tmp_path / "there.jsonl"
            until(
                lambda: there.read_bytes().count(b'"kind":"event"') == 10_000,
                "the other place, in no way late",
            )
            assert events_in(there) == list(range(10_000))
            grown, size = memory().rss - before, sum(f.stat().st_size for f in state.iterdir())
            print(f"memory grew by {grown / 1e6:.1f} MB, the queue has {size / 1e6:.1f} MB")
            assert grown < 30e6
            assert size < 64e6
            broker.start()
            with Reader(broker, "streamseg/#") as reader:
                found = numbers(reader.wait(FLOOD, 10_000))
                assert found == list(range(10_000))
                shares = [
                    json.loads(data)["percent"]["water"] for data in reader.wait("streamseg/gate/zone/ramp")
                ]
                assert shares == [100.0]
            assert len([line for line in process.lines if "does not answer" in line]) <= 2


def taken(state: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"file:{state / 'queue.sqlite'}?mode=ro", uri=True)) as db:
        return int(db.execute("SELECT coalesce(max(event_n), -1) FROM cursors").fetchone()[0]) + 1


def test_a_webhook_is_posted_begins_and_ends_in_order_signed_as_the_standard_has_it(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    key = b"0123456789abcdef0123456789abcdef"
    secret.write_text(f"whsec_{base64.b64encode(key).decode()}\n")
    secret.chmod(0o600)
    with Hook() as hook, forwarding(daemon, webhook={"p": {"url": hook.url, "secret_file": str(secret)}}):
        daemon.event(event_document(0))
        daemon.event(event_document(1, state="update", id=event_document(0).id, previous_n=0, why=""))
        daemon.event(event_document(2, state="end", id=event_document(0).id, previous_n=0, why="below"))
        until(lambda: len(hook.requests) == 2, "the posts")
    headers, body = hook.requests[1]
    assert numbers([body for _, body in hook.requests]) == [0, 2]
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    mac = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{mac}"
    assert headers["webhook-id"] == f"{event_document(0).id}-2"
    assert abs(int(headers["webhook-timestamp"]) - time.time()) < 60
    assert headers["content-type"] == "application/json"


def test_what_a_hook_cannot_take_now_is_posted_again_what_it_never_will_is_left_out(
    daemon: FakeDaemon, caplog: pytest.LogCaptureFixture
) -> None:
    answers = iter([(503, {}), (302, {"Location": "http://127.0.0.1:1/"}), (200, {}), (422, {}), (200, {})])
    with Hook() as hook, forwarding(daemon, webhook={"p": {"url": hook.url}}):
        hook.answer = lambda _: next(answers)
        for n in range(3):
            daemon.event(event_document(n))
        until(lambda: len(hook.requests) == 5, lambda: hook.requests)
    assert numbers([body for _, body in hook.requests]) == [0, 0, 0, 1, 2]
    assert "answers 503" in caplog.text
    assert "redirects are not followed" in caplog.text
    assert "refuses event" in caplog.text
    assert "secret/path" not in caplog.text


def test_a_hook_that_hangs_costs_one_line_and_delays_no_other_place(
    daemon: FakeDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hangs = threading.Event()
    asked: list[bytes] = []

    def answer(body: bytes) -> tuple[int, dict[str, str]]:
        asked.append(body)
        return 200 if hangs.wait(LIMIT_S) else 500, {}

    out = tmp_path / "out.jsonl"
    places = {"webhook": {"p": {"url": "", "timeout_s": 0.3}}, "file": {"f": {"path": str(out)}}}
    with Hook() as hook:
        places["webhook"]["p"]["url"] = hook.url
        with forwarding(daemon, **places):
            hook.answer = answer
            for n in range(50):
                daemon.event(event_document(n))
            until(lambda: out.exists() and len(events_in(out)) == 50, "the file")
            until(lambda: "no answer in 0.3 s" in caplog.text, "the line")
            until(lambda: len(asked) > 2, "that it is tried again")
            assert caplog.text.count("no answer in 0.3 s") == 1
            hangs.set()
            until(lambda: 49 in numbers([body for _, body in hook.requests]), "the hook")


def test_after_a_begin_the_next_ones_of_its_name_are_left_out_while_it_cools_down(
    daemon: FakeDaemon,
) -> None:
    with Hook() as hook, forwarding(daemon, webhook={"p": {"url": hook.url, "cooldown_s": 10}}):
        for n in range(16):  # a begin every 2 s of media time
            daemon.event(event_document(n))
        until(lambda: len(hook.requests) == 4, lambda: hook.requests)
    assert numbers([body for _, body in hook.requests]) == [0, 1, 10, 11]


def test_kafka_consumers_get_every_event_in_order_with_the_stream_as_key(daemon: FakeDaemon) -> None:
    """No Kafka broker can be had from PyPI or Debian: the cluster is the one inside librdkafka."""
    kafka = pytest.importorskip("confluent_kafka")
    cluster = kafka.Producer({"test.mock.num.brokers": 3, "log_level": 0})
    broker = next(iter(cluster.list_topics(timeout=LIMIT_S).brokers.values()))
    brokers = f"{broker.host}:{broker.port}"
    reader = kafka.Consumer(
        {"bootstrap.servers": brokers, "group.id": "t", "auto.offset.reset": "earliest", "log_level": 0,
         "topic.metadata.refresh.interval.ms": 200}
    )  # fmt: skip
    for topic in ("streamseg-events", "streamseg-zones"):
        cluster.produce(topic, b"{}")  # makes the topic
    assert cluster.flush(LIMIT_S) == 0
    reader.subscribe(["streamseg-events", "streamseg-zones"])
    records: list[Any] = []
    try:
        with forwarding(daemon, kafka={"bus": {"brokers": brokers, "shares_every_s": 0.1}}):
            for n in range(300):
                daemon.event(event_document(n))
            daemon.send(zones_parts("gate", {"ramp": {"water": 0.4}}))
            deadline_s = time.monotonic() + LIMIT_S
            while len(records) < 303 and time.monotonic() < deadline_s:
                record = reader.poll(0.2)
                if record is not None and record.error() is None:
                    records.append(record)
    finally:
        reader.close()
    events = [r for r in records if r.topic() == "streamseg-events" and r.value() != b"{}"]
    assert numbers([record.value() for record in events]) == list(range(300))
    assert {record.key() for record in events} == {b"gate"}
    assert dict(events[4].headers())["id"] == event_document(4).id.encode()
    assert events[4].timestamp()[1] == event_document(4).at_unix_ns // 1_000_000
    shares = [json.loads(r.value()) for r in records if r.topic() == "streamseg-zones" and r.value() != b"{}"]
    assert [one["zones"][1]["zone"] for one in shares] == ["ramp"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # apprise imports imghdr
def test_people_are_sent_the_template_s_words(daemon: FakeDaemon, tmp_path: Path) -> None:
    pytest.importorskip("apprise")
    urls = tmp_path / "urls"
    with Hook() as hook:
        urls.write_text(f"json://127.0.0.1:{hook.url.split(':')[2]}\n")
        urls.chmod(0o600)
        place = {"urls_file": str(urls), "title": "$stream: $event", "text": "$zone $percent % ($state)"}
        with forwarding(daemon, apprise={"me": place}):
            daemon.event(event_document(0))
            until(lambda: hook.requests, "the message")
    said = json.loads(hook.requests[0][1])
    assert (said["title"], said["message"]) == ("gate: flood", "ramp 41.0 % (begin)")


def test_a_file_that_is_rotated_is_opened_again(daemon: FakeDaemon, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    with forwarding(daemon, file={"f": {"path": str(out)}}):
        daemon.event(event_document(0))
        until(lambda: out.exists() and events_in(out) == [0], "the first")
        out.rename(tmp_path / "out.1")
        daemon.event(event_document(1))
        until(lambda: out.exists() and events_in(out) == [1], "the second")
    assert events_in(tmp_path / "out.1") == [0]


def test_a_broker_that_has_forgotten_everything_is_told_the_devices_and_open_events_again(
    daemon: FakeDaemon, tmp_path: Path
) -> None:
    with Broker(tmp_path) as broker, forwarding(daemon, mqtt={"home": {"url": broker.url}}):
        with Reader(broker) as reader:
            daemon.event(event_document(0))
            reader.wait(FLOOD)
            reader.wait("streamseg/gate/availability")
        broker.stop()
        broker.start()
        with Reader(broker) as reader:
            assert numbers(reader.wait(FLOOD)) == [0]
            assert json.loads(reader.wait(DEVICE)[0])["device"]["name"] == "gate"
            assert reader.wait("streamseg/gate/availability") == [b"online"]


def certificates(folder: Path) -> None:
    """ca.pem, and server.pem and client.pem by it, each with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl here: apt-get install openssl")
    new = [
        "openssl",
        "req",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-nodes",
        "-days",
        "2",
    ]

    def run(*words: str) -> None:
        subprocess.run([*new, *words], cwd=folder, check=True, capture_output=True)

    run("-x509", "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test authority")
    for name in ("server", "client"):
        run("-x509", "-CA", "ca.pem", "-CAkey", "ca.key", "-keyout", f"{name}.key", "-out", f"{name}.pem",
            "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
            "-addext", "basicConstraints=critical,CA:FALSE")  # fmt: skip


# paho leaves a socket whose handshake failed to Python, which closes it.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_tls_needs_the_right_authority_and_the_broker_may_ask_for_our_certificate(
    daemon: FakeDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificates(tmp_path)
    files = [f"{name} {tmp_path / file}" for name, file in
             (("cafile", "ca.pem"), ("certfile", "server.pem"), ("keyfile", "server.key"))]  # fmt: skip
    out = tmp_path / "out"
    with Broker(tmp_path, "allow_anonymous true", *files, "require_certificate true") as broker:
        ours = {
            "url": broker.url.replace("mqtt:", "mqtts:"),
            "ca_file": str(tmp_path / "ca.pem"),
            "cert_file": str(tmp_path / "client.pem"),
            "key_file": str(tmp_path / "client.key"),
        }
        caplog.set_level(logging.INFO)
        with forwarding(daemon, mqtt={"a": ours | {"ca_file": ""}}, file={"f": {"path": str(out)}}):
            until(lambda: "TLS fails (" in caplog.text, lambda: caplog.text)
        bare = {key: ours[key] for key in ("url", "ca_file")}
        with forwarding(daemon, mqtt={"b": bare}):
            until(lambda: "does it ask for a certificate?" in caplog.text, lambda: caplog.text)
        with forwarding(daemon, mqtt={"c": ours}):
            until(lambda: "mqtt c: connected to" in caplog.text, lambda: caplog.text)


def test_a_full_disk_costs_one_line_and_no_line_of_the_file(
    daemon: FakeDaemon, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with full_disk(Place(tmp_path, tmp_path)) as disk:
        if disk is None:
            pytest.skip("no disk can be mounted here")
        filler = disk / "filler"
        filler.write_bytes(bytes(62 << 10))
        out = disk / "out.jsonl"
        with forwarding(daemon, file={"f": {"path": str(out), "shares_every_s": 0}}):
            for n in range(50):
                daemon.event(event_document(n))
            until(lambda: "cannot be written (No space left on device)" in caplog.text, lambda: caplog.text)
            filler.unlink()
            until(lambda: len(events_in(out)) == 50, lambda: caplog.text)
        assert events_in(out) == list(range(50))
    assert caplog.text.count("No space left") == 1


def test_the_dashboard_of_grafana_asks_for_metrics_that_there_are() -> None:
    dashboard = json.loads((ROOT / "deploy/grafana/streamseg.json").read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    asked += " " + " ".join(str(one["query"]) for one in dashboard["templating"]["list"])
    names = {name.removesuffix("_total") for name in re.findall(r"\bstreamseg_(\w+)", asked)}
    source = (ROOT / "streamseg/web/metrics.py").read_text()
    there = set(re.findall(r'_(?:gauge|counter)\("(\w+)"', source)) | set(
        re.findall(r'"streamseg_(\w+)"', source)
    )
    assert len(names) >= 7
    assert names - there == set()


def test_it_ends_when_nobody_reads_its_output(daemon: FakeDaemon) -> None:
    with subprocess.Popen(
        [str(word) for word in command(daemon, "--out", "-")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(),
    ) as process:  # fmt: skip
        until(lambda: daemon.asked, "the forwarder")
        assert process.stdout is not None
        process.stdout.close()
        daemon.event(event_document(0))
        daemon.event(event_document(1))
        daemon.event(event_document(2))
        assert process.wait(LIMIT_S) == 1
        assert process.stderr is not None
        assert b"Traceback" not in process.stderr.read()


def test_a_check_tries_every_connection_and_sends_nothing(
    daemon: FakeDaemon, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Broker(tmp_path) as broker, Hook() as hook, Reader(broker) as reader:
        (tmp_path / "all.toml").write_text(
            f'endpoint = "{daemon.endpoint}"\n[mqtt.home]\nurl = "{broker.url}"\n'
            f'[webhook.here]\nurl = "{hook.url}"\n[webhook.gone]\nurl = "http://127.0.0.1:1/"\n'
        )
        with pytest.raises(SystemExit) as ended:
            cli.main(["forward", "--config", str(tmp_path / "all.toml"), "--check"], standalone_mode=False)
        lines = capsys.readouterr().out.splitlines()
        assert (hook.requests, reader.messages) == ([], [])
    assert ended.value.code == 1
    assert [line.partition(":")[0] for line in lines] == [
        "ok   daemon", "ok   mqtt home", "ok   webhook here", "FAIL webhook gone"
    ]  # fmt: skip
    assert "gate" in lines[0]
    assert lines[3].endswith("http://127.0.0.1:1: does not answer (Connection refused)")
