"""What a source setting names, what is shown of it, and what is said when it cannot be had."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import av
import pytest

from streamseg.config import StreamConfig
from streamseg.config.redact import redact
from streamseg.errors import SourceError
from streamseg.sources import is_live, open_source, resolve
from streamseg.sources.frames import decode
from streamseg.sources.interrupting import interruptible
from streamseg.sources.reading import pictures
from tests.media import corners, write_audio, write_video
from tests.ports import free_port


def complaint(source: Path | str, **settings: object) -> str:
    """What open_source says about a source that it refuses: one line, not chained to FFmpeg's own error."""
    with (
        pytest.raises(SourceError) as caught,
        open_source(StreamConfig(source=str(source), **settings), "s"),  # type: ignore[arg-type]
    ):
        pass
    text = str(caught.value)
    assert "\n" not in text
    assert caught.value.__cause__ is None
    return text


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    path = tmp_path / "clip.mp4"
    write_video(path, [corners((48, 64))] * 50, options={"g": "10", "bf": "0"})
    return path


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("rtsp://eye:s3cret@cam/h264", "rtsp://eye:***@cam/h264"),
        ("rtsp://:s3cret@cam/h264", "rtsp://:***@cam/h264"),
        ("rtsp://eye:s3@cr/et@cam:554/h264", "rtsp://eye:***@cam:554/h264"),
        ("rtsp://eye:s3cr?et@cam/h264", "rtsp://eye:***@cam/h264"),
        ("rtsp://eye:s3cret:s3cret@cam/h264", "rtsp://eye:***@cam/h264"),
        ("http://cam/live?user=eye&password=s3cret&x=1", "http://cam/live?user=eye&password=***&x=1"),
        ("https://cam/a.m3u8?access_token=s3cret", "https://cam/a.m3u8?access_token=***"),
        ("https://cam/a.m3u8?x=2&API_KEY=s3cret#t", "https://cam/a.m3u8?x=2&API_KEY=***"),
        ("https://cam/a.m3u8?Signature=s3cret&pwd=s3cret", "https://cam/a.m3u8?Signature=***&pwd=***"),
        ("rtsp://cam:554/h264", "rtsp://cam:554/h264"),
        ("rtsp://eye@cam/h264", "rtsp://eye@cam/h264"),
        ("cannot read rtsp://a:s3cret@x/1 or http://b:s3cret@y/", "cannot read rtsp://a:***@x/1 or http://b:***@y/"),
        ("/videos/street.mp4", "/videos/street.mp4"),
        ("", ""),
    ],
)  # fmt: skip
def test_passwords_are_never_shown(url: str, shown: str) -> None:
    assert redact(url) == shown
    assert redact(redact(url)) == shown


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        ("street.mp4", "file"), ("file:///videos/a%20b.mp4", "file"), ("demo:", "file"), ("a:b.mp4", "file"),
        ("/dev/video0", "camera"), ("/dev/v4l/by-id/usb-eye", "camera"), ("rtsp://cam/1", "network"),
        ("RTSPS://cam/1", "network"), ("udp://239.0.0.1:5000", "network"), ("http://cam/a.m3u8", "network"),
    ],
)  # fmt: skip
def test_a_source_is_told_by_its_text(source: str, kind: str) -> None:
    assert resolve(source).kind == kind
    assert is_live(StreamConfig(source=source)) is (kind != "file")
    assert is_live(StreamConfig(source=source, realtime=True))


def test_file_urls_are_unquoted() -> None:
    assert resolve("file:///videos/a%20b.mp4").name == "/videos/a b.mp4"


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "gone.mp4"
    assert complaint(path) == f"{path}: no such file; check the path"


def test_a_directory_is_named(tmp_path: Path) -> None:
    assert complaint(tmp_path) == f"{tmp_path}: is a directory; name one of the videos in it"


def test_a_path_through_a_file_is_named(clip: Path) -> None:
    assert "part of this path is a file" in complaint(clip / "inner.mp4")


def test_text_that_calls_itself_a_video_is_told(tmp_path: Path) -> None:
    path = tmp_path / "text.mp4"
    path.write_text("this is no video\n" * 100)
    assert complaint(path) == f"{path}: is text, not a video; choose a video file"


def test_noise_that_calls_itself_a_video_is_told(tmp_path: Path) -> None:
    path = tmp_path / "noise.mp4"
    path.write_bytes(bytes(range(256)) * 64)
    assert "is not a video that FFmpeg can read" in complaint(path)


def test_an_empty_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "empty.mp4"
    path.touch()
    assert complaint(path) == f"{path}: is empty (0 bytes); copy or record it again"


def test_an_mp4_cut_off_before_its_index_is_told(tmp_path: Path, clip: Path) -> None:
    whole = clip.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: whole.index(b"moov") - 4])
    text = complaint(cut)
    assert text.startswith(f"{cut}: is cut off: an MP4 without its index (moov)")
    assert "copy it again" in text


def test_a_file_with_sound_only_is_told(tmp_path: Path) -> None:
    path = tmp_path / "sound.mp4"
    write_audio(path)
    assert complaint(path) == f"{path}: has no video in it, only audio; choose another file or stream"


def test_an_unknown_codec_is_told(tmp_path: Path, clip: Path) -> None:
    path = tmp_path / "odd.mp4"
    path.write_bytes(clip.read_bytes().replace(b"avc1", b"zzz9").replace(b"avcC", b"zzzC"))
    assert complaint(path) == (
        f"{path}: this build of FFmpeg has no decoder for its video codec; convert it to H.264"
    )


