"""Previews of the frames that masks belong to, and their messages."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any

import cv2
import numpy as np
import pytest
import zmq

from streamseg import wire
from streamseg.client import subscribe
from streamseg.config import PublishConfig
from streamseg.errors import WireError
from streamseg.outputs.previews import MAX_FPS, Previews, preview_of, preview_size
from streamseg.publish import Publisher
from streamseg.runtime.mailbox import Closed
from streamseg.types import Frame, Preview, Stamp
from tests.masks import STREET, make_mask, make_picture
from tests.waiting import LIMIT_S


def make_frame(seq: int = 0, size: tuple[int, int] = (72, 96), stream: str = "gate") -> Frame:
    rgb = np.zeros((*size, 3), np.uint8)
    rgb[:, : size[1] // 2] = (250, 30, 20)
    stamp = Stamp(stream, 0, seq, seq * 512, Fraction(1, 15360), time.time_ns(), "arrival")
    return Frame(stamp, rgb, time.monotonic_ns())


@contextmanager
def running(pictures: Previews) -> Iterator[None]:
    def run() -> None:
        with pytest.raises(Closed):
            pictures.run()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        pictures.close()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("frame", "preview"),
    [((480, 640), (480, 640)), ((1080, 1920), (360, 640)), ((1920, 1080), (640, 360)), ((4000, 2), (640, 1))],
)
def test_a_picture_has_the_frames_proportions_and_is_never_enlarged(
    frame: tuple[int, int], preview: tuple[int, int]
) -> None:
    assert preview_size(frame) == preview


def test_a_picture_shows_its_frame_and_has_its_numbers() -> None:
    frame = make_frame(7, (1080, 1920))
    picture = preview_of(frame)
    bgr = cv2.imdecode(np.frombuffer(picture.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert bgr is not None
    assert bgr.shape == (*picture.size, 3) == (360, 640, 3)
    assert abs(bgr[100, 100].astype(int) - (20, 30, 250)).max() < 8
    assert bgr[100, 500].max() < 8
    assert (picture.seq, picture.pts, picture.frame_size) == (7, frame.pts, (1080, 1920))
    assert picture.captured_unix_ns == frame.captured_unix_ns


def test_of_each_stream_the_newest_frame_that_waits_is_made() -> None:
    made: list[Preview] = []
    begun, arrived, proceed = threading.Event(), threading.Event(), threading.Event()

    def on_preview(preview: Preview) -> None:
        made.append(preview)
        begun.set()
        assert proceed.wait(LIMIT_S)
        if len(made) == 3:
            arrived.set()

    previews = Previews(on_preview)
    with running(previews):
        previews.offer(make_frame(0))
        assert begun.wait(LIMIT_S)
        for seq in (1, 2):
            time.sleep(1.1 / MAX_FPS)  # sooner, the second one is not taken
            previews.offer(make_frame(seq))
            previews.offer(make_frame(seq, stream="yard"))
        proceed.set()
        assert arrived.wait(LIMIT_S)
    assert sorted((p.stream, p.seq) for p in made) == [("gate", 0), ("gate", 2), ("yard", 2)]


def test_of_a_fast_stream_at_most_max_fps_previews_are_made() -> None:
    made: list[Preview] = []
    pictures = Previews(made.append)
    with running(pictures):
        begun_s = time.monotonic()
        for seq in range(200):
            pictures.offer(make_frame(seq))
            time.sleep(0.001)
        span_s = time.monotonic() - begun_s
    assert 1 <= len(made) <= span_s * MAX_FPS + 2


def test_a_picture_is_read_as_it_was_written() -> None:
    picture = make_picture(3, run=77, published_unix_ns=5)
    read = wire.parse_picture(wire.encode_picture(picture))
    assert all(
        getattr(read, name) == getattr(picture, name) for name in ("stamp", "jpeg", "size", "frame_size")
    )


def spoiled(**changes: Any) -> list[bytes]:
    import msgspec

    topic, head, jpeg = wire.encode_picture(make_picture(run=1))
    fields = msgspec.msgpack.decode(head)
    return [topic, msgspec.msgpack.encode(fields | changes), jpeg]


@pytest.mark.parametrize(
    "parts",
    [
        spoiled()[:2],
        [*spoiled(), b"x"],
        [b"picture/yard/", *spoiled()[1:]],
        [*spoiled()[:2], b"GIF89a"],
        [*spoiled()[:2], b"\xff\xd8" + bytes(wire.MAX_PICTURE)],
        spoiled(shape=[1 << 20, 4]),
        spoiled(kind="mask"),
        spoiled(version=2),
        spoiled(encoding="png"),
        [b"picture/gate/", b"\xc1", b"\xff\xd8"],
    ],
)
def test_what_is_no_picture_message_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(WireError):
        wire.parse_picture(parts)


def test_a_subscriber_has_the_picture_of_each_mask_it_reads() -> None:
    with (
        Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher,
        subscribe(publisher.endpoint, ["gate"], pictures=True, newest=False) as masks,
    ):
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        assert publisher.wait_wanted("picture", "gate", LIMIT_S)
        for seq in (5, 6, 7):
            publisher.put(make_mask(seq))
            if seq != 6:
                publisher.put(make_picture(seq))
        publisher.put(make_picture(99))  # of a mask that was never published
        first, second, third = (masks.read(LIMIT_S) for _ in range(3))
        picture = masks.picture(third, LIMIT_S)
        assert picture is not None
        assert (picture.seq, picture.n, picture.run) == (7, 2, publisher.run)
        assert masks.picture(second, LIMIT_S) is None  # at once: a later one is here
        assert (one := masks.picture(first)) is not None
        assert one.n == 0
        assert masks.stats.bad == 0
        assert publisher.stats.pictures == 2


def test_whoever_did_not_ask_for_pictures_gets_none() -> None:
    with (
        Publisher(PublishConfig(endpoint="tcp://127.0.0.1:*"), [STREET]) as publisher,
        zmq.Context() as context,
        context.socket(zmq.SUB) as sub,
    ):
        sub.setsockopt(zmq.RCVTIMEO, int(LIMIT_S * 1000))
        sub.connect(publisher.endpoint)
        sub.subscribe(b"mask/gate/")
        assert publisher.wait_wanted("mask", "gate", LIMIT_S)
        publisher.put(make_mask(1))
        publisher.put(make_picture(1))
        publisher.put(make_mask(2))
        assert [sub.recv_multipart()[0] for _ in range(2)] == [b"mask/gate/"] * 2
        assert publisher.stats.pictures == 0
