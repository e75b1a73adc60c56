"""A real MQTT broker that can be stopped and started again at the same port, and a reader of what it has."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

from tests.ports import free_port
from tests.waiting import LIMIT_S, until

MOSQUITTO = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")


class Broker:
    """mosquitto on loopback, without a store of its own: what is retained ends with it."""

    def __init__(self, folder: Path, *lines: str) -> None:
        """lines: of its configuration, instead of access for everybody."""
        pytest.importorskip("paho.mqtt.client")
        if MOSQUITTO is None:
            pytest.skip("no mosquitto here: apt-get install mosquitto")
        self.port = free_port()
        self.url = f"mqtt://127.0.0.1:{self.port}"
        self._config = folder / "mosquitto.conf"
        access = lines or ("allow_anonymous true",)
        text = [f"listener {self.port} 127.0.0.1", "max_queued_messages 0", "persistence false", *access]
        text += ["user root"]  # whom tests may run as; mosquitto's own user may not read their folders
        self._config.write_text("\n".join(text) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        assert MOSQUITTO is not None
        command = [MOSQUITTO, "-c", str(self._config)]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        until(self._answers, "the broker")

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(LIMIT_S)
        self._process = None

    def _answers(self) -> bool:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 1).close()
            return True
        return False


class Reader:
    """Everything that a broker publishes under a pattern, in order."""

    def __init__(self, broker: Broker, pattern: str = "#", **login: str) -> None:
        import paho.mqtt.client as mqtt
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        self.messages: list[tuple[str, bytes]] = []
        subscribed = threading.Event()
        self._client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv5)
        if login:
            self._client.username_pw_set(login["username"], login["password"])
        self._client.on_message = self._take
        self._client.on_subscribe = lambda *_: subscribed.set()
        self._client.connect("127.0.0.1", broker.port)
        self._client.subscribe(pattern, qos=1)
        self._client.loop_start()
        assert subscribed.wait(LIMIT_S)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def of(self, topic: str) -> list[bytes]:
        """What came with this topic so far."""
        return [data for found, data in list(self.messages) if found == topic]

    def wait(self, topic: str, count: int = 1) -> list[bytes]:
        until(lambda: len(self.of(topic)) >= count, lambda: f"{count} of {topic}: {len(self.of(topic))}")
        return self.of(topic)

    def _take(self, _client: Any, _data: Any, message: Any) -> None:
        self.messages.append((message.topic, message.payload))
