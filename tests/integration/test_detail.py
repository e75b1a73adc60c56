"""Detailed pictures of a running daemon: by its control socket, the command line and the console."""

from __future__ import annotations

import base64
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from email.message import Message
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner

from streamseg.cli.ctl import command as ctl
from streamseg.client.control import ControlClient
from streamseg.daemon import Daemon
from streamseg.daemon.control import DETAILS_AT_ONCE, MOST_DETAILS
from streamseg.errors import ControlError
from tests.cameras import LARGE, RtspCamera, large_camera, large_frames
from tests.integration.console import Tile, browser, page
from tests.integration.daemons import ready_daemon
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, until
from tests.web import Quiet, http_server

__all__ = ["browser", "large_camera", "large_frames", "page"]

pytestmark = pytest.mark.usefixtures("own_runtime")

PASSWORD = "Sesam/öffne @dich:50%"


class Site:
    """A configuration whose stream has a small source, and the daemon that runs it in a thread."""

    def __init__(self, folder: Path, engine: Path) -> None:
        self.folder, self.engine = folder, engine
        self.path, self.clip = folder / "site.toml", draw_clip(folder / "small.mp4", frames=30)

    def write(self, more: str, sections: str = "") -> None:
        self.path.write_text(
            '[publish]\nendpoint = "tcp://127.0.0.1:0"\n'
            f'[engine]\nname = "{self.engine}"\nthreads = 1\nbackend = "onnx"\n{sections}'
            f'[streams.gate]\nsource = "{self.clip}"\nloop = true\nrealtime = true\nmax_fps = 5\n{more}'
        )

    def running(self) -> AbstractContextManager[tuple[Daemon, ControlClient]]:
        return ready_daemon(self.path)


@pytest.fixture
def site(tmp_path: Path, tiny_engine: Path) -> Site:
    return Site(tmp_path, tiny_engine)


def detail(url: str, more: str = "") -> str:
    return f'detail_source = "{url}"\n{more}'


