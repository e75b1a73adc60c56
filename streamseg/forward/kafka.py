"""Kafka: a record for each event, and for the newest shares, with the stream as its key."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from streamseg.errors import one_line
from streamseg.forward.settings import KafkaConfig
from streamseg.forward.sink import Message, News, SinkError, Taken, read_secret
from streamseg.runtime.files import expand

if TYPE_CHECKING:
    from confluent_kafka import KafkaError, Producer

DELIVER_WITHIN_S = 10.0


class Kafka:
    """A producer that is idempotent, so that its own retries neither double nor disorder records."""

    connects = True
    pictures_every_s = 0.0

    def __init__(self, config: KafkaConfig) -> None:
        self._config = config
        self.where = config.brokers
        self.masks_every_s = config.masks_every_s
        self._producer: Producer | None = None
        self._lock = threading.Lock()  # guards _problem, which librdkafka's thread writes
        self._problem = ""

    def open(self) -> None:
        from confluent_kafka import KafkaException, Producer

        self._problem = ""
        try:
            self._producer = Producer(self._options())
            self._producer.list_topics(timeout=DELIVER_WITHIN_S)
        except KafkaException as error:
            if self._producer is not None:
                self._producer.poll(0)  # which notes what the brokers said
            raise self._error(error.args[0]) from error

    def send(self, messages: Sequence[Message], taken: Taken) -> None:
        """Wait until every record is stored by all replicas in sync."""
        outcomes: list[KafkaError | bool | None] = [False] * len(messages)

        def delivered(at: int, error: KafkaError | None, _: Any) -> None:
            outcomes[at] = error

        for at, message in enumerate(messages):
            said = message.said
            headers = {"id": said.id, "event_n": str(said.event_n), "journal": said.journal,
                       "state": said.state}  # fmt: skip
            self._produce(
                self._config.events_topic, message.event.document, said.stream, headers,
                said.at_unix_ns // 1_000_000, partial(delivered, at),
            )  # fmt: skip
        self._flush()
        for message, outcome in zip(messages, outcomes, strict=True):
            if outcome is False:
                raise self._error(None)
            if outcome is not None and outcome is not True:
                if outcome.name() not in ("MSG_SIZE_TOO_LARGE", "INVALID_RECORD"):
                    raise self._error(outcome)
                taken(message, outcome.str())
            else:
                taken(message, "")

    def show(self, news: News) -> None:
        failed: list[KafkaError] = []
        topics = {self._config.shares_topic: news.zones, self._config.masks_topic: news.masks}
        for topic, documents in topics.items():
            for stream, document in documents.items():
                self._produce(
                    topic, document, stream, {}, 0,
                    lambda error, _: failed.append(error) if error is not None else None,
                )  # fmt: skip
        self._flush()
        if failed:
            raise self._error(failed[0])

    def keep(self) -> None:
        """Nothing ends by itself."""

    def close(self) -> None:
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1.0)
        self._producer = None

    def check(self) -> str:
        self.open()
        return f"sends events to topic {self._config.events_topic}" + (
            f", shares to {self._config.shares_topic}" if self._config.shares_every_s else ""
        )

    def _produce(
        self, topic: str, value: bytes, key: str, headers: dict[str, str], unix_ms: int, done: Any
    ) -> None:
        from confluent_kafka import KafkaException

        assert self._producer is not None
        try:
            self._producer.produce(
                topic, value, key=key, headers=dict(headers), timestamp=unix_ms, on_delivery=done
            )
        except (KafkaException, BufferError) as error:
            raise SinkError(f"{self.where}: {one_line(error)}") from error

    def _flush(self) -> None:
        assert self._producer is not None
        self._producer.flush(DELIVER_WITHIN_S + 1)

    def _error(self, error: KafkaError | None) -> SinkError:
        """Why it does not work: what the broker said first, rather than that time ran out."""
        with self._lock:
            said = self._problem
        text = said or (error.str() if error is not None else f"no answer in {DELIVER_WITHIN_S:g} s")
        return SinkError(f"{self.where}: {one_line(text)}")

    def _note(self, error: KafkaError) -> None:
        with self._lock:
            if error.name() != "_ALL_BROKERS_DOWN" and not self._problem:
                self._problem = error.str()

    def _options(self) -> dict[str, Any]:
        config = self._config
        options: dict[str, Any] = {
            "bootstrap.servers": config.brokers,
            "client.id": "streamseg-forward",
            "enable.idempotence": True,
            "message.timeout.ms": int(DELIVER_WITHIN_S * 1000),
            "socket.timeout.ms": int(DELIVER_WITHIN_S * 1000),
            "linger.ms": 5,
            "compression.type": "lz4",
            "error_cb": self._note,
            "log_level": 0,
        }
        if config.tls:
            options["security.protocol"] = "ssl"
            for key, path in (
                ("ssl.ca.location", config.ca_file),
                ("ssl.certificate.location", config.cert_file),
                ("ssl.key.location", config.key_file or config.cert_file),
            ):
                if path:
                    options[key] = expand(path, "ca_file" if key == "ssl.ca.location" else "cert_file")
        if config.username:
            options["security.protocol"] = "sasl_ssl" if config.tls else "sasl_plaintext"
            options["sasl.mechanism"] = config.mechanism
            options["sasl.username"] = config.username
            options["sasl.password"] = (
                read_secret(config.password_file, "password_file") if config.password_file else ""
            )
        return options
