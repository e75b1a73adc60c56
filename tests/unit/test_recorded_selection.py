"""Which pictures are taken: those that choosing from all decoded ones by their time stamps takes."""

from __future__ import annotations

import threading
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import pytest

from streamseg.recorded import ProcessConfig
from streamseg.recorded.inputs import Input
from streamseg.recorded.opening import goes_to, open_input
from streamseg.recorded.selection import Account, picks
from tests.media import picture, write_video

FRAMES = 60
PICTURES = [picture((48, 64), (i + 1) / FRAMES) for i in range(FRAMES)]
TS = {"time_base": Fraction(1, 90000), "pts": [9000 + 3600 * i for i in range(FRAMES)]}
B_FRAMES = {"bf": "2", "g": "15", "x264-params": "b-adapt=0:scenecut=0"}


def take(path: Path, **settings: Any) -> tuple[list[int | None], Account]:
    config, account = ProcessConfig(**settings), Account()
    with open_input(Input(str(path), "s"), config) as source:
        return [pick.picture.image.pts for pick in picks(source, config, account)], account


CLIPS: dict[str, dict[str, Any]] = {
    "b.mp4": {"options": B_FRAMES},
    "b.mkv": {"options": B_FRAMES},
    "open-gop.mkv": {"options": {"bf": "2", "g": "15", "x264-params": "open-gop=1:scenecut=0"}},
    "b.ts": {"options": B_FRAMES, **TS},
    "b.mpg": {"codec": "mpeg2video", "options": {"bf": "2", "g": "15"}},
    "b.vob": {"codec": "mpeg2video", "options": {"bf": "2", "g": "15"}, "container_format": "vob"},
    "b.m2ts": {"options": B_FRAMES, **TS, "container_format": "mpegts"},
    "b.avi": {"options": B_FRAMES},
    "b.flv": {"options": B_FRAMES},
    "bare.h264": {"options": B_FRAMES, "container_format": "h264"},
    "live.mkv": {"options": B_FRAMES, "container_options": {"live": "1"}},
}  # fmt: skip