def test_the_large_stream_is_opened_for_a_picture_and_the_small_one_goes_on(
    site: Site, camera: RtspCamera, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.write(detail(camera.url))
    monkeypatch.chdir(site.folder)
    with site.running() as (daemon, client):
        until(lambda: client.status().streams["gate"].published)
        assert (camera.connections, client.status().details) == (0, ["gate"])
        picture = client.picture("gate")
        assert (picture.size, picture.clock, camera.connections) == (LARGE, "arrival", 1)
        ask = ["--timeout", str(LIMIT_S), "--endpoint", daemon.private_endpoint, "picture", "gate"]
        shown = CliRunner().invoke(ctl, [*ask, "--out", "full.jpg"], catch_exceptions=False).output
        assert re.fullmatch(
            r"gate: 320x240, \d{4}-\d\d-\d\d [\d:.]{15} UTC as it arrived\nsaved as full\.jpg\n", shown
        )
        assert cv2.imread("full.jpg").shape == (*LARGE, 3)
        shown = CliRunner().invoke(ctl, ask, catch_exceptions=False).output
        assert Path(shown.split()[-1]).exists()
        assert re.search(r"saved as gate-\d{8}T\d{6}\.\d{6}Z\.jpg$", shown)
        status = client.status().streams["gate"]
        assert (status.size, status.reconnects, camera.connections) == ((48, 64), 0, 3)


def test_a_reload_changes_it_and_does_not_reopen_the_source(site: Site, camera: RtspCamera) -> None:
    site.write("")
    with site.running() as (_, client):
        until(lambda: client.status().streams["gate"].published)
        before = client.status()
        assert before.details == []
        with pytest.raises(ControlError, match="gate: has no detail_source; set it to"):
            client.picture("gate")
        site.write(detail(camera.url))
        done = client.reload()
        assert (done.applied, done.restarted) == (["streams.gate"], [])
        assert client.picture("gate").size == LARGE
        site.write(detail("stream:gate"))
        with pytest.raises(ControlError, match=r"streams\.gate\.detail_source: must be the camera's large"):
            client.reload()
        assert client.picture("gate").size == LARGE
        assert client.status().streams["gate"].connects == before.streams["gate"].connects


def test_the_daemon_stops_at_once_while_a_camera_is_silent(site: Site, camera: RtspCamera) -> None:
    """timeout_s is longer than the test waits for the end."""
    camera.held.set()
    site.write(detail(camera.url, "timeout_s = 300\n"))
    with ThreadPoolExecutor() as threads, site.running() as (daemon, client):
        waiting = threads.submit(client.picture, "gate")
        until(lambda: camera.connections == 1)
        daemon.stop()
        with pytest.raises(ControlError, match="stopping"):
            waiting.result(LIMIT_S)
    assert not daemon.abandoned


def test_two_are_opened_at_once_some_wait_and_the_rest_are_sent_away(
    site: Site, frames: list[list[bytes]]
) -> None:
    """And the removal of a stream ends the wait for its camera."""
    with RtspCamera(frames) as silent, RtspCamera(frames) as slow, RtspCamera(frames) as third:
        silent.held.set()
        slow.held.set()
        site.write(detail(silent.url, "timeout_s = 300\n"))
        with site.running() as (daemon, client), ThreadPoolExecutor(16) as threads:
            for name, camera in (("slow", slow), ("third", third)):
                client.add(
                    name, source=str(site.clip), realtime=True, loop=True, timeout_s=300.0,
                    detail_source=camera.url,
                )  # fmt: skip

            def ask(name: str) -> tuple[int, int]:
                with ControlClient(daemon.private_endpoint, timeout_s=LIMIT_S) as own:
                    return own.picture(name).size

            first = threads.submit(ask, "gate")
            until(lambda: silent.connections == 1)
            second = threads.submit(ask, "slow")
            until(lambda: slow.connections == 1)
            waiting = [threads.submit(ask, "third") for _ in range(MOST_DETAILS + 1)]
            until(lambda: any(one.done() for one in waiting))
            (away,) = [one for one in waiting if one.done()]
            with pytest.raises(
                ControlError, match="too many detailed pictures wait already; try again later"
            ):
                away.result()
            assert third.connections == 0
            assert DETAILS_AT_ONCE == 2
            assert client.status().streams.keys() == {"gate", "slow", "third"}  # nothing else waits for them
            client.remove("gate")
            with pytest.raises(ControlError, match="gate: was removed meanwhile"):
                first.result(LIMIT_S)
            assert {one.result(LIMIT_S) for one in waiting if one is not away} == {LARGE}
            slow.held.clear()
            assert second.result(LIMIT_S) == LARGE
        silent.held.clear()


@contextmanager
def snapshots() -> Iterator[tuple[str, list[str]]]:
    """HOST:PORT of a camera that gives a picture for a password, and the logins that it was shown."""
    jpeg = cv2.imencode(".jpg", np.full((90, 160, 3), 200, np.uint8))[1].tobytes()
    right = "Basic " + base64.b64encode(f"eye:{PASSWORD}".encode()).decode()
    asked: list[str] = []

    class Camera(Quiet):
        def do_GET(self) -> None:
            shown = self.headers.get("Authorization", "")
            asked.append(shown)
            self.send_response(200 if shown == right else 401)
            self.send_header("WWW-Authenticate", 'Basic realm="camera"')
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(jpeg) if shown == right else 0))
            self.end_headers()
            if shown == right:
                self.wfile.write(jpeg)

    with http_server(Camera) as address:
        yield address, asked


def test_the_password_file_is_that_of_both_and_only_the_operator_may_set_one(site: Site) -> None:
    passwords = site.folder / "passwords"
    passwords.write_text(f"gate {PASSWORD}\nwrong Knoblauch!7\nhall x\n")
    passwords.chmod(0o600)
    with snapshots() as (camera, asked), snapshots() as (elsewhere, strangers):
        section = f'[control]\nendpoint = "ipc://{site.folder}/control"\n'
        site.path.write_text(
            '[publish]\nendpoint = "tcp://127.0.0.1:0"\n'
            f'[engine]\nname = "{site.engine}"\nthreads = 1\nbackend = "onnx"\n{section}'
            + "".join(
                f'[streams.{name}]\nsource = "http://eye@{camera}/small.jpg"\npassword_file = "{passwords}"\n'
                f'detail_source = "http://eye@{camera}/large.jpg"\nretry_at_start = true\n'
                for name in ("gate", "wrong")
            )
        )
        with (
            site.running() as (_, client),
            ControlClient(f"ipc://{site.folder}/control", timeout_s=LIMIT_S) as remote,
        ):
            assert remote.picture("gate").size == (90, 160)
            assert asked
            with pytest.raises(ControlError, match=r"wrong: http://eye@.*large\.jpg: .*\(401\)") as caught:
                remote.picture("wrong")
            assert "Knoblauch" not in str(caught.value)
            settings = {"source": "demo:", "detail_source": f"http://eye@{elsewhere}/x.jpg"}
            with pytest.raises(ControlError, match="password_file: may only be set on the daemon's machine"):
                remote.add("spy", **settings, password_file=str(passwords))
            remote.add("spy", **settings)
            with pytest.raises(ControlError, match=r"\(401\)"):
                remote.picture("spy")
            for path in ("/etc/passwd", "/dev/video7"):
                with pytest.raises(ControlError, match=rf"streams\.hall\.detail_source: {path} is a"):
                    remote.add("hall", source="demo:", detail_source=path)
            with pytest.raises(ControlError, match=r"detail_source: .*needs a user in the address"):
                client.add(
                    "hall", source=f"http://eye@{camera}/a.jpg", password_file=str(passwords),
                    detail_source=f"http://{camera}/b.jpg",
                )  # fmt: skip
        assert strangers
        assert set(strangers) == {""}


