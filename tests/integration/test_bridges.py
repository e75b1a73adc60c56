"""The bridges under examples/ against a real MQTT broker and librdkafka's own Kafka cluster; the overlay."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import json
import queue
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from streamseg import wire
from streamseg.config import PublishConfig
from streamseg.publish import Publisher
from streamseg.types import Mask
from tests.integration.children import ROOT
from tests.integration.daemons import Lines, environment, run_daemon
from tests.masks import STREET, make_mask
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

EXAMPLES = ROOT / "examples"


@pytest.fixture
def publisher() -> Iterator[Publisher]:
    with Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*", queue=100), [STREET]) as publisher:
        yield publisher


def loaded(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def same_mask(document: bytes, stream: str, mask: Mask) -> dict[str, Any]:
    """Check that a forwarded document is this mask, as anybody's protocol reader sees it."""
    found = wire.decode_message([f"rle/{stream}/".encode(), document])
    assert isinstance(found, Mask)
    assert np.array_equal(found.labels, mask.labels)
    assert (found.stream, found.seq, found.captured_unix_ns) == (stream, mask.seq, mask.captured_unix_ns)
    said: dict[str, Any] = json.loads(document)
    return said


def test_mqtt_subscribers_get_headers_and_run_lengths_and_the_last_mask_at_once(
    publisher: Publisher, tmp_path: Path
) -> None:
    mqtt = pytest.importorskip("paho.mqtt.client")
    mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if mosquitto is None:
        pytest.skip("no mosquitto here: apt-get install mosquitto")
    port = free_port()
    (tmp_path / "mosquitto.conf").write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\n")
    broker = [mosquitto, "-c", str(tmp_path / "mosquitto.conf")]
    command = [sys.executable, EXAMPLES / "mqtt_bridge.py", publisher.endpoint, f"mqtt://127.0.0.1:{port}"]
    mask = make_mask(5)
    came: queue.Queue[tuple[str, bytes, bool]] = queue.Queue()
    reader = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
    reader.on_message = lambda _c, _u, m: came.put((m.topic, m.payload, m.retain))
    reader.on_connect = lambda *_: reader.subscribe("streamseg/#")
    reader.reconnect_delay_set(1, 1)

    def wait(topic: str) -> tuple[bytes, bool]:
        while True:
            found, payload, retained = came.get(timeout=LIMIT_S)
            if found == topic:
                return payload, retained

    with Lines(command), subprocess.Popen(broker, stderr=subprocess.DEVNULL) as process:
        try:

            def connected() -> bool:
                with contextlib.suppress(OSError):
                    reader.connect("127.0.0.1", port)
                    return True
                return False

            until(connected, "the broker")
            reader.loop_start()
            while wait("streamseg/bridge")[0] != b"online":
                pass
            publisher.put(mask)
            document = same_mask(wait("streamseg/gate/mask")[0], "gate", mask)
            assert document["segments"][0]["category"] == "road"
            assert document["n"] == 0
            late = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2)
            late.on_message = reader.on_message
            late.connect("127.0.0.1", port)
            late.subscribe("streamseg/gate/mask")
            late.loop_start()
            payload, retained = wait("streamseg/gate/mask")
            assert retained
            same_mask(payload, "gate", mask)
            late.loop_stop()
            late.disconnect()
        finally:
            reader.loop_stop()
            reader.disconnect()
            process.terminate()
            process.wait(LIMIT_S)


def test_kafka_consumers_get_headers_keys_times_and_run_lengths(publisher: Publisher) -> None:
    """No Kafka broker can be had from PyPI or Debian: the cluster is the one inside librdkafka."""
    kafka = pytest.importorskip("confluent_kafka")
    cluster = kafka.Producer({"test.mock.num.brokers": 1, "log_level": 0})
    broker = next(iter(cluster.list_topics(timeout=LIMIT_S).brokers.values()))
    brokers = f"{broker.host}:{broker.port}"
    cluster.produce("streamseg.masks", b"first")  # makes the topic
    assert cluster.flush(LIMIT_S) == 0
    reader = kafka.Consumer(
        {"bootstrap.servers": brokers, "group.id": "test", "auto.offset.reset": "earliest", "log_level": 0}
    )
    reader.subscribe(["streamseg.masks"])
    mask = make_mask(5, stream="yard")
    try:
        with Lines([sys.executable, EXAMPLES / "kafka_bridge.py", publisher.endpoint, brokers]):
            assert publisher.wait_wanted("mask", "yard", LIMIT_S)
            publisher.put(mask)
            deadline = time.monotonic() + LIMIT_S
            while (record := reader.poll(0.5)) is None or record.error() or record.value() == b"first":
                assert time.monotonic() < deadline
    finally:
        reader.close()
    same_mask(record.value(), "yard", mask)
    assert record.key() == b"yard"
    assert record.timestamp()[1] == mask.captured_unix_ns // 1_000_000
    headers = dict(record.headers())
    assert headers["stream"] == b"yard"
    assert headers["seq"] == b"5"
    assert headers["label_set"] == b"street3"
    assert int(headers["run"]) == publisher.run


def test_the_overlay_example_writes_a_video_with_the_masks_over_their_pictures(
    tiny_engine: Path, tmp_path: Path
) -> None:
    clip = draw_clip(tmp_path / "red.mp4", frames=30)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    words = ("--source", clip, "--engine", tiny_engine, "--realtime", "--loop", "--endpoint", endpoint)
    out = tmp_path / "out.mp4"
    command = [sys.executable, EXAMPLES / "overlay.py", endpoint, "video", out, "8"]
    with run_daemon(*words):
        subprocess.run([str(w) for w in command], timeout=60, check=True, env=environment(), cwd=tmp_path)
    video = cv2.VideoCapture(str(out))
    assert video.get(cv2.CAP_PROP_FRAME_COUNT) == 8
    _, frame = video.read()
    assert frame.shape == (48, 64, 3)


def test_the_overlay_tints_classes_and_leaves_unknown_pixels() -> None:
    overlay = loaded(EXAMPLES / "overlay.py").overlay
    labels = np.array([[0, 1], [255, 2]], np.uint8)
    shown = overlay(np.full((2, 2, 3), 100, np.uint8), labels, STREET)
    assert shown[1, 0].tolist() == [100, 100, 100]
    assert shown[0, 0].tolist() == [(100 + c + 1) // 2 for c in (128, 64, 128)]


def test_what_ros_would_be_sent_is_right_and_its_node_is_valid_python() -> None:
    fields = loaded(EXAMPLES / "ros2/fields.py")
    mask = make_mask(3, captured_unix_ns=1_700_000_000_123_456_789)
    image = fields.image_fields(mask)
    assert len(image["data"]) == image["height"] * image["step"]
    assert np.frombuffer(image["data"], np.uint8).reshape(36, 48).tolist() == mask.labels.tolist()
    assert fields.stamp_of(mask) == (1_700_000_000, 123_456_789)
    assert fields.topic_of("2nd-gate.a") == "/streamseg/_2nd_gate_a/mask"
    ast.parse((EXAMPLES / "ros2/bridge.py").read_text())