@pytest.mark.parametrize("name", CLIPS)
def test_start_and_end_take_what_choosing_from_all_takes(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    write_video(path, PICTURES, **CLIPS[name])
    with open_input(Input(str(path), "s"), ProcessConfig()) as source:
        every = [(p.picture.image.pts, p.picture.time_s) for p in picks(source, ProcessConfig(), Account())]
    assert len(every) == FRAMES
    begin = every[0][1]
    for start, end in ((1, None), (Fraction(12, 10), Fraction(17, 10)), (Fraction(5, 100), Fraction(9, 10))):
        start_s, end_s = round(float(begin + start), 3), end and round(float(begin + end), 3)
        wanted = [
            pts
            for pts, time_s in every
            if time_s >= Fraction(repr(start_s)) and (end_s is None or time_s < Fraction(repr(end_s)))
        ]
        assert wanted
        assert take(path, start_s=start_s, end_s=end_s)[0] == wanted, (start_s, end_s)


def test_a_seek_is_believed_only_by_its_first_picture(tmp_path: Path) -> None:
    sought = {}
    for name in CLIPS:
        path = tmp_path / name
        write_video(path, PICTURES, **CLIPS[name])
        with open_input(Input(str(path), "s"), ProcessConfig()) as source:
            sought[name] = goes_to(source, 1.5, threading.Event())
            if sought[name]:
                assert source.pending[0].time_s <= 1.5
                assert source.pending[0].image.key_frame
    assert sought["b.mp4"]
    assert sought["b.mkv"]
    assert not any(sought[name] for name in ("b.ts", "b.mpg", "b.vob", "b.m2ts", "b.avi", "bare.h264"))


def wrapped(path: Path, before_s: float) -> Path:
    """Let the 33-bit clock of a transport stream of ours wrap so long after its beginning."""
    data = bytearray(path.read_bytes())
    shift = 2**33 - round(90000 * before_s)
    for begin in range(0, len(data), 188):
        at = begin + 4
        if data[begin + 3] & 0x20:
            if data[at] and data[at + 1] & 0x10:
                clock = int.from_bytes(data[at + 2 : at + 8], "big")
                base = ((clock >> 15) + shift) % 2**33
                data[at + 2 : at + 8] = (base << 15 | clock & 0x7FFF).to_bytes(6, "big")
            at += 1 + data[at]
        if data[begin + 1] & 0x40 and data[at : at + 4] == b"\0\0\1\xe0":
            for stamp in range(at + 9, at + 9 + {2: 5, 3: 10}.get(data[at + 7] >> 6, 0), 5):
                b = data[stamp : stamp + 5]
                old = (b[0] >> 1 & 7) << 30 | b[1] << 22 | b[2] >> 1 << 15 | b[3] << 7 | b[4] >> 1
                new = (old + shift) % 2**33
                data[stamp : stamp + 5] = bytes(
                    [b[0] & 0xF1 | new >> 30 << 1, new >> 22 & 255, new >> 14 & 254 | 1,
                     new >> 7 & 255, new << 1 & 254 | 1]
                )  # fmt: skip
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("before_s", [0.5, 1.0, 2.0])
def test_pictures_before_a_clock_wraps_are_taken(tmp_path: Path, before_s: float) -> None:
    path = tmp_path / "wrap.ts"
    write_video(path, PICTURES, options={"g": "10"}, **TS)  # type: ignore[arg-type]
    stamps, account = take(wrapped(path, before_s))
    assert (len(stamps), account.decoded, account.line) == (FRAMES, FRAMES, None)
    assert stamps[0] is not None
    assert stamps[0] < 0


def test_a_lower_rate_goes_on_where_time_stamps_begin_again(tmp_path: Path) -> None:
    half, path = tmp_path / "half.ts", tmp_path / "twice.ts"
    write_video(half, PICTURES, options={"bf": "0", "g": "15"}, **TS)  # type: ignore[arg-type]
    path.write_bytes(half.read_bytes() * 2)
    assert len(take(path, max_fps=5)[0]) == 2 * len(take(half, max_fps=5)[0]) == 24


@pytest.mark.parametrize("track", [0, 1])
@pytest.mark.parametrize("suffix", ["ts", "mkv", "mp4"])
def test_each_track_is_taken_whole(tmp_path: Path, suffix: str, track: int) -> None:
    path = tmp_path / f"two.{suffix}"
    with av.open(str(path), "w") as out:
        streams = []
        for _ in range(2):
            video = out.add_stream("libx264", rate=25, options={"g": "20"})
            video.height, video.width, video.pix_fmt = 48, 64, "yuv420p"
            video.time_base = video.codec_context.time_base = Fraction(1, 25)
            streams.append(video)
        for i, rgb in enumerate(PICTURES):
            for video in streams:
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame.pts, frame.time_base = i, Fraction(1, 25)
                out.mux(video.encode(frame))
        for video in streams:
            out.mux(video.encode())
    stamps, account = take(path, track=track)
    assert (len(stamps), account.line) == (FRAMES, None)


def test_avi_with_b_frames_has_the_time_stamps_of_its_packets_in_order(tmp_path: Path) -> None:
    path = tmp_path / "b.avi"
    write_video(path, PICTURES, options={"bf": "3", "g": "25", "x264-params": "b-adapt=0"})
    stamps, _ = take(path)
    assert stamps == list(range(stamps[0] or 0, (stamps[0] or 0) + FRAMES))


def test_damage_before_the_end_that_was_asked_for_is_told(tmp_path: Path) -> None:
    path = tmp_path / "scratched.mkv"
    write_video(path, PICTURES, codec="mpeg4", options={"g": "10"})
    data = bytearray(path.read_bytes())
    data[len(data) // 4 : len(data) // 4 + 200] = bytes(200)
    path.write_bytes(data)
    _, account = take(path, end_s=1.2)
    assert account.decoded < FRAMES
    assert account.line is not None
