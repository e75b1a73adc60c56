"""The connection to an MQTT 5 broker: publish, and know that it was taken."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from streamseg.errors import one_line
from streamseg.forward.settings import MqttConfig
from streamseg.forward.sink import SinkError, read_secret, tls_context

if TYPE_CHECKING:
    from paho.mqtt.client import Client

ANSWER_WITHIN_S = 10.0
AROUND = 16  # bytes of a packet besides its topic and payload, at most
KEEPALIVE_S = 30
SETTLED_S = 0.3  # so long after the answer to SUBSCRIBE, or the last message, what is retained has come


BAD_LOGIN = frozenset({0x86, 0x87, 0x8C})  # answers to CONNECT that a name or password would change
BLAMES = frozenset({0x81, 0x82, 0x90, 0x95, 0x99})  # what we sent, not us: so it ends connections


class BlamedError(SinkError):
    """The broker has refused a message for itself, or ended the connection at one, perhaps this one."""

    def __init__(self, problem: str, topic: str, size: int) -> None:
        super().__init__(problem)
        self.topic = topic
        self.size = size  # of its payload


class Broker:
    """One connection, which is not made again when it breaks. paho's thread only notes what happened.

    Belongs to one thread; each call waits for the broker's answer, and raises SinkError without one.
    """

    def __init__(self, config: MqttConfig, client_id: str, will: tuple[str, bytes] | None) -> None:
        """Connect; with a will, it is what others are told when we are gone. Raises ConfigError, too."""
        parts = urlsplit(config.url)
        tls = parts.scheme == "mqtts"
        self._address = (parts.hostname or "", parts.port or (8883 if tls else 1883))
        self.where = f"{self._address[0]}:{self._address[1]}"
        asks = "does it ask for a certificate?" if tls and not config.cert_file else ""
        self._hint = asks or "is it an MQTT 5 broker?"
        self._refused_hint = "check username and password_file"
        self._changed = threading.Condition()  # guards everything below that is noted
        self._welcome: str | None = None  # what is wrong, by the broker's answer to CONNECT; empty: nothing
        self._lost = ""  # why the connection has ended
        self._blamed = False  # it has ended because of what we sent
        self._most_bytes = 0  # of a packet; 0: any
        self._answers: dict[int, Any] = {}  # to what was published or subscribed: the last reason code
        self._retained: dict[str, bytes] = {}
        self._arrived_s = 0.0
        self._client = self._new_client(config, client_id, will, tls)
        try:
            self._connect()
        except BaseException:
            self._stop()
            raise

    def takes(self, topic: str, data: bytes) -> bool:
        """Whether the broker has said that it takes packets as large as this."""
        return not self._most_bytes or len(topic.encode()) + len(data) + AROUND <= self._most_bytes

    def publish(
        self, messages: Sequence[tuple[str, bytes]], taken: Callable[[int], None] = lambda _: None,
        *, retain: bool = True,
    ) -> None:  # fmt: skip
        """Publish (topic, payload) in order; taken(index) is called for each that the broker has.

        Raises BlamedError where one of them is what the broker does not like.
        """
        numbers = [self._client.publish(t, data, qos=1, retain=retain).mid for t, data in messages]
        try:
            for at, number in enumerate(numbers):
                topic, data = messages[at]
                try:
                    code = self._answer(number)
                except SinkError as error:
                    raise BlamedError(str(error), topic, len(data)) if self._blamed else error from None
                if problem := _words(code):
                    why = f"{self.where}: does not take {topic} ({problem})"
                    raise BlamedError(why, topic, len(data)) if code.value in BLAMES else SinkError(why)
                taken(at)
        finally:
            with self._changed:
                for number in numbers:
                    self._answers.pop(number, None)

    def retained(self, topic: str) -> dict[str, bytes]:
        """What the broker has kept under topics of this pattern, without what we publish from now on."""
        from paho.mqtt.subscribeoptions import SubscribeOptions

        with self._changed:
            self._retained = {}
        _, number = self._client.subscribe(topic, options=SubscribeOptions(qos=1, noLocal=True))
        if number is None or (problem := _words(self._answer(number))):
            raise SinkError(f"{self.where}: does not let us read {topic} ({problem if number else 'lost'})")
        with self._changed:
            self._arrived_s = time.monotonic()
            while (left_s := self._arrived_s + SETTLED_S - time.monotonic()) > 0 and not self._lost:
                self._changed.wait(left_s)
        self._client.unsubscribe(topic)
        return self._retained

    def check(self) -> None:
        """Raise SinkError when the connection has ended meanwhile."""
        with self._changed:
            if self._lost:
                raise SinkError(f"{self.where}: {self._lost}")

    def close(self) -> None:
        self._client.disconnect()
        self._stop()

    def _connect(self) -> None:
        try:
            self._client.connect(*self._address, keepalive=KEEPALIVE_S, clean_start=True)
        except ssl.SSLError as error:
            raise SinkError(f"{self.where}: TLS fails ({_tls_reason(error)})") from error
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", "") or one_line(error)
            raise SinkError(f"{self.where}: does not answer ({reason})") from error
        self._client.loop_start()
        with self._changed:
            answered = self._changed.wait_for(
                lambda: self._welcome is not None or self._lost, ANSWER_WITHIN_S
            )
        if self._welcome:
            raise SinkError(f"{self.where}: does not let us in ({self._welcome}); {self._refused_hint}")
        if self._welcome is None:
            why = self._lost or ("" if answered else f"no answer in {ANSWER_WITHIN_S:g} s")
            raise SinkError(f"{self.where}: {why}; {self._hint}")

    def _answer(self, number: int) -> Any:
        with self._changed:
            self._changed.wait_for(lambda: number in self._answers or self._lost, ANSWER_WITHIN_S)
            if number in self._answers:
                return self._answers.pop(number)
            raise SinkError(f"{self.where}: {self._lost or f'no answer in {ANSWER_WITHIN_S:g} s'}")

    def _stop(self) -> None:
        self._client.loop_stop()

    def _new_client(
        self, config: MqttConfig, client_id: str, will: tuple[str, bytes] | None, tls: bool
    ) -> Client:
        from paho.mqtt.client import Client
        from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

        client = Client(
            CallbackAPIVersion.VERSION2, client_id, protocol=MQTTProtocolVersion.MQTTv5,
            reconnect_on_failure=False,
        )  # fmt: skip
        client.connect_timeout = ANSWER_WITHIN_S
        if config.username:
            password = read_secret(config.password_file, "password_file") if config.password_file else None
            client.username_pw_set(config.username, password)
        if tls:
            client.tls_set_context(tls_context(config))
        if will is not None:
            client.will_set(will[0], will[1], qos=1, retain=True)
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_publish = self._on_publish
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _on_connect(self, _client: Any, _data: Any, _flags: Any, code: Any, properties: Any) -> None:
        with self._changed:
            self._welcome = _words(code)
            if code.value not in BAD_LOGIN:
                self._refused_hint = "needed: MQTT 5 with QoS 1 and retained messages"
            self._most_bytes = getattr(properties, "MaximumPacketSize", 0)
            self._changed.notify_all()

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, code: Any, _properties: Any) -> None:
        with self._changed:
            words = _words(code)
            if "taken over" in words or words == "Unspecified error":  # what an older mosquitto says of it
                words += "; each forwarder needs a client_id of its own"
            self._blamed = self._blamed or code.value in BLAMES
            self._lost = self._lost or f"has ended the connection ({words or 'disconnected'})"
            self._changed.notify_all()

    def _on_publish(self, _client: Any, _data: Any, number: int, code: Any, _properties: Any) -> None:
        with self._changed:
            self._answers[number] = code
            self._changed.notify_all()

    def _on_subscribe(self, _client: Any, _data: Any, number: int, codes: Any, _properties: Any) -> None:
        with self._changed:
            self._answers[number] = codes[0]
            self._changed.notify_all()

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        with self._changed:
            self._arrived_s = time.monotonic()
            if len(self._retained) < 4096:
                self._retained[message.topic] = message.payload
            self._changed.notify_all()


def _words(code: Any) -> str:
    """What is wrong, by a reason code of MQTT 5; empty where nothing is."""
    return str(code) if code.is_failure else ""


def _tls_reason(error: ssl.SSLError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return one_line(error.verify_message)
    return one_line(error.reason or error)
