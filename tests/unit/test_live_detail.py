"""A picture of a camera's large stream: opened only when asked for, closed again, and broken off at once."""

from __future__ import annotations

import base64
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import cv2
import msgspec
import numpy as np
import pytest

from streamseg.config import StreamConfig
from streamseg.errors import ControlError
from streamseg.live import detail
from streamseg.live.detail import Details
from streamseg.sources import opening
from streamseg.sources.reading import first_picture
from streamseg.wire.control import DetailPicture
from tests.cameras import LARGE, RtspCamera, large_camera, large_frames, web_server
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

__all__ = ["large_camera", "large_frames"]

LONG_S = 300.0  # nothing ends by itself in this time


@pytest.fixture
def later() -> Iterator[Callable[..., Future[DetailPicture]]]:
    """Asks in a thread of its own."""
    with ThreadPoolExecutor() as threads:
        yield lambda details, stream: threads.submit(details.picture, stream)


def without_intra(frames: list[list[bytes]]) -> list[list[bytes]]:
    return [[unit for unit in frame if unit[0] & 31 == 1] for frame in frames[1:]]


def gate(detail_source: str, **settings: object) -> dict[str, StreamConfig]:
    return {
        "gate": msgspec.convert({"source": "demo:", "detail_source": detail_source, **settings}, StreamConfig)
    }


def test_it_is_opened_when_it_is_asked_for_and_closed_behind_one_picture(camera: RtspCamera) -> None:
    details = Details(lambda: gate(camera.url))
    assert details.names() == ["gate"]
    assert camera.connections == 0
    before_ns = time.time_ns()
    made = details.picture("gate")
    assert (made.size, made.clock, camera.connections) == (LARGE, "arrival", 1)
    assert before_ns < made.captured_unix_ns < time.time_ns()
    shown = cv2.imdecode(np.frombuffer(made.jpeg, np.uint8), cv2.IMREAD_COLOR)
    assert shown.shape == (*LARGE, 3)
    assert details.picture("gate").captured_unix_ns > made.captured_unix_ns
    assert camera.connections == 2
    assert details.join(time.monotonic())


def test_who_asks_while_a_picture_is_on_its_way_gets_that_one(
    camera: RtspCamera, later: Callable[..., Future[DetailPicture]]
) -> None:
    camera.held.set()
    asked = []
    details = Details(lambda: asked.append("") or gate(camera.url, timeout_s=LONG_S))  # type: ignore[func-returns-value]
    first = later(details, "gate")
    until(lambda: camera.connections == 1)
    second = later(details, "gate")
    until(lambda: len(asked) == 2)
    camera.held.clear()
    assert first.result(LIMIT_S) is second.result(LIMIT_S)
    assert camera.connections == 1


def test_two_cameras_are_opened_side_by_side(
    camera: RtspCamera, frames: list[list[bytes]], later: Callable[..., Future[DetailPicture]]
) -> None:
    camera.held.set()
    with RtspCamera(frames) as other:
        streams = gate(camera.url, timeout_s=LONG_S) | {"yard": gate(other.url)["gate"]}
        details = Details(lambda: streams)
        waiting = later(details, "gate")
        until(lambda: camera.connections == 1)
        assert details.picture("yard").size == LARGE
        assert not waiting.done()
        camera.held.clear()
        assert waiting.result(LIMIT_S).size == LARGE


def test_a_stream_that_takes_anothers_frames_has_its_detailed_picture(camera: RtspCamera) -> None:
    streams = gate(camera.url) | {
        "fine": StreamConfig(source="stream:gate"),
        "demo": StreamConfig(source="demo:"),
    }
    details = Details(lambda: streams)
    assert details.names() == ["gate", "fine"]
    assert details.picture("fine").size == LARGE
    with pytest.raises(ControlError, match="demo: has no detail_source; set it to the address") as caught:
        details.picture("demo")
    assert caught.value.code == "bad state"
    with pytest.raises(ControlError, match=r"hall: unknown stream \(streams: gate, fine, demo\)"):
        details.picture("hall")


