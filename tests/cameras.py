"""Cameras that tests drive themselves: an RTSP camera, a live HLS service and a snapshot address."""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import av
import pytest

from streamseg.types import Size
from tests.media import picture
from tests.web import Quiet, http_server

FPS = 25
NTP_BEFORE_UNIX_S = 2208988800


def encoded(size: tuple[int, int] = (96, 128), frames: int = 50, gop: int = 50) -> list[list[bytes]]:
    """H.264 of a clip: the NAL units of each frame, in one slice."""
    codec = av.CodecContext.create("libx264", "w")
    assert isinstance(codec, av.VideoCodecContext)
    codec.height, codec.width = size
    codec.pix_fmt, codec.time_base = "yuv420p", Fraction(1, FPS)
    codec.options = {
        "preset": "ultrafast", "tune": "zerolatency", "g": str(gop), "bf": "0", "slices": "1", "threads": "1"
    }  # fmt: skip
    made = []
    for i in range(frames):
        frame = av.VideoFrame.from_ndarray(picture(size, (i + 1) / frames), format="rgb24")
        frame.pts, frame.time_base = i, Fraction(1, FPS)
        for packet in codec.encode(frame):
            units = bytes(packet).replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1")[1:]
            made.append(units)
    return made


LARGE: Size = (240, 320)


@pytest.fixture(name="frames", scope="module")
def large_frames() -> list[list[bytes]]:
    """For a camera's large stream, of which pictures are asked."""
    return encoded(LARGE, frames=10, gop=10)


@pytest.fixture(name="camera")
def large_camera(frames: list[list[bytes]]) -> Iterator[RtspCamera]:
    with RtspCamera(frames) as camera:
        yield camera
        camera.held.clear()


