"""Live sources on real servers: they are read, and come back after every kind of failure."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from streamseg.config import StreamConfig
from streamseg.errors import SourceError
from streamseg.runtime.backoff import Backoff
from streamseg.sources import Connected, Disconnected, Ended, open_source
from tests.integration.live import RtspServer, Watched, rtsp
from tests.media import corners, write_video
from tests.ports import free_port
from tests.waiting import LIMIT_S, in_time, until
from tests.web import Quiet, folder_server, http_server

__all__ = ["rtsp"]  # the fixture


def test_an_rtsp_camera_is_read_with_its_own_clock(rtsp: RtspServer) -> None:
    begun_ns = time.time_ns()
    with Watched(StreamConfig(source=rtsp.url("/live"), timeout_s=60)) as watched:
        watched.wait(lambda: any(f.clock == "camera" for f in watched.frames))
        frame = next(f for f in watched.frames if f.clock == "camera")
        assert frame.size == (120, 160)
        # The same machine's clock, through RTCP.
        assert begun_ns - 3e9 < frame.captured_unix_ns < time.time_ns() + 3e9
        connected = watched.wait_event(Connected)
        assert (connected.live, connected.codec, connected.fps) == (True, "h264", 25)
        pts = [f.pts for f in watched.frames[1:] if f.pts is not None]  # FFmpeg gives the first packet none
        assert pts == sorted(set(pts))
        assert len(pts) == len(watched.frames) - 1
        assert watched.seconds_to_stop() < 20  # and not timeout_s


def test_rtsp_over_udp_is_read_too(rtsp: RtspServer) -> None:
    with Watched(StreamConfig(source=rtsp.url("/live"), rtsp_transport="udp")) as watched:
        watched.wait_frames(5)


def test_the_intra_frame_that_a_camera_begins_with_is_the_first_picture(rtsp: RtspServer) -> None:
    with Watched(StreamConfig(source=rtsp.url("/rare"))) as watched:
        watched.wait_frames(5, limit_s=100)  # the next one comes after 120 s
        assert watched.losses() == 0


@pytest.mark.parametrize(
    ("path", "login", "reason"),
    [
        ("/secret", "", "asks for a password (401); write it as rtsp://USER:PASSWORD@HOST/"),
        ("/secret", "eye:wr0ng@", "user name or password refused (401); correct them in the address"),
        ("/nothing", "eye:wr0ng@", "user name or password refused (401)"),
        ("/nothing", "", "nothing found at this path (404); check the path in the address"),
    ],
)
def test_a_refusal_is_told_without_the_password(rtsp: RtspServer, path: str, login: str, reason: str) -> None:
    with pytest.raises(SourceError) as caught, open_source(StreamConfig(source=rtsp.url(path, login)), "s"):
        pass
    assert reason in str(caught.value) or (path == "/nothing" and "(404)" in str(caught.value))
    assert "wr0ng" not in repr(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__


def test_the_right_password_opens(rtsp: RtspServer) -> None:
    with open_source(StreamConfig(source=rtsp.url("/secret", "eye:s3cret@")), "s") as source:
        assert source.url == rtsp.url("/secret", "eye:***@")


def test_a_camera_that_is_switched_off_and_on_comes_back_in_a_new_epoch(rtsp: RtspServer) -> None:
    with Watched(StreamConfig(source=rtsp.url("/live", "eye:s3cret@"), timeout_s=60)) as watched:
        for epoch in range(3):
            watched.wait_frames(5, epoch)
            rtsp.kill()
            watched.wait(lambda epoch=epoch: watched.losses() > epoch)
            rtsp.start()
        watched.wait_frames(30, 3)
        of_last = [f.seq for f in watched.frames if f.epoch == 3]
        assert of_last == list(range(len(of_last)))
        assert "s3cret" not in repr(watched.events)


def test_a_camera_that_stalls_is_noticed_within_its_timeout_and_comes_back(rtsp: RtspServer) -> None:
    with Watched(StreamConfig(source=rtsp.url("/live"), timeout_s=2)) as watched:

        def noticed_after_s() -> float:
            watched.wait_more(5)
            before = watched.losses()
            rtsp.freeze()
            frozen_s = time.monotonic()
            lost = watched.wait_event(Disconnected, before + 1)
            took_s = time.monotonic() - frozen_s
            rtsp.thaw()
            assert re.match(
                re.escape(rtsp.url("/live")) + r": sent (nothing|no picture) for 2 s", lost.reason
            )
            return took_s

        in_time(3.5, noticed_after_s)  # and not twice the timeout
        watched.wait_more(5)


def test_a_stream_that_ends_is_a_disconnect(rtsp: RtspServer) -> None:
    with Watched(StreamConfig(source=rtsp.url("/ends"), timeout_s=60)) as watched:
        lost = watched.wait_event(Disconnected)
        assert lost.reason == f"{rtsp.url('/ends')}: ended"
        assert 0 <= lost.retry_in_s <= 0.5
        watched.wait_event(Connected, 2)


def test_reconnecting_leaks_no_thread_and_no_file_descriptor() -> None:
    me = psutil.Process()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT_S)
        config = StreamConfig(source=f"rtsp://127.0.0.1:{server.getsockname()[1]}/x")
        with Watched(config) as watched:
            before: tuple[int, int] | None = None
            for _ in range(6):
                connection, _ = server.accept()
                connection.close()
                if before is None:
                    watched.wait_event(Disconnected)
                    before = me.num_fds(), me.num_threads()
            watched.wait_event(Disconnected, 6)
            assert before is not None
            # In a pause: while it is tried again there is a file more.
            until(lambda: me.num_fds() <= before[0] and me.num_threads() <= before[1])


def test_stopping_takes_no_time_while_a_server_does_not_answer() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(LIMIT_S)
        config = StreamConfig(source=f"rtsp://127.0.0.1:{server.getsockname()[1]}/x", timeout_s=60)
        with Watched(config) as watched:
            connection, _ = server.accept()
            with connection:
                assert watched.seconds_to_stop() < 20  # and not timeout_s


def test_stopping_takes_no_time_while_a_host_cannot_be_reached() -> None:
    # 192.0.2.0/24 is kept for documentation: nobody answers, at most a router refuses.
    with Watched(StreamConfig(source="rtsp://192.0.2.1/x", timeout_s=60)) as watched:
        assert watched.seconds_to_stop() < 20  # and not timeout_s


def test_stopping_takes_no_time_in_a_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "FIRST_S", 10_000.0)
    with Watched(StreamConfig(source=f"http://127.0.0.1:{free_port()}/x")) as watched:
        lost = watched.wait_event(Disconnected)
        assert isinstance(lost, Disconnected)
        assert lost.retry_in_s > 60
        assert watched.seconds_to_stop() < 20


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A web server on tmp_path; its address."""
    with folder_server(tmp_path) as address:
        yield f"http://{address}"


