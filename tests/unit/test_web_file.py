"""Files behind http(s): what their servers say is asked for as FFmpeg asks, and they end where they end."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from urllib.parse import unquote

import pytest

from streamseg.config import StreamConfig
from streamseg.errors import SourceEnded, SourceError
from streamseg.recorded.content import read_content
from streamseg.recorded.inputs import find_inputs
from streamseg.sources import open_source
from streamseg.sources.events import SourceEvent
from streamseg.sources.live import frames
from streamseg.sources.reading import pictures
from streamseg.sources.web_file import ask
from streamseg.types import Frame
from tests.media import corners, write_video
from tests.waiting import LIMIT_S
from tests.web import Quiet, http_server

Answer = Callable[[BaseHTTPRequestHandler], None]


@contextmanager
def server(answer: Answer) -> Iterator[str]:
    """HOST:PORT of a server that answers GET so, and refuses HEAD."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            with contextlib.suppress(OSError):  # the other end has read enough
                answer(self)

    with http_server(Handler) as address:
        yield address


def sends(handler: BaseHTTPRequestHandler, data: bytes, *, of: int = 0, kind: str = "video/mp2t") -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", kind)
    if of >= 0:
        handler.send_header("Content-Length", str(of or len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def clip(path: Path, count: int = 25, **options: str) -> bytes:
    write_video(path, [corners((48, 64))] * count, options={"g": "5", **options})
    return path.read_bytes()


def jpeg(folder: Path) -> bytes:
    write_video(folder / "a.mjpeg", [corners((48, 64))], codec="mjpeg", pix_fmt="yuvj420p")
    return (folder / "a.mjpeg").read_bytes()


def played(address: str, *, enough: int = 10**6, **settings: object) -> tuple[list[Frame], list[SourceEvent]]:
    """What `run` gets of an address: until it ends, has `enough` frames, or LIMIT_S has passed."""
    stop = threading.Event()
    got: list[Frame] = []
    events: list[SourceEvent] = []
    limit = threading.Timer(LIMIT_S, stop.set)
    limit.start()

    def heard(event: SourceEvent) -> None:
        events.append(event)
        if type(event).__name__ == "Disconnected":
            stop.set()

    for frame in frames(StreamConfig(source=address, **settings), "web", stop, heard):  # type: ignore[arg-type]
        got.append(frame)
        if len(got) == enough:
            stop.set()
    limit.cancel()
    return got, events


def basic(handler: BaseHTTPRequestHandler, user: str, password: str) -> bool:
    wanted = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
    return handler.headers.get("Authorization") == wanted


def digest(handler: BaseHTTPRequestHandler, user: str, password: str) -> bool:
    said = dict(re.findall(r'(\w+)="?([^",]+)"?', handler.headers.get("Authorization", "")))
    if said.get("username") != user:
        return False
    one = hashlib.md5(f"{user}:cam:{password}".encode()).hexdigest()
    two = hashlib.md5(f"GET:{handler.path}".encode()).hexdigest()
    middle = f"{said['nonce']}:{said['nc']}:{said['cnonce']}:auth" if "qop" in said else said["nonce"]
    return said["response"] == hashlib.md5(f"{one}:{middle}:{two}".encode()).hexdigest()


@pytest.mark.parametrize("login", ["me:hunter2", "me:my%20hunter2", "me:p%40ss%2Fword", "me:p@ss:word"])
@pytest.mark.parametrize("check", [basic, digest])
def test_the_login_of_an_address_is_shown_to_its_server(login: str, check: Callable[..., bool]) -> None:
    user, _, password = map(unquote, login.partition(":"))
    asks = 'Basic realm="cam"' if check is basic else 'Digest realm="cam", nonce="abc", qop="auth"'

    def answer(handler: BaseHTTPRequestHandler) -> None:
        if check(handler, user, password):
            sends(handler, b"x" * 7)
            return
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", asks)
        handler.end_headers()

    with server(answer) as at:
        assert ask(f"http://{login}@{at}/clip.mp4").length == 7
        assert ask(f"http://{at}/clip.mp4").length is None  # refused: not known


def test_a_user_without_a_password_is_shown_to_nobody() -> None:
    shown = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        shown.append(handler.headers.get("Authorization"))
        handler.send_response(401)
        handler.send_header("WWW-Authenticate", 'Basic realm="cam"')
        handler.end_headers()

    with server(answer) as at:
        assert ask(f"http://eye@{at}/clip.mp4").length is None
    assert shown == [None]


@pytest.mark.parametrize(
    "path", ["straße/clip.mp4", "my clip.mp4", "a%20b.mp4", "a+b&c.mp4?x=1&sig=a%2Fb", "密.mp4?q=ü"]
)
def test_letters_of_any_kind_reach_the_server_as_from_ffmpeg(path: str) -> None:
    seen = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        seen.append(handler.path)
        sends(handler, b"x")

    with server(answer) as at:
        ask(f"http://{at}/{path}")
        with pytest.raises(SourceError), open_source(StreamConfig(source=f"http://{at}/{path}"), "s"):
            pass
    assert unquote(seen[0]) == unquote(f"/{path}")
    assert {unquote(one) for one in seen} == {unquote(f"/{path}")}


def test_a_signature_that_changes_leaves_the_content_the_same() -> None:
    with server(lambda handler: sends(handler, b"x" * 9)) as at:
        one, two = (read_content(find_inputs([f"http://{at}/a.mp4?sig={n}"])[0]) for n in ("abcd", "efgh"))
        other = read_content(find_inputs([f"http://{at}/b.mp4?sig=abcd"])[0])
    assert one.bytes == 9
    assert one.sha256 == two.sha256 != other.sha256


@pytest.mark.parametrize("name", ["a.ts", "a.mpg", "a.mkv"])
def test_a_file_of_a_server_without_ranges_ends_where_its_length_says(tmp_path: Path, name: str) -> None:
    codec = "mpeg2video" if name == "a.mpg" else "libx264"
    write_video(tmp_path / name, [corners((48, 64))] * 25, options={"g": "5"}, codec=codec)
    data = (tmp_path / name).read_bytes()
    with server(lambda handler: sends(handler, data)) as at:
        with open_source(StreamConfig(source=f"http://{at}/{name}"), "s", recorded=True) as source:
            assert sum(1 for _ in pictures(source, threading.Event())) == 25
        got, events = played(f"http://{at}/{name}")
    assert len(got) == 25
    assert [type(event).__name__ for event in events] == ["Connected", "Ended"]


def test_what_has_no_length_is_a_stream_without_an_end(tmp_path: Path) -> None:
    data = clip(tmp_path / "a.ts")
    with server(lambda handler: sends(handler, data, of=-1)) as at:
        _, events = played(f"http://{at}/a.ts")
        address = StreamConfig(source=f"http://{at}/a.ts")
        with (
            pytest.raises(SourceError, match="live stream without an end"),
            open_source(address, "s", recorded=True),
        ):
            pass
    assert type(events[-1]).__name__ == "Disconnected"


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_a_connection_that_breaks_is_tried_again_and_no_damage_of_the_file(tmp_path: Path, name: str) -> None:
    data = clip(tmp_path / name, 50)
    with server(lambda handler: sends(handler, data[: len(data) // 2], of=len(data))) as at:
        _, events = played(f"http://{at}/{name}", retry_at_start=True)
        with (
            open_source(StreamConfig(source=f"http://{at}/{name}"), "s", recorded=True) as source,
            pytest.raises(SourceEnded, match="the connection broke off"),
        ):
            list(pictures(source, threading.Event()))
    assert "the connection broke off" in events[-1].reason  # type: ignore[union-attr]


def test_an_index_at_the_end_behind_a_server_that_cannot_seek_is_told_as_that(tmp_path: Path) -> None:
    write_video(tmp_path / "late.mp4", [corners((480, 640))] * 20, codec="mjpeg", pix_fmt="yuvj420p")
    data = (tmp_path / "late.mp4").read_bytes()
    with (
        server(lambda handler: sends(handler, data)) as at,
        pytest.raises(SourceError, match=r"its server sends no parts of files.*faststart"),
        open_source(StreamConfig(source=f"http://{at}/late.mp4"), "s", recorded=True),
    ):
        pass


def test_jpegs_in_a_row_are_a_camera_also_at_a_low_rate(tmp_path: Path) -> None:
    picture = jpeg(tmp_path)

    def answer(handler: BaseHTTPRequestHandler) -> None:
        sends(handler, b"", of=-1, kind="video/x-motion-jpeg")
        while True:
            handler.wfile.write(picture)
            time.sleep(0.05)

    with server(answer) as at:
        got, _ = played(f"http://{at}/camera", enough=20)
    assert len(got) == 20


@pytest.mark.parametrize(
    ("data", "kind", "says"),
    [
        (b"Content-Type: image/jpeg\r\n\r\n\xff\xd8\xff" + bytes(9000), "multipart/mixed", "boundary"),
        (b"<!DOCTYPE html><html><p>Log in</p></html>", "text/html", "is a web page, not a video; check"),
        (b"%PDF-1.7\n" + bytes(range(256)) * 9, "application/pdf", "is a PDF, not a video; check the path"),
        (b"PK\3\4" + bytes(range(256)) * 9, "application/zip", "is a ZIP archive, not a video"),
    ],
)  # fmt: skip
def test_what_is_no_video_is_told_by_what_it_is(data: bytes, kind: str, says: str) -> None:
    with (
        server(lambda handler: sends(handler, data, of=-1, kind=kind)) as at,
        pytest.raises(SourceError, match=says),
        open_source(StreamConfig(source=f"http://{at}/x"), "s"),
    ):
        pass