def is_up(listen: str) -> bool:
    host, port = listen.split(":")
    with socket.socket() as sock:
        return sock.connect_ex((host, int(port))) == 0


def get(url: str, **headers: str) -> tuple[int, bytes, Message]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=sent), timeout=LIMIT_S) as answer:
            return answer.status, answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read(), error.headers


def test_the_console_gives_the_picture_with_the_time_when_it_was_taken(
    site: Site, camera: RtspCamera
) -> None:
    pytest.importorskip("aiohttp", reason="pip install 'streamseg[web]'")
    listen = f"127.0.0.1:{free_port()}"
    away = f'[streams.yard]\nsource = "demo:"\nrealtime = true\nloop = true\n{detail("rtsp://127.0.0.1:1/x")}'
    plain = '[streams.hall]\nsource = "demo:"\nrealtime = true\nloop = true\n'
    site.write(detail(camera.url) + away + plain, f'[web]\nlisten = "{listen}"\n')
    with site.running():
        url = f"http://{listen}/streams/gate/detail.jpg"
        until(lambda: is_up(listen))
        status, body, headers = get(url)
        assert (status, headers["Content-Type"], headers["Clock"]) == (200, "image/jpeg", "arrival")
        assert cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR).shape == (*LARGE, 3)
        taken_ms = int(headers["Captured-Unix-Ns"]) // 1_000_000
        assert headers["Content-Disposition"] == f'inline; filename="gate-{taken_ms}.jpg"'
        assert headers["Cache-Control"] == "no-store"
        assert get(url, Origin="http://evil.example")[0] == 403
        assert get(url, Sec_Fetch_Site="cross-site")[0] == 403
        assert camera.connections == 1
        status, body, headers = get(url.replace("gate", "yard"))
        assert (status, headers["Retry-After"]) == (503, "5")
        assert body.startswith(b"yard: rtsp://127.0.0.1:1/x: ")
        status, body, _ = get(url.replace("gate", "hall"))
        assert (status, body[:37]) == (404, b"hall: has no detail_source; set it to")
        assert get(url.replace("gate", "nobody"))[0] == 404


@pytest.mark.slow  # 20 s: a browser of its own
def test_the_page_has_a_link_for_streams_with_a_large_one(page: Any, site: Site, camera: RtspCamera) -> None:
    listen = f"127.0.0.1:{free_port()}"
    plain = '[streams.hall]\nsource = "demo:"\nrealtime = true\nloop = true\n'
    site.write(detail(camera.url) + plain, f'[web]\nlisten = "{listen}"\n')
    with site.running():
        until(lambda: is_up(listen))
        page.goto(f"http://{listen}/")
        tile, other = Tile(page, "gate"), Tile(page, "hall")
        tile.wait_drawn(1)
        other.wait_drawn(1)
        until(lambda: tile.button("picture").is_visible(), "the link")
        assert not other.button("picture").is_visible()
        assert camera.connections == 0
        with page.context.expect_page() as opened:
            tile.button("picture").click()
        shown = opened.value
        shown.wait_for_load_state()
        assert shown.url == f"http://{listen}/streams/gate/detail.jpg"
        assert shown.evaluate("[document.images[0].naturalHeight, document.images[0].naturalWidth]") == [
            *LARGE
        ]
        assert camera.connections == 1
