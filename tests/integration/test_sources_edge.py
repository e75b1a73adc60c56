"""Cameras as they really are: clocks that are wrong, lists that end, single pictures, rare intra frames."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import statistics
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import av
import pytest

from streamseg.config import StreamConfig
from streamseg.errors import SourceError
from streamseg.sources import Connected, Disconnected, open_source
from streamseg.sources.events import ClockOff, Late, Polled, Waiting
from streamseg.types import Frame
from tests.cameras import FPS, HlsService, RtspCamera, encoded, web_server, write_segments
from tests.integration.live import Watched
from tests.media import picture

Clip = Sequence[Sequence[bytes]]


@pytest.fixture(scope="module")
def clip() -> Clip:
    return encoded(gop=10)


@pytest.fixture(scope="module")
def segments(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """Of one second each."""
    return write_segments(tmp_path_factory.mktemp("hls"), 30, segment_s=1)


def age_s(frame: Frame) -> float:
    """How old a frame was when it was decoded, as a subscriber would be told."""
    assert frame.arrived_ns is not None
    return (frame.decoded_ns - time.monotonic_ns() + time.time_ns() - frame.captured_unix_ns) / 1e9


def fresh(frames: Sequence[Frame], most_s: float) -> bool:
    """Whether nine of ten were no older when they were decoded; this machine may be held up, too."""
    return sum(abs(age_s(frame)) < most_s for frame in frames) >= 0.9 * len(frames)


def late(watched: Watched) -> int:
    """How many pictures were left out to come back to the live edge."""
    return sum(isinstance(event, Late) for event in watched.events)


@pytest.mark.parametrize(
    "off_s",
    [0.0, 0.2, -7200.0, 30.0, *(pytest.param(s, marks=pytest.mark.slow) for s in (-2.0, 7200.0, -3e7))],
)
def test_ages_mean_something_whatever_the_camera_takes_for_the_time(clip: Clip, off_s: float) -> None:
    with RtspCamera(clip, clock_off_s=off_s) as camera, Watched(StreamConfig(source=camera.url)) as watched:
        watched.wait_frames(40)
        ages = [age_s(frame) for frame in watched.frames[10:40]]
        believed = abs(off_s) < 5
        assert {frame.clock for frame in watched.frames[10:40]} == {"camera" if believed else "arrival"}
        assert statistics.median(ages) == pytest.approx(-off_s if believed else 0, abs=0.2)
        told = [event for event in watched.events if isinstance(event, ClockOff)]
        assert len(told) == (not believed)
        assert all(event.ahead_s == pytest.approx(off_s, abs=0.5) for event in told)


@pytest.mark.slow
@pytest.mark.parametrize("step_s", [-4.0, -60.0, 2.0, 60.0])
def test_a_camera_whose_time_stamps_step_is_not_believed_from_then_on(clip: Clip, step_s: float) -> None:
    with RtspCamera(clip, step_s=step_s) as camera, Watched(StreamConfig(source=camera.url)) as watched:
        watched.wait_frames(6 * FPS)
        assert fresh(watched.frames, 0.5)
        assert watched.frames[-1].clock == "arrival"
        assert sum(isinstance(event, ClockOff) for event in watched.events) == 1
        assert watched.losses() == 0
        assert late(watched) < FPS


@pytest.mark.slow
def test_what_was_held_back_on_the_way_is_left_out(clip: Clip) -> None:
    with RtspCamera(clip) as camera, Watched(StreamConfig(source=camera.url, timeout_s=10)) as watched:
        watched.wait_frames(30)
        camera.held.set()
        time.sleep(3)  # the fault itself
        before = len(watched.frames)
        camera.held.clear()
        watched.wait_frames(before + 30)
        assert 0.5 * 3 * FPS < late(watched) < 4 * FPS
        assert fresh(watched.frames[-20:], 0.3)
        assert {frame.epoch for frame in watched.frames} == {0}


AUDIO = "m=audio 0 RTP/AVP 8\r\n"
ONLY_AUDIO = "has no video in it, only audio; choose another stream"


@pytest.mark.parametrize(
    ("offers", "asks", "says"),
    [
        ({"transports": ("UDP",)}, "tcp", 'sends no RTSP over TCP; set rtsp_transport = "udp"'),
        ({"transports": ("TCP",)}, "udp", 'sends no RTSP over UDP; set rtsp_transport = "tcp"'),
        ({"transports": ("UDP",)}, "udp", "sent nothing for 1 s; does the network let UDP through? "
         'If not, set rtsp_transport = "tcp"'),
        ({"media": AUDIO}, "tcp", ONLY_AUDIO),
        ({"media": AUDIO, "transports": ("UDP",)}, "tcp", ONLY_AUDIO),
    ],
)  # fmt: skip
def test_what_a_camera_does_not_send_is_told(
    clip: Clip, offers: dict[str, str], asks: str, says: str
) -> None:
    with RtspCamera(clip, **offers) as camera:  # type: ignore[arg-type]
        config = StreamConfig(source=camera.url, rtsp_transport=asks, timeout_s=1)  # type: ignore[arg-type]
        with pytest.raises(SourceError) as caught, open_source(config, "gate"):
            pass
    assert str(caught.value) == f"{camera.url}: {says}"


@pytest.mark.parametrize(
    "name", ["seg.php?i={:04d}", "x{:04d}.jpg", "chunk{:04d}", "{:04d}.ts?token=a.b", "v/{:04d}.exe"]
)
def test_segments_may_have_any_name(segments: list[bytes], name: str) -> None:
    service = HlsService(segments, name=name, window=6, segment_s=1)
    with (
        web_server(service.answer) as address,
        Watched(StreamConfig(source=f"{address}/live.m3u8")) as watched,
    ):
        watched.wait_frames(5)
        assert not any(isinstance(event, Disconnected) for event in watched.events)


@pytest.mark.slow
@pytest.mark.parametrize("bf", [0, 2])
def test_segments_whose_clock_begins_anew_are_shown_without_a_gap(tmp_path: Path, bf: int) -> None:
    service = HlsService(write_segments(tmp_path, 12, segment_s=1, bf=bf), window=6, segment_s=1)
    with (
        web_server(service.answer) as address,
        Watched(StreamConfig(source=f"{address}/live.m3u8")) as watched,
    ):
        watched.wait_frames(30 * FPS)  # two rounds of the clip and a half
        shown = [frame.decoded_ns / 1e9 for frame in watched.frames]
        # A gap where the clock begins anew would be there twice; this machine may be held up once.
        assert sum(b - a >= 1.0 for a, b in itertools.pairwise(shown)) < 2
        assert fresh(watched.frames, 1.5)
        assert all(age_s(frame) > -0.1 for frame in watched.frames)
        assert not any(isinstance(event, Disconnected) for event in watched.events)


def test_a_list_does_not_open_files_of_this_machine(segments: list[bytes], tmp_path: Path) -> None:
    (tmp_path / "0000.ts").write_bytes(segments[0])
    service = HlsService(segments, name=f"file://{tmp_path}/" + "{:04d}.ts", segment_s=1)
    with web_server(service.answer) as address:
        config = StreamConfig(source=f"{address}/live.m3u8", timeout_s=0.5)
        with pytest.raises(SourceError), open_source(config, "gate"):
            pass


def test_a_live_event_that_has_ended_is_waited_for(segments: list[bytes]) -> None:
    services = [HlsService(segments, ready=4, segment_s=1)]
    with (
        web_server(lambda path: services[0].answer(path)) as address,
        Watched(StreamConfig(source=f"{address}/event.m3u8")) as watched,
    ):
        watched.wait_frames(5)
        services[0].ends_after = services[0].count + 1
        watched.wait_event(Disconnected, 3)
        assert {frame.epoch for frame in watched.frames} == {0}
        # Three segments from the end of the first list on, and those that followed.
        assert len(watched.frames) <= (services[0].count - services[0].first_count + 3) * FPS
        waits = [event.reason for event in watched.events if isinstance(event, Disconnected)]
        assert waits[0] == f"{address}/event.m3u8: ended"
        assert waits[1].endswith("the live stream has ended; waiting until it begins anew")
        services[0] = HlsService(segments, ready=4, segment_s=1)
        watched.wait_frames(10, epoch=1)


def still(kind: str) -> bytes:
    """A picture in a file."""
    data = io.BytesIO()
    with av.open(data, "w", format="image2pipe") as container:
        stream = container.add_stream(kind, rate=1)
        stream.height, stream.width = 48, 64
        stream.pix_fmt = "yuvj420p" if kind == "mjpeg" else "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(picture((48, 64), 0.5), format="rgb24")))
        container.mux(stream.encode())
    return data.getvalue()


MULTIPART = b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n"


@pytest.mark.parametrize(
    ("kind", "path", "content"),
    [
        ("mjpeg", "snap.jpg", "image/jpeg"),
        ("mjpeg", "cgi-bin/snapshot?user=a", "application/octet-stream"),
        ("png", "snap.png", "image/png"),
        ("mjpeg", "drops-after-each.mjpg", "multipart/x-mixed-replace; boundary=x"),
    ],
)
def test_a_camera_of_single_pictures_is_asked_again_and_again(kind: str, path: str, content: str) -> None:
    data = still(kind)
    asked: list[float] = []

    def answer(_: str) -> bytes | None:
        asked.append(time.monotonic())
        if len(asked) == 12:
            return None
        return MULTIPART % (len(data), data) if content.startswith("multipart") else data

    with (
        web_server(answer, content) as address,
        Watched(StreamConfig(source=f"{address}/{path}", max_fps=10)) as watched,
    ):
        watched.wait_frames(10)
        assert asked[9] - asked[0] > 0.8  # as often as max_fps says
        assert [type(event) for event in watched.events[:2]] == [Connected, Polled]
        assert [frame.seq for frame in watched.frames[:10]] == list(range(10))
        pts = [frame.pts_ns or 0 for frame in watched.frames[:10]]
        assert pts == sorted(set(pts))
        watched.wait_frames(2, epoch=1)  # after an answer without a picture
        assert sum(isinstance(event, Disconnected) for event in watched.events) == 1


def mjpeg() -> Iterator[bytes]:
    data = still("mjpeg")
    while True:
        yield MULTIPART % (len(data), data)


def annexb(clip: Clip) -> Iterator[bytes]:
    while True:
        for units in clip:
            yield b"".join(b"\0\0\0\1" + unit for unit in units)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mjpeg", "h264"])
@pytest.mark.parametrize("fps", [10, 25, 40])
def test_a_stream_without_time_stamps_is_shown_as_it_comes(clip: Clip, kind: str, fps: int) -> None:
    held = threading.Event()

    def answer(_: str) -> Iterator[bytes]:
        begun = time.monotonic()
        for number, part in enumerate(mjpeg() if kind == "mjpeg" else annexb(clip)):
            while held.is_set():
                time.sleep(0.01)
            time.sleep(max(0.0, begun + number / fps - time.monotonic()))
            yield part

    content = "multipart/x-mixed-replace; boundary=x" if kind == "mjpeg" else "video/h264"
    with web_server(answer, content) as address, Watched(StreamConfig(source=f"{address}/live")) as watched:
        watched.wait_frames(5 * fps)
        assert fresh(watched.frames[-3 * fps :], 1.2)
        assert watched.losses() == 0
        assert late(watched) < fps
        held.set()
        time.sleep(3)  # the fault itself
        before = len(watched.frames)
        held.clear()
        watched.wait_frames(before + 5 * fps)
        assert fresh(watched.frames[-fps:], 0.3)
        assert {frame.epoch for frame in watched.frames} == {0}


@pytest.mark.parametrize("intra_after_s", [3.5, pytest.param(7.5, marks=pytest.mark.slow)])
def test_an_intra_frame_is_waited_for_while_data_comes(tmp_path: Path, intra_after_s: float) -> None:
    path = tmp_path / "cast.ts"
    with av.open(str(path), "w") as container:
        options = {"g": "500", "bf": "0", "preset": "ultrafast", "sc_threshold": "0"}
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width, stream.pix_fmt = 96, 128, "yuv420p"
        for i in range(20 * FPS + 100):
            image = av.VideoFrame.from_ndarray(picture((96, 128), i % 50 / 50), format="rgb24")
            container.mux(stream.encode(image))
        container.mux(stream.encode())
    data = path.read_bytes()
    at = len(data) * round(20 - intra_after_s) // 24  # joined so long before the second intra frame
    tried = []
    while len(tried) < 3:  # a machine that stands still for a second is a camera that does
        over = threading.Event()
        with (
            sender(data[at:], len(data) / 24, over) as port,
            Watched(StreamConfig(source=f"udp://127.0.0.1:{port}", timeout_s=1)) as watched,
        ):
            watched.wait_more(5)
        tried.append(watched.events)
        waits = [event for event in watched.events if isinstance(event, Waiting)]
        if len(waits) == 1 and watched.losses() == 0:
            assert "udp://127" in str(waits[0])
            return
    raise AssertionError(tried)


@contextlib.contextmanager
def sender(data: bytes, bytes_per_s: float, over: threading.Event) -> Iterator[int]:
    """Send MPEG-TS by UDP at its pace; the port."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def send() -> None:
        begun = time.monotonic()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for at in range(0, len(data), 188 * 7):
                if over.wait(max(0.0, begun + at / bytes_per_s - time.monotonic())):
                    return
                out.sendto(data[at : at + 188 * 7], ("127.0.0.1", port))

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield port
    finally:
        over.set()
        thread.join()
