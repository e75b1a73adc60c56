"""What is told to be missing of a file, and what is not: by evidence, for each container."""

from __future__ import annotations

import struct
import threading
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from streamseg.config import StreamConfig
from streamseg.sources.opening import open_source
from streamseg.sources.reading import pictures
from tests.media import picture

FPS = 25


def draw(
    path: Path,
    frames: int = 50,
    *,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    sound: str | None = None,
    first: int = 0,
    last_s: float | None = None,
    mux: dict[str, str] | None = None,
    to: Any = None,
    form: str | None = None,
    options: dict[str, str] | None = None,
) -> Path:
    """A growing bar; sound: a codec; last_s: for how long the last picture stands; to: a file to write."""
    with av.open(to or str(path), "w", format=form, options=mux or {}) as out:
        video = out.add_stream(codec, rate=FPS, options={"g": "10", "bf": "0", **(options or {})})
        video.height, video.width, video.pix_fmt = 48, 64, pix_fmt
        video.time_base = video.codec_context.time_base = Fraction(1, FPS)
        audio: Any = out.add_stream(sound, rate=48000) if sound else None
        packets: list[Any] = []
        heard = 0
        for i in range(frames):
            frame = av.VideoFrame.from_ndarray(picture((48, 64), (i + 1) / frames), format="rgb24")
            frame.pts, frame.time_base = first + i, Fraction(1, FPS)
            packets += video.encode(frame)
            while audio and heard * FPS < 48000 * (i + 1):
                kind, form_ = (np.int16, "s16") if sound == "mp2" else (np.float32, "fltp")
                quiet = av.AudioFrame.from_ndarray(np.zeros((1, 1152), kind), format=form_, layout="mono")
                quiet.sample_rate, quiet.pts, quiet.time_base = 48000, heard, Fraction(1, 48000)
                packets += audio.encode(quiet)
                heard += 1152
        packets += video.encode()
        if last_s is not None:
            packets[-1].duration = round(last_s / packets[-1].time_base)
        for packet in packets + (audio.encode() if audio else []):
            out.mux(packet)
    return path


def read(path: Path, track: int | None = None) -> tuple[int, int, str | None]:
    """Pictures, how many were corrupt or missing, and the line about it."""
    with open_source(StreamConfig(source=str(path)), "s", recorded=True, track=track) as source:
        count = sum(1 for _ in pictures(source, threading.Event()))
        return count, source.corrupt, source.damage


def cut(path: Path, share: float = 0.55) -> Path:
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


