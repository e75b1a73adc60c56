"""zones/<stream>/ of a whole daemon: counts of the very masks that it publishes, from outside."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq

from streamseg import wire
from streamseg.config import Config, EngineConfig, PublishConfig, StreamConfig, ZoneConfig
from streamseg.daemon import Daemon
from streamseg.types import IGNORE, Mask
from streamseg.types.sizes import MaskSize
from tests.integration.daemons import in_thread
from tests.waiting import LIMIT_S, until
from tests.zones import pixels_of

RAMP = ZoneConfig(
    polygon=((0.1, 0.2), (0.9, 0.1), (0.7, 0.95)), holes=(((0.4, 0.4), (0.6, 0.4), (0.5, 0.6)),)
)
EDGE = ZoneConfig(line=((0.0, 0.5), (1.0, 0.7)), width=0.1)
GROUND = ((0.3, 0.5), (0.7, 0.5), (1.0, 1.0), (0.0, 1.0))
YARD = ZoneConfig(polygon=GROUND, ground=GROUND, ground_size_m=(8.0, 25.0))


@contextmanager
def running(engine: Path, mask_size: MaskSize = "frame", **publish: Any) -> Iterator[Daemon]:
    """A daemon with the stream gate and its zones, as fast as a camera."""
    zones = {"ramp": RAMP, "edge": EDGE, "yard": YARD}
    daemon = Daemon(
        Config(
            streams={
                "gate": StreamConfig(
                    source="demo:", loop=True, realtime=True, zones=zones, mask_size=mask_size
                )
            },
            engine=EngineConfig(name=str(engine), threads=1),
            publish=PublishConfig(endpoint="tcp://127.0.0.1:0", queue=1000, **publish),
        )
    )
    with in_thread(daemon):
        assert daemon.ready.wait(LIMIT_S)
        yield daemon


@contextmanager
def subscribed(endpoint: str, *topics: bytes) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as sock:
        sock.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(endpoint)
        for topic in topics:
            sock.subscribe(topic)
        yield sock


def check(document: wire.ZonesDocument, mask: Mask, zones: dict[str, ZoneConfig]) -> None:
    """Every number of the document, on the labels as a subscriber has them."""
    assert (document.run, document.epoch, document.seq) == (mask.run, mask.epoch, mask.seq)
    assert document.shape == mask.size
    assert [zone.zone for zone in document.zones] == ["picture", *zones]
    for zone in document.zones:
        inside = pixels_of(zones[zone.zone], mask.size) if zone.zone in zones else np.ones(mask.size, bool)
        labels = mask.labels[inside]
        assert zone.pixels == inside.sum()
        assert zone.unknown == (labels == IGNORE).sum()
        ids, counts = np.unique(labels[labels != IGNORE], return_counts=True)
        assert [(c.id, c.pixels, c.share) for c in zone.classes] == [
            (i, n, n / inside.sum()) for i, n in zip(ids.tolist(), counts.tolist(), strict=True)
        ]
        if mask.confidence is not None:
            for c in zone.classes:
                sure = mask.confidence[inside & (mask.labels == c.id)]
                assert c.confidence == pytest.approx(sure.mean() / 255)


@pytest.mark.parametrize(
    ("kind", "encoding", "mask_size"),
    [
        *(
            (kind, encoding, "frame")
            for kind in ("mask", "mask+confidence", "rle")
            for encoding in ("zstd", "png", "raw")
        ),
        ("mask", "zstd", "input"),
        ("mask+confidence", "zstd", (201, 97)),
    ],
)
def test_the_counts_are_those_of_the_masks_that_subscribers_get(
    tiny_engine: Path, kind: wire.Kind, encoding: wire.Encoding, mask_size: MaskSize
) -> None:
    with running(tiny_engine, mask_size, encoding=encoding) as daemon:
        topics = wire.topic_of(kind, "gate"), wire.topic_of("zones", "gate")
        with subscribed(daemon.endpoint, *topics) as sock:
            zones = {"ramp": RAMP, "edge": EDGE, "yard": YARD}
            masks: dict[int, Mask] = {}
            checked = 0
            while checked < 5:
                parts = sock.recv_multipart()
                if parts[0] == topics[0]:
                    mask = wire.decode_message(parts)
                    assert isinstance(mask, Mask)
                    masks[mask.n] = mask
                elif (document := wire.parse_zones(parts)).n in masks:  # its mask is always before it
                    check(document, masks[document.n], zones)
                    checked += 1
        areas = {zone.zone: zone.square_m for zone in document.zones}
        assert areas["ramp"] is None
        assert areas["yard"] == pytest.approx(200, rel=0.05)


def test_other_zones_count_from_the_next_mask_on_and_the_source_stays_open(tiny_engine: Path) -> None:
    with running(tiny_engine) as daemon, subscribed(daemon.endpoint, b"zones/gate/") as sock:
        first = wire.parse_zones(sock.recv_multipart())
        assert [zone.zone for zone in first.zones] == ["picture", "ramp", "edge", "yard"]
        assert daemon.pipeline is not None
        config = daemon.pipeline.streams.configs()["gate"]
        other = msgspec.structs.replace(config, zones={"corner": RAMP})
        assert not daemon.pipeline.streams.change("gate", other)
        while True:
            document = wire.parse_zones(sock.recv_multipart())
            if len(document.zones) == 2:
                break
        assert document.zones[1].zone == "corner"
        assert document.epoch == first.epoch


def test_a_snapshot_has_the_last_counts_of_a_stream(tiny_engine: Path) -> None:
    with running(tiny_engine) as daemon, subscribed(daemon.endpoint, b"zones/gate/") as sock:
        sent = wire.parse_zones(sock.recv_multipart())
        assert daemon.publisher is not None
        with zmq.Context() as context, context.socket(zmq.DEALER) as asking:
            asking.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
            asking.setsockopt(zmq.LINGER, 0)
            asking.connect(daemon.publisher.snapshot_endpoint)
            asking.send_multipart(wire.snapshot_request([b"zones/"]))
            (parts,) = wire.parse_snapshot_reply(asking.recv_multipart())
        assert wire.parse_zones(parts).n >= sent.n


def test_nothing_is_counted_where_nobody_asks(tiny_engine: Path) -> None:
    with running(tiny_engine) as daemon, subscribed(daemon.endpoint, b"mask/gate/") as sock:
        for _ in range(5):
            sock.recv_multipart()
        assert daemon.pipeline is not None
        assert daemon.publisher is not None
        assert daemon.publisher.stats.documents == 0
        assert daemon.pipeline.answers.counted() == {}


def test_whoever_asks_for_the_status_finds_shares_in_it_soon(tiny_engine: Path) -> None:
    with running(tiny_engine) as daemon:
        until(lambda: "gate" in daemon.status().shares)
        shares = daemon.status().shares["gate"]
    assert [zone.zone for zone in shares.zones] == ["picture", "ramp", "edge", "yard"]
    assert shares.classes == ["other", "red", "green", "blue"]
    assert 0 <= shares.age_s < LIMIT_S