def test_the_address_of_snapshots_will_do() -> None:
    picture = np.full((90, 160, 3), 200, np.uint8)
    jpeg = cv2.imencode(".jpg", picture)[1].tobytes()
    with web_server(lambda path: jpeg if path == "snap.jpg" else None, "image/jpeg") as url:
        assert Details(lambda: gate(f"{url}/snap.jpg")).picture("gate").size == (90, 160)
        with pytest.raises(ControlError, match=r"gate: http://.*no\.jpg: .*404"):
            Details(lambda: gate(f"{url}/no.jpg")).picture("gate")


def test_a_camera_that_is_away_is_one_line() -> None:
    with pytest.raises(ControlError, match=r"^gate: rtsp://127\.0\.0\.1:\d+/x: .*refused") as caught:
        Details(lambda: gate(f"rtsp://127.0.0.1:{free_port()}/x")).picture("gate")
    assert caught.value.code == "failed"


def test_a_picture_that_no_library_converts_is_one_line(
    camera: RtspCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(rgb: object, quality: int) -> bytes:
        raise ValueError("of a\nstrange format")

    monkeypatch.setattr(detail, "jpeg_of", fails)
    details = Details(lambda: gate(camera.url))
    for _ in range(2):  # and the next one is asked for anew
        with pytest.raises(ControlError, match=r"^gate: its detail_source failed inside: ValueError: of a"):
            details.picture("gate")
    assert camera.connections == 2


def test_a_camera_that_never_sends_an_intra_frame_is_given_up(
    frames: list[list[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It waits for its whole time, 1 s."""
    monkeypatch.setattr(detail, "OPEN_EXTRA_S", 0.0)
    with (
        RtspCamera(without_intra(frames)) as camera,
        pytest.raises(ControlError, match=r"^gate: its detail_source has given no picture in 1 s$"),
    ):
        Details(lambda: gate(camera.url, timeout_s=0.5)).picture("gate")


@pytest.mark.parametrize(("how", "code"), [("forget", "unknown stream"), ("close", "stopping")])
def test_a_removed_stream_and_the_daemons_end_break_it_off(
    how: str, code: str, camera: RtspCamera, later: Callable[..., Future[DetailPicture]]
) -> None:
    """At once: the camera is silent, and nothing else would end it for minutes."""
    camera.held.set()
    details = Details(lambda: gate(camera.url, timeout_s=LONG_S))
    waiting = later(details, "gate")
    until(lambda: camera.connections == 1)
    if how == "forget":
        details.forget("yard")
        details.forget("gate")
    else:
        details.close()
    with pytest.raises(ControlError) as caught:
        waiting.result(LIMIT_S)
    assert caught.value.code == code
    assert details.join(time.monotonic() + LIMIT_S)
    if how == "close":
        with pytest.raises(ControlError, match="stopping"):
            details.picture("gate")


def test_reading_is_broken_off_as_opening_is(
    frames: list[list[bytes]],
    later: Callable[..., Future[DetailPicture]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A camera whose SDP and packets are enough to open it, and that then falls silent before a picture."""
    sets = [unit for unit in frames[0] if unit[0] & 31 in (7, 8)]
    fmtp = "sprop-parameter-sets=" + ",".join(base64.b64encode(one).decode() for one in sets)
    media = f"m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1;{fmtp}\r\n"
    reading = threading.Event()

    def told(*given: Any) -> Any:
        reading.set()
        return first_picture(*given)

    monkeypatch.setattr(opening, "first_picture", told)
    with RtspCamera(without_intra(frames), media=media) as camera:
        details = Details(lambda: gate(camera.url, timeout_s=LONG_S))
        waiting = later(details, "gate")
        assert reading.wait(LIMIT_S)
        camera.held.set()
        details.close()
        with pytest.raises(ControlError, match="stopping"):
            waiting.result(LIMIT_S)
        camera.held.clear()