def test_a_file_without_permission_is_told_with_the_way_out(clip: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "private.mp4"
        path.write_bytes(clip.read_bytes())
        path.chmod(0)
        with ordinary_user():
            text = complaint(path)
    assert text == f"{path}: permission denied; make it readable for the user that runs streamseg"


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read everything; so it is somebody else meanwhile."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_camera_that_is_not_there_is_told() -> None:
    text = complaint("/dev/video97")
    assert text.startswith("/dev/video97: no such camera; ")
    assert "/dev/video" in text.split(";")[1]


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        ("srt://eye:s3cret@host:9000", "SRT is not in this build of FFmpeg; send it as RTSP"),
        ("gopher://eye:s3cret@host/x", "gopher:// is not known; use a file, /dev/videoN, or rtsp://"),
        ("rtsp:///x", "has no host; write rtsp://HOST/PATH"),
        ("rtsp://eye:s3cret@nosuchhost.invalid/x", "unknown host 'nosuchhost.invalid'; check the name"),
        ("rtsp://eye:s3cret@127.0.0.1:{port}/x", "connection refused; is the server running"),
        ("http://eye:s3cret@127.0.0.1:{port}/x", "connection refused; is the server running"),
        ("rtmp://eye:s3cret@127.0.0.1:{port}/x", "connection refused; is the server running"),
        ("http://127.0.0.1:{port}/x?token=s3cret", "connection refused; is the server running"),
        ("rtsp://eye:s3cret@127.0.0.1:99999/x", "is not a valid address"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_had_is_told_without_its_password(
    source: str, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        text = complaint(source.format(port=free_port()), timeout_s=2.0)
    assert f": {reason}" in text
    assert "s3cret" not in text + caplog.text


def test_a_server_that_never_answers_is_told_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = complaint(f"rtsp://eye:s3cret@127.0.0.1:{port}/x", timeout_s=0.4)
    said = "sent nothing for 0.4 s; is it on, and does the network let it through?"
    assert text == f"rtsp://eye:***@127.0.0.1:{port}/x: {said}"


def test_a_file_damaged_in_the_middle_gives_the_rest_and_says_what_is_missing(
    tmp_path: Path, clip: Path
) -> None:
    path = tmp_path / "scratched.mp4"
    data = bytearray(clip.read_bytes())
    at = data.index(b"mdat") + 4
    body = data.index(b"moov") - 4 - at
    data[at + body // 3 : at + body // 2] = bytes(body // 2 - body // 3)
    path.write_bytes(data)
    with open_source(StreamConfig(source=str(path)), "s") as source:
        count = sum(1 for _ in decode(source, "s"))
        assert 10 <= count < 50
        assert source.corrupt > 0
        assert source.damage is not None
        assert source.damage.startswith(f"{path}: damaged; {count} pictures could be decoded")


def test_a_file_cut_off_behind_its_index_gives_what_there_is_and_says_so(tmp_path: Path) -> None:
    source_path, path = tmp_path / "fast.mp4", tmp_path / "cut.mp4"
    write_video(source_path, [corners((48, 64))] * 50, options={"g": "10", "bf": "0"},
                container_options={"movflags": "faststart"})  # fmt: skip
    data = source_path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    path.write_bytes(data[: data.index(b"mdat") + (len(data) - data.index(b"mdat")) // 2])
    with open_source(StreamConfig(source=str(path)), "s") as source:
        count = sum(1 for _ in decode(source, "s"))
        assert 10 <= count < 50
        assert source.corrupt == 50 - count
        assert source.damage is not None
        assert source.damage.endswith("s of 2.00 s")


def test_a_whole_file_is_described(clip: Path) -> None:
    with open_source(StreamConfig(source=str(clip)), "s") as source:
        assert (source.url, source.live, source.size, source.fps) == (str(clip), False, (48, 64), 25)
        assert (source.frames_hint, source.duration_s, source.codec) == (50, 2.0, "h264")
        assert sum(1 for _ in decode(source, "s")) == 50
        assert (source.corrupt, source.damage) == (0, None)


def test_the_stop_flag_reaches_ffmpeg_while_it_opens() -> None:
    """Guards the way in which streamseg.sources.opening relies on PyAV."""
    stop = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server, interruptible(stop):
        threading.Timer(0.2, stop.set).start()
        begun = time.monotonic()
        with pytest.raises(av.error.FFmpegError):
            av.open(f"rtsp://127.0.0.1:{server.getsockname()[1]}/x", timeout=(30.0, None))
        assert time.monotonic() - begun < 25  # and not 30


def test_an_animated_webp_is_called_that(tmp_path: Path) -> None:
    header = b"WEBPVP8X" + (10).to_bytes(4, "little") + bytes([0x02, 0, 0, 0]) + bytes(6)
    path = tmp_path / "walk.webp"
    path.write_bytes(b"RIFF" + (len(header) + 600).to_bytes(4, "little") + header + b"ANIM" + bytes(596))
    assert "is an animated WebP" in complaint(path)


@pytest.mark.parametrize("movflags", ["", "faststart", "frag_keyframe+empty_moov"])
def test_an_encrypted_recording_is_called_that_and_gives_no_noise(tmp_path: Path, movflags: str) -> None:
    key = "0123456789abcdef0123456789abcdef"
    encryption = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": key, "encryption_kid": key}
    path = tmp_path / "secret.mp4"
    pictures = [corners((48, 64))] * 10
    write_video(path, pictures, container_options=encryption | ({"movflags": movflags} if movflags else {}))
    assert "is encrypted" in complaint(path)


def test_an_encrypted_webm_is_told_by_its_key(clip: Path) -> None:
    with open_source(StreamConfig(source=str(clip)), "s") as source:
        source.video.metadata["enc_key_id"] = "abcd"
        source.pending.clear()
        with pytest.raises(SourceError, match="is encrypted"):
            list(pictures(source, threading.Event()))