def test_a_whole_file_behind_http_is_played_at_its_pace_and_ends(tmp_path: Path, web: str) -> None:
    write_video(tmp_path / "clip.mp4", [corners((48, 64))] * 20)
    begun = time.monotonic()
    with Watched(StreamConfig(source=f"{web}/clip.mp4")) as watched:
        watched.wait_event(Ended)
        assert len(watched.frames) == 20
        assert time.monotonic() - begun >= 19 / 25
        assert watched.losses() == 0


def hls(folder: Path, endless: bool) -> Path:
    """Write an HLS playlist with its segments; `endless`: without the line that says it is complete."""
    playlist = folder / "live.m3u8"
    write_video(
        playlist, [corners((48, 64))] * 50, container_format="hls", options={"g": "25", "bf": "0"},
        container_options={"hls_time": "1", "hls_list_size": "0"},
    )  # fmt: skip
    if endless:
        text = playlist.read_text()
        assert "#EXT-X-ENDLIST" in text
        playlist.write_text(text.replace("#EXT-X-ENDLIST", ""))
    return playlist


def test_recorded_hls_is_played_to_its_end(tmp_path: Path, web: str) -> None:
    hls(tmp_path, endless=False)
    with Watched(StreamConfig(source=f"{web}/live.m3u8")) as watched:
        watched.wait_event(Ended)
        assert len(watched.frames) == 50


def test_live_hls_is_paced_and_its_silence_noticed(
    tmp_path: Path, web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.sources.opening.HLS_EXTRA_S", 0.5)
    hls(tmp_path, endless=True)
    with Watched(StreamConfig(source=f"{web}/live.m3u8", timeout_s=1.5)) as watched:
        epoch = watched.wait_more(40)  # the first one, unless this machine stood still for as long
        lost = watched.wait_event(Disconnected, watched.losses() + 1)
        assert re.match(re.escape(f"{web}/live.m3u8") + r": sent (nothing|no picture) for 2 s", lost.reason)
        shown = [f for f in watched.frames if f.epoch == epoch]
        assert shown[30].decoded_ns - shown[0].decoded_ns >= 29 / 25 * 1e9


def test_stopping_takes_no_time_while_hls_waits_for_a_segment(tmp_path: Path, web: str) -> None:
    hls(tmp_path, endless=True)
    with Watched(StreamConfig(source=f"{web}/live.m3u8", timeout_s=60)) as watched:
        watched.wait_frames(40)
        assert watched.seconds_to_stop() < 20  # and not timeout_s


def test_http_refusals_are_told() -> None:
    class Refuse(Quiet):
        def do_GET(self) -> None:
            self.send_error(int(self.path[1:4]))

    reasons = {
        401: "user name or password refused (401)",
        403: "access forbidden (403)",
        404: "(404)",
        500: "server",
    }
    with http_server(Refuse) as address:
        for code, reason in reasons.items():
            url = f"http://eye:s3cret@{address}/{code}"
            with pytest.raises(SourceError) as caught, open_source(StreamConfig(source=url), "s"):
                pass
            assert reason in str(caught.value)
            assert "s3cret" not in str(caught.value)


def test_mpeg_ts_over_udp_is_read_and_its_silence_noticed() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = threading.Event()

    def pace(i: int) -> None:
        done.wait(0.04)
        if done.is_set():
            raise EOFError

    def send() -> None:
        url = f"udp://127.0.0.1:{port}?pkt_size=1316"
        options = {"g": "10", "bf": "0", "tune": "zerolatency"}
        with contextlib.suppress(EOFError):
            write_video(
                url, [corners((48, 64))] * 1500, pace=pace, container_format="mpegts", options=options
            )

    sender = threading.Thread(target=send)
    sender.start()
    try:
        with Watched(StreamConfig(source=f"udp://127.0.0.1:{port}", timeout_s=1)) as watched:
            watched.wait_more(10)
            assert watched.frames[0].size == (48, 64)
            done.set()
            lost = watched.wait_event(Disconnected, watched.losses() + 1)
            assert "sent nothing for 1 s" in lost.reason
    finally:
        done.set()
        sender.join()


def test_one_process_reads_while_another_source_is_dead(rtsp: RtspServer) -> None:
    dead = Watched(StreamConfig(source="rtsp://192.0.2.1/x", timeout_s=2))
    with dead, Watched(StreamConfig(source=rtsp.url("/live"))) as watched:
        watched.wait_frames(50)
        assert watched.losses() == 0
