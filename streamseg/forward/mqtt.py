"""MQTT: events, shares and pictures by topic, with discovery by Home Assistant.

Events are retained; one counts as delivered when the broker has answered. A connection that breaks is
replaced by a new one, which begins behind the last event that was answered.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

import streamseg
from streamseg.forward.broker import BlamedError, Broker
from streamseg.forward.discovery import Device, Topics, device_document, read_device, slug, without
from streamseg.forward.latest import FORGET_S
from streamseg.forward.settings import MqttConfig
from streamseg.forward.shares import percents
from streamseg.forward.sink import Message, News, SinkError, Taken
from streamseg.wire import ZonesDocument

log = logging.getLogger(__name__)

MOST_EVENTS = 4096  # whose last message is remembered


class Mqtt:
    """One broker, and what it was told of each stream."""

    connects = True

    def __init__(self, config: MqttConfig) -> None:
        self._config = config
        self._topics = Topics(config)
        self._client_id = config.client_id or "streamseg"
        self.where = config.url.partition("://")[2]
        self.masks_every_s = config.masks_every_s
        self.pictures_every_s = config.pictures_every_s
        self._broker: Broker | None = None
        self._devices: dict[str, Device] = {}
        self._announced: dict[str, dict[str, Any]] = {}  # discovery documents, as the broker has them
        self._delivering: dict[str, bool] = {}
        self._unmet: dict[str, float] = {}  # streams announced earlier that no daemon has told of: since when
        self._last: dict[str, bytes] = {}  # event messages by topic, as they were sent last
        self._refused: dict[str, int] = {}  # by topic: payloads of this size end our connection
        self._one_by_one = False  # the last connection ended at a message, and it is not known at which
        self._left_out: set[str] = set()  # topics of which it was logged
        self._told = False  # that discovery cannot be read

    def open(self) -> None:
        will = (self._topics.forwarder, b"offline")
        self._broker = Broker(self._config, f"{self._client_id}-forward", will)
        self._broker.publish([(self._topics.forwarder, b"online")])
        self._announced, self._delivering = {}, {}
        if self._config.discovery:
            self._read_back(self._broker)
        if self._last:
            self._bring_back(self._broker)

    def send(self, messages: Sequence[Message], taken: Taken) -> None:
        for message in messages:
            device = self._device(message.said.stream)
            if message.said.event not in device.events:
                device.events.append(message.said.event)
                self._announce(message.said.stream, device)
        topics = [self._topics.event(message.said.stream, message.said.event) for message in messages]
        documents = [message.event.document for message in messages]
        self._publish(list(zip(topics, documents, strict=True)), lambda at, why: taken(messages[at], why))
        for topic, document in zip(topics, documents, strict=True):
            if topic in self._last or len(self._last) < MOST_EVENTS:
                self._last[topic] = document
        for message in messages:
            if message.said.why == "removed":
                self._remove_event(message.said.stream, message.said.event)

    def show(self, news: News) -> None:
        for stream in set(self._delivering) - set(news.delivering):
            self._remove(stream)
        changed = {stream: on for stream, on in news.delivering.items() if self._delivering.get(stream) != on}
        for stream in changed:
            self._unmet.pop(stream, None)
            self._announce(stream, self._device(stream))
        words = {True: b"online", False: b"offline"}
        self._publish([(self._topics.delivers(stream), words[on]) for stream, on in changed.items()])
        self._delivering = dict(news.delivering)
        for stream, document in news.zones.items():
            self._show_zones(stream, document)
        self._publish([(self._topics.mask(s), document) for s, document in news.masks.items()])
        self._publish([(self._topics.picture(s), jpeg) for s, jpeg in news.pictures.items()], retain=False)
        for stream, since_s in list(self._unmet.items()):
            if news.delivering and time.monotonic() - since_s > FORGET_S:
                self._remove(stream)

    def keep(self) -> None:
        assert self._broker is not None
        self._broker.check()

    def close(self) -> None:
        broker, self._broker = self._broker, None
        if broker is None:
            return
        try:
            broker.publish([(self._topics.forwarder, b"offline")])
        except SinkError:
            pass  # the broker publishes our will
        finally:
            broker.close()

    def check(self) -> str:
        Broker(self._config, f"{self._client_id}-check", None).close()
        base = self._config.topic
        words = f"publishes {base}/STREAM/event/EVENT"
        if self._config.shares_every_s:
            words += f", {base}/STREAM/zone/ZONE every {self._config.shares_every_s:g} s"
        if self._config.masks_every_s:
            words += f", {base}/STREAM/mask every {self._config.masks_every_s:g} s"
        if self._config.pictures_every_s:
            words += f", {base}/STREAM/picture every {self._config.pictures_every_s:g} s"
        if self._config.discovery:
            words += f", discovery under {self._config.discovery_prefix}/device/{self._client_id}/"
        return words

    def _show_zones(self, stream: str, document: bytes) -> None:
        counted = msgspec.json.decode(document, type=ZonesDocument)
        zones = dict(percents(counted))
        device = self._device(stream)
        if isinstance(counted.events, list):
            for event in set(device.events) - set(counted.events):
                self._remove_event(stream, event)
            device.events = counted.events
        gone = set(device.classes) - set(zones)
        device.take_percents({zone: said["percent"] for zone, said in zones.items()}, self._config.classes)
        self._announce(stream, device)
        out = [(self._topics.zone(stream, zone), json.dumps(said).encode()) for zone, said in zones.items()]
        self._publish([*out, *((self._topics.zone(stream, zone), b"") for zone in gone)])

    def _device(self, stream: str) -> Device:
        return self._devices.setdefault(stream, Device())

    def _announce(self, stream: str, device: Device) -> None:
        """Have Home Assistant know the stream's device as it is now, if it does not yet."""
        if not self._config.discovery:
            return
        document = device_document(self._config, stream, device, streamseg.__version__)
        before = self._announced.get(stream)
        if document == before or (before is None and not document["components"]):
            return
        between = without(before, document) if before is not None else None
        topic = self._topics.device(stream)
        documents = [between, document] if between is not None else [document]
        self._publish([(topic, json.dumps(one, ensure_ascii=False).encode()) for one in documents])
        self._announced[stream] = document

    def _remove_event(self, stream: str, event: str) -> None:
        device = self._device(stream)
        if event in device.events:
            device.events.remove(event)
            self._announce(stream, device)
        self._publish([(self._topics.event(stream, event), b"")])
        self._last.pop(self._topics.event(stream, event), None)

    def _remove(self, stream: str) -> None:
        """Take back everything that the broker keeps of a stream."""
        device = self._devices.pop(stream, Device())
        self._unmet.pop(stream, None)
        topics = [self._topics.zone(stream, zone) for zone in device.classes]
        topics += [self._topics.event(stream, event) for event in device.events]
        for topic in topics:
            self._last.pop(topic, None)
        topics += [self._topics.delivers(stream)] + [self._topics.mask(stream)] * bool(self.masks_every_s)
        if self._announced.pop(stream, None) is not None:
            topics.insert(0, self._topics.device(stream))
        self._publish([(topic, b"") for topic in topics])

    def _read_back(self, broker: Broker) -> None:
        """Know again what was announced before, also by a process that was killed."""
        try:
            documents = broker.retained(self._topics.every_device)
        except SinkError as error:
            broker.check()
            if not self._told:
                log.warning("%s; sensors of zones that are gone stay in Home Assistant", error)
            self._told = True
            return
        for topic, data in documents.items():
            try:
                document = msgspec.json.decode(data)
            except (msgspec.DecodeError, UnicodeDecodeError):
                continue
            found = read_device(document)
            if found is None or topic.split("/")[-2] != slug(found[0]):
                continue
            stream, device = found
            self._announced[stream] = document
            if stream not in self._devices:
                self._devices[stream] = device
                self._unmet[stream] = time.monotonic()
        self._publish([(self._topics.delivers(stream), b"offline") for stream in self._unmet])

    def _bring_back(self, broker: Broker) -> None:
        """Publish again the state of events that the broker does not have any more, as after its restart."""
        try:
            kept = broker.retained(self._topics.every_event)
        except SinkError:
            broker.check()
            return
        self._publish([(topic, data) for topic, data in self._last.items() if topic not in kept])

    def _publish(
        self,
        messages: Sequence[tuple[str, bytes]],
        taken: Callable[[int, str], None] | None = None,
        *,
        retain: bool = True,
    ) -> None:
        """In order; taken(index, why) is called for each that the broker has, or never takes: then why.

        Without it, what the broker never takes is left out, and logged once for a topic.
        """
        done = 0
        for end in range(len(messages) + 1):
            why = self._refusal(*messages[end]) if end < len(messages) else ""
            if end < len(messages) and not why and not self._one_by_one:
                continue
            self._send(messages, range(done, end if why else min(end + 1, len(messages))), taken, retain)
            if why and taken is not None:
                taken(end, why)
            elif why:
                self._tell_left_out(messages[end][0], why)
            done = end + 1

    def _send(
        self,
        messages: Sequence[tuple[str, bytes]],
        part: range,
        taken: Callable[[int, str], None] | None,
        retain: bool,
    ) -> None:
        assert self._broker is not None
        some = [messages[at] for at in part]
        try:
            self._broker.publish(
                some, lambda at: taken(part[at], "") if taken is not None else None, retain=retain
            )
        except BlamedError as error:
            if len(some) == 1:
                self._refused[error.topic] = min(error.size, self._refused.get(error.topic, error.size))
            self._one_by_one = len(some) > 1
            raise

    def _refusal(self, topic: str, data: bytes) -> str:
        """Why the broker will never take this; empty where it may."""
        assert self._broker is not None
        if self._broker.takes(topic, data) and len(data) < self._refused.get(topic, len(data) + 1):
            return ""
        return f"{self._broker.where}: does not take {len(data)} bytes of {topic}"

    def _tell_left_out(self, topic: str, why: str) -> None:
        if topic not in self._left_out and len(self._left_out) < MOST_EVENTS:
            self._left_out.add(topic)
            log.warning("mqtt %s, so it is left out; name fewer classes, or have the broker take more", why)