class RtspCamera:
    """Plays frames over and over by RTSP over TCP, with a sender report each second; a context manager.

    clock_off_s: how far the camera's clock is ahead. step_s: by how much its time stamps jump after 3 s.
    While `held` is set it sends nothing; then what it has taken meanwhile, at once. transports: those that
    SETUP takes, of which nothing comes over UDP, as through a firewall; media: what the SDP offers.
    """

    def __init__(
        self,
        frames: Sequence[Sequence[bytes]],
        *,
        clock_off_s: float = 0.0,
        step_s: float = 0.0,
        transports: Sequence[str] = ("TCP",),
        media: str = "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n",
    ) -> None:
        self.frames, self.clock_off_s, self.step_s = frames, clock_off_s, step_s
        self.transports, self.media = transports, media
        self.held = threading.Event()
        self.connections = 0  # that have been made
        self.taken: dict[
            int, float
        ] = {}  # by PTS: when a picture of the newest connection was taken (Unix s)
        self._over = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"rtsp://127.0.0.1:{self._listener.getsockname()[1]}/live"

    def __enter__(self) -> RtspCamera:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while not self._over.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, ValueError):
            if self._agree(connection) and self.frames:
                self._play(connection)

    def _agree(self, connection: socket.socket) -> bool:
        """Answer until PLAY; False where the client goes."""
        text, ready, tcp = connection.makefile("rb"), False, True
        while True:
            head = list(iter(lambda: text.readline().strip().decode(), ""))
            if not head:
                return False
            method = head[0].split()[0]
            status, more, body = "200 OK", "Session: 1\r\n", ""
            if method == "DESCRIBE":
                body = f"v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=x\r\nt=0 0\r\n{self.media}a=control:t0\r\n"
                more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                tcp = any("TCP" in line for line in head)
                ready = ("TCP" if tcp else "UDP") in self.transports
                status = status if ready else "461 Unsupported Transport"
                wanted = next(line for line in head if line.lower().startswith("transport"))
                kind = (
                    "RTP/AVP/TCP;unicast;interleaved=0-1" if tcp else f"{wanted.split()[1]};server_port=9-10"
                )
                more += f"Transport: {kind}\r\n"
            elif method == "PLAY" and not ready:
                status = "455 Method Not Valid in This State"
            cseq = next(line for line in head if line.lower().startswith("cseq"))
            connection.sendall(f"RTSP/1.0 {status}\r\n{cseq}\r\n{more}\r\n{body}".encode())
            if method == "PLAY" and ready and tcp:
                return True

    def _play(self, connection: socket.socket) -> None:
        begun, sequence, number = time.time(), 0, 0
        self.taken = taken_at = {}
        while not self._over.is_set():
            step = round(self.step_s * 90000) if number > 3 * FPS else 0
            stamp = (1 << 28) + number * 90000 // FPS + step
            taken_at[stamp - (1 << 28)] = begun + number / FPS
            if number % FPS == 0:
                taken = begun + number / FPS + self.clock_off_s + NTP_BEFORE_UNIX_S
                parts = int(taken), int(taken % 1 * 2**32)
                report = struct.pack(">BBHIIIIII", 0x80, 200, 6, 1, *parts, stamp, number, number)
                connection.sendall(struct.pack(">cBH", b"$", 1, len(report)) + report)
            units = self.frames[number % len(self.frames)]
            for unit in units:
                marker = 0x80 if unit is units[-1] else 0
                packet = (
                    struct.pack(">BBHII", 0x80, 96 | marker, sequence & 0xFFFF, stamp & 0xFFFFFFFF, 1) + unit
                )
                sequence += 1
                connection.sendall(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
            number += 1
            while self.held.is_set() and not self._over.is_set():
                time.sleep(0.005)
            self._over.wait(max(0.0, begun + number / FPS - time.time()))


@contextmanager
def web_server(
    answer: Callable[[str], bytes | Iterator[bytes] | None], kind: str = "application/octet-stream"
) -> Iterator[str]:
    """Serve what answer(path without slash) returns, 404 for None, an iterator as it comes; its address."""

    class Handler(Quiet):
        def do_GET(self) -> None:
            data = answer(self.path[1:])
            with contextlib.suppress(OSError):
                self.send_response(404 if data is None else 200)
                self.send_header("Content-Type", kind)
                if isinstance(data, bytes | None):
                    self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                for part in [data or b""] if isinstance(data, bytes | None) else data:
                    self.wfile.write(part)

    with http_server(Handler) as address:
        yield f"http://{address}"


def write_segments(
    folder: Path, seconds: int, size: tuple[int, int] = (96, 128), segment_s: int = 2, bf: int = 0
) -> list[bytes]:
    """MPEG-TS segments of a clip, whose time stamps go on from one to the next."""
    options = {"g": str(segment_s * FPS), "bf": str(bf), "sc_threshold": "0", "preset": "ultrafast"}
    hls = {"hls_time": str(segment_s), "hls_list_size": "0", "hls_segment_filename": str(folder / "%04d.ts")}
    with av.open(str(folder / "all.m3u8"), "w", format="hls", options=hls) as container:
        stream = container.add_stream("libx264", rate=FPS, options=options)
        stream.height, stream.width = size
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, FPS)
        for i in range(seconds * FPS):
            frame = av.VideoFrame.from_ndarray(picture(size, i % 50 / 50), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return [path.read_bytes() for path in sorted(folder.glob("*.ts"))]


class HlsService:
    """A live list of segments, over and over, of which `window` are kept (0: all).

    Answers nothing before `late_until_s`.

    begun_s: monotonic, when the first segment began. ends_after: segments after which the event is over; it
    may be set later. count: segments of the last list that was asked for; first_count: of the first one.
    """

    def __init__(
        self,
        segments: Sequence[bytes],
        *,
        name: str = "{:04d}.ts",
        window: int = 0,
        ready: int = 5,
        ends_after: int | None = None,
        segment_s: int = 2,
    ) -> None:
        self.segments, self.name, self.window = segments, name, window
        self.ends_after, self.segment_s = ends_after, segment_s
        self.begun_s = time.monotonic() - ready * segment_s
        self.late_until_s = 0.0
        self.count = self.first_count = 0

    def answer(self, path: str) -> bytes | None:
        time.sleep(max(0.0, self.late_until_s - time.monotonic()))
        if not path.endswith("m3u8"):
            number = int("".join(letter for letter in path if letter.isdigit()))
            return self.segments[number % len(self.segments)]
        count = int((time.monotonic() - self.begun_s) // self.segment_s)
        over = self.ends_after is not None and count >= self.ends_after
        count = self.count = min(count, self.ends_after or count)
        self.first_count = self.first_count or count
        first = max(0, count - self.window) if self.window else 0
        lines = [
            "#EXTM3U", "#EXT-X-VERSION:3", f"#EXT-X-TARGETDURATION:{self.segment_s}",
            f"#EXT-X-MEDIA-SEQUENCE:{first}",
        ]  # fmt: skip
        for number in range(first, count):
            lines += [f"#EXTINF:{self.segment_s}.0,", self.name.format(number)]
        return "\n".join(lines + ["#EXT-X-ENDLIST"] * over + [""]).encode()