class Unseekable:
    """A pipe: what has been written stays as it is."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def write(self, data: bytes) -> int:
        return self._file.write(data)

    def close(self) -> None:
        self._file.close()


CUT: dict[str, dict[str, Any]] = {
    "cut.mp4": {"sound": "aac", "mux": {"movflags": "faststart"}},
    "cut.mkv": {"sound": "aac"},
    "silent.mkv": {},
    "cut.webm": {"codec": "libvpx", "sound": "libopus"},
    "cut.flv": {"sound": "aac"},
    "cut.ogv": {"codec": "libvpx", "sound": "libopus", "form": "ogg"},
    "cut.avi": {"codec": "mpeg4", "sound": "mp2"},
    "cut.wmv": {"codec": "wmv2", "sound": "mp2"},
    "cut.gif": {"codec": "gif", "pix_fmt": "rgb8"},
    "cut.mxf": {"codec": "mpeg2video"},
    "cut.mjpeg": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
}


@pytest.mark.parametrize("name", CUT)
@pytest.mark.parametrize("share", [0.6, 0.75, 0.85])
def test_a_file_that_was_cut_off_says_so_and_a_whole_one_does_not(
    tmp_path: Path, name: str, share: float
) -> None:
    path = draw(tmp_path / name, **CUT[name])
    assert read(path) == (50, 0, None)
    count, _, line = read(cut(path, share))
    assert count < 50
    assert line is not None
    assert line.startswith(f"{path}: damaged; {count} pictures could be decoded")


@pytest.mark.parametrize("share", [0.88, 0.9, 0.92])
def test_an_mxf_that_lost_its_last_pictures_says_so(tmp_path: Path, share: float) -> None:
    path = cut(draw(tmp_path / "cut.mxf", codec="mpeg2video"), share)
    count, _, line = read(path)
    assert 40 <= count < 50
    assert line is not None
    assert line.startswith(f"{path}: damaged; {count} pictures could be decoded")


HEALTHY: dict[str, dict[str, Any]] = {
    "screen.mp4": {"last_s": 5},
    "screen.mkv": {"last_s": 5},
    "screen.webm": {"codec": "libvpx", "last_s": 5},
    "pause.gif": {"codec": "gif", "pix_fmt": "rgb8", "mux": {"final_delay": "300"}},
    "begins-late.mkv": {"first": 500},
    "begins-late.webm": {"codec": "libvpx", "first": 500, "sound": "libopus"},
    "begins-late.flv": {"first": 500},
    "sound.ts": {"sound": "mp2"},
}


@pytest.mark.parametrize("name", HEALTHY)
def test_a_last_picture_that_stands_for_long_and_a_late_beginning_are_no_damage(
    tmp_path: Path, name: str
) -> None:
    assert read(draw(tmp_path / name, **HEALTHY[name])) == (50, 0, None)


@pytest.mark.parametrize("name", ["pipe.avi", "pipe.mkv", "pipe.flv", "pipe.ivf", "pipe.wmv", "pipe.webm"])
def test_what_a_writer_could_not_go_back_to_fill_in_is_no_promise(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    form = {"avi": "avi", "mkv": "matroska", "flv": "flv", "ivf": "ivf", "wmv": "asf", "webm": "webm"}[
        name[5:]
    ]
    codec = {"avi": "mpeg4", "ivf": "libvpx", "webm": "libvpx", "wmv": "wmv2"}.get(name[5:], "libx264")
    pipe = Unseekable(path)
    draw(path, codec=codec, to=pipe, form=form)
    pipe.close()
    assert read(path) == (50, 0, None)


def joined(path: Path, *halves: Path) -> Path:
    path.write_bytes(b"".join(half.read_bytes() for half in halves))
    return path


@pytest.mark.parametrize("first", [25, 0, 25 * 60 * 60])
def test_transport_streams_that_were_joined_are_whole(tmp_path: Path, first: int) -> None:
    a, b = draw(tmp_path / "a.ts", 25), draw(tmp_path / "b.ts", 25, first=first)
    assert read(joined(tmp_path / "both.ts", a, b)) == (50, 0, None)


@pytest.mark.parametrize("name", ["a.mp4", "a.mov", "a.flv", "a.wmv", "a.mkv", "a.avi"])
def test_a_second_recording_in_a_file_is_read_or_told(tmp_path: Path, name: str) -> None:
    codec = {".wmv": "wmv2", ".avi": "mpeg4"}.get(name[1:], "libx264")
    a, b = draw(tmp_path / name, 25, codec=codec), draw(tmp_path / f"b{name}", 25, codec=codec)
    count, _, line = read(joined(tmp_path / f"both{name}", a, b))
    assert read(a) == read(b) == (25, 0, None)
    assert (count, line) == (50, None) or (
        count == 25 and line is not None and "another recording follows in the same file" in line
    )


def test_a_counter_that_jumps_where_pictures_are_missing_is_damage(tmp_path: Path) -> None:
    path = draw(tmp_path / "lossy.ts", 50, codec="mpeg2video")
    data = path.read_bytes()
    middle = len(data) // 2 // 188 * 188
    path.write_bytes(data[:middle] + data[middle + 40 * 188 :])
    count, corrupt, line = read(path)
    assert count < 50
    assert corrupt > 0
    assert line is not None


PIDS = {"mpegts_start_pid": "512"}


@pytest.mark.parametrize("sound", [None, "mp2"])
def test_video_that_goes_on_under_another_pid_stays_in_its_stream(tmp_path: Path, sound: str | None) -> None:
    a, b = (
        draw(tmp_path / "a.ts", 25, sound=sound),
        draw(tmp_path / "b.ts", 25, first=25, mux=PIDS, sound=sound),
    )
    assert read(joined(tmp_path / "both.ts", a, b)) == (50, 0, None)


@pytest.mark.parametrize("sound", [None, "mp2"])
def test_video_that_goes_on_in_another_programme_is_told(tmp_path: Path, sound: str | None) -> None:
    a = draw(tmp_path / "a.ts", 25, sound=sound)
    b = draw(tmp_path / "b.ts", 25, first=25, mux={**PIDS, "mpegts_service_id": "7"}, sound=sound)
    path = joined(tmp_path / "both.ts", a, b)
    assert read(path) == (
        25,
        0,
        f"{path}: damaged; 25 pictures could be decoded; its video goes on in track 1, which was left out",
    )
    assert read(path, track=1) == (25, 0, None)


@pytest.mark.parametrize("sound", [None, "libopus"])
def test_a_chained_ogg_is_whole(tmp_path: Path, sound: str | None) -> None:
    link = draw(tmp_path / "link.ogv", 25, codec="libvpx", sound=sound, form="ogg")
    assert read(joined(tmp_path / "chain.ogv", link, link)) == (50, 0, None)


@pytest.mark.parametrize("cuts", ["between", "in the head", "in the data"])
@pytest.mark.parametrize("sound", [None, "aac"])
def test_a_fragmented_mp4_is_read_up_to_where_it_was_cut(
    tmp_path: Path, cuts: str, sound: str | None
) -> None:
    path = draw(tmp_path / "f.mp4", 40, sound=sound, mux={"movflags": "frag_keyframe+empty_moov"})
    data = path.read_bytes()
    head = [at - 4 for at in range(len(data)) if data[at : at + 4] == b"moof"][-2]
    length = int.from_bytes(data[head : head + 4], "big")
    end = {"between": head, "in the head": head + length // 3, "in the data": head + length + 40}[cuts]
    path.write_bytes(data[:end])
    count, _, line = read(path)
    assert 20 <= count < 40
    assert (line is None) == (cuts == "between")  # where nothing says that there was more


def empty_in_mov(path: Path) -> None:
    """Let two samples have no bytes, theirs going to the ones before."""
    data = bytearray(path.read_bytes())
    at = data.find(b"stsz") + 12
    (count,) = struct.unpack(">I", data[at : at + 4])
    sizes = list(struct.unpack(f">{count}I", data[at + 4 : at + 4 + 4 * count]))
    for k in (5, 12):
        sizes[k - 1], sizes[k] = sizes[k - 1] + sizes[k], 0
    data[at + 4 : at + 4 + 4 * count] = struct.pack(f">{count}I", *sizes)
    path.write_bytes(data)


def with_empty(path: Path, form: str) -> None:
    """Copy a file, with an empty packet behind the fifth."""
    copy = path.with_name("copy" + path.suffix)
    with av.open(str(path)) as given, av.open(str(copy), "w", format=form) as out:
        video = given.streams.video[0]
        stream = out.add_stream_from_template(video)
        for i, packet in enumerate(p for p in given.demux(video) if p.size):
            if i == 5:
                empty: Any = av.Packet(b"")
                empty.stream, empty.time_base = stream, packet.time_base
                empty.pts = empty.dts = (packet.dts or 0) - 1
                out.mux_one(empty)
            packet.stream = stream
            out.mux_one(packet)
    copy.replace(path)


@pytest.mark.parametrize(
    ("name", "make", "count"),
    [
        ("dup.mov", empty_in_mov, 48),
        ("dup.nut", lambda path: with_empty(path, "nut"), 50),
        ("dup.mkv", lambda path: with_empty(path, "matroska"), 50),
    ],
)
def test_a_packet_without_bytes_is_no_damage(
    tmp_path: Path, name: str, make: Callable[[Path], None], count: int
) -> None:
    codec, pix_fmt = ("mjpeg", "yuvj420p") if name == "dup.mov" else ("mpeg4", "yuv420p")
    path = draw(tmp_path / name, codec=codec, pix_fmt=pix_fmt)
    make(path)
    assert read(path) == (count, 0, None)
