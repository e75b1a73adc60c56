"""Small recordings at random: container, codec, time stamps, tracks, sound, damage; what ffprobe reads."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

H264, H264_B = ("libx264", {"bf": "0"}), ("libx264", {"bf": "2", "x264-params": "b-adapt=0"})
MPEG4, MPEG4_B = ("mpeg4", {"bf": "0"}), ("mpeg4", {"bf": "2"})
MPEG2, MPEG2_B = ("mpeg2video", {"bf": "0"}), ("mpeg2video", {"bf": "2"})
MJPEG, VP8, FFV1 = ("mjpeg", {}), ("libvpx", {"deadline": "realtime", "cpu-used": "8"}), ("ffv1", {})
VP9 = ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8"})

Codec = tuple[str, dict[str, str]]

CONTAINERS: dict[str, tuple[str, list[Codec], list[str]]] = {  # suffix: (format, codecs, sounds)
    "mp4": ("mp4", [H264, H264_B, MPEG4, MPEG4_B, VP9], ["aac"]),
    "fast.mp4": ("mp4", [H264, H264_B, MPEG4], ["aac"]),
    "fragmented.mp4": ("mp4", [H264, H264_B, MPEG4_B], ["aac"]),
    "mov": ("mov", [H264_B, MJPEG, MPEG4], ["pcm_s16le", "aac"]),
    "mkv": (
        "matroska",
        [H264, H264_B, MPEG4_B, VP8, FFV1, MJPEG],
        ["aac", "libopus", "pcm_s16le"],
    ),
    "webm": ("webm", [VP8, VP9], ["libopus"]),
    "ts": ("mpegts", [H264, H264_B, MPEG2, MPEG2_B, MPEG4], ["mp2", "aac"]),
    "mpg": ("mpeg", [MPEG2, MPEG2_B], ["mp2"]),
    "vob": ("vob", [MPEG2, MPEG2_B], ["mp2", "ac3"]),
    "avi": ("avi", [MPEG4, MJPEG, H264, H264_B, FFV1], ["mp2", "pcm_s16le"]),
    "flv": ("flv", [H264, H264_B, ("flv", {})], ["aac"]),
    "nut": ("nut", [H264_B, MPEG4, FFV1], ["mp2", "pcm_s16le"]),
    "ogv": ("ogg", [VP8], ["libopus"]),
    "wmv": ("asf", [("wmv2", {}), MPEG4, MPEG4_B, H264, H264_B], ["mp2"]),
    "mxf": ("mxf", [MPEG2], []),
    "ivf": ("ivf", [VP8, VP9], []),
    "gif": ("gif", [("gif", {})], []),
    "h264": ("h264", [H264, H264_B], []),
    "m2v": ("mpeg2video", [MPEG2, MPEG2_B], []),
    "mjpeg": ("mjpeg", [MJPEG], []),
}
PIXELS = {"mjpeg": "yuvj420p", "gif": "rgb8"}
TWO_TRACKS = ("mp4", "mov", "mkv", "ts", "nut")
UNTIMED = ("gif", "h264", "m2v", "mjpeg", "mxf", "ivf", "avi")  # their muxers want a constant rate
SHOWS_CUTS = (
    "fast.mp4",
    "mkv",
    "webm",
    "avi",
    "flv",
    "ogv",
    "wmv",
    "gif",
)  # a cut takes something away that is promised

BARE = ("h264", "m2v", "mjpeg")  # without time stamps: FFmpeg counts, each version in its own way
ANYWHERE = (*BARE, "ts", "mpg", "vob")  # can be read without their beginning

DAMAGES = ("cut", "zeroed", "dropped", "doubled", "headless")


@dataclass(frozen=True)
class Made:
    """A recording and how it was made."""

    path: Path
    track: int | None
    pictures: int  # that were encoded into that track
    damage: str
    kind: str
    how: dict[str, Any] = field(default_factory=dict)


def make(seed: int, folder: Path) -> Made:
    """The recording of this number."""
    rng = random.Random(seed)
    kind = rng.choice(list(CONTAINERS))
    form, codecs, sounds = CONTAINERS[kind]
    codec = rng.choice(codecs)
    frames = rng.randint(2, 40)
    tracks = 2 if kind in TWO_TRACKS and rng.random() < 0.25 else 1
    sound = rng.choice(sounds) if sounds and rng.random() < 0.5 else None
    damage = rng.choice(DAMAGES) if rng.random() < 0.5 else "none"
    steps = (
        "steady"
        if kind in UNTIMED or codec[0] == "mpeg2video"
        else rng.choice(["steady", "steady", "jitter", "late", "long end"])
    )
    if damage == "headless" and kind not in ANYWHERE:
        damage = "zeroed"
    how: dict[str, Any] = {"codec": codec, "sound": sound, "tracks": tracks, "steps": steps, "frames": frames}
    how["gop"], how["first"] = rng.choice([1, 4, 12, 50]), rng.choice([0, 0, 7, 40])
    path = folder / f"{seed}.{kind}"
    _write(path, form, kind, rng, how, damage)
    if damage in ("cut", "zeroed", "headless"):
        _hurt(path, damage, rng, how)
    track = None if tracks == 1 else rng.randrange(2)
    return Made(path, track, frames, damage, kind, how)


def _write(path: Path, form: str, kind: str, rng: random.Random, how: dict[str, Any], damage: str) -> None:
    name, options = how["codec"]
    size = (48, 64)
    fps = 25
    options = {**options, "g": str(how["gop"]), "preset": "ultrafast"} if name == "libx264" else {
        **options, "g": str(how["gop"])}  # fmt: skip
    more = {"fast.mp4": {"movflags": "faststart"},
            "fragmented.mp4": {"movflags": "frag_keyframe+empty_moov"}}.get(kind, {})  # fmt: skip
    stamps = _stamps(rng, how)
    with av.open(str(path), "w", format=form, options=more) as out:
        videos = []
        for _ in range(how["tracks"]):
            video = out.add_stream(name, rate=fps, options=dict(options))
            video.height, video.width, video.pix_fmt = *size, PIXELS.get(name, "yuv420p")
            video.codec_context.thread_count = 1
            base = Fraction(1, fps) if how["steps"] == "steady" else Fraction(1, 1000)
            video.time_base = video.codec_context.time_base = base
            videos.append(video)
        heard = _Sound(out, how["sound"], kind) if how["sound"] else None
        dropped = {rng.randrange(1, how["frames"] + 1) for _ in range(2)} if damage == "dropped" else set()
        doubled = {rng.randrange(how["frames"]) for _ in range(2)} if damage == "doubled" else set()
        for track, video in enumerate(videos):
            video_packets = _encoded(video, stamps, track, rng)
            for i, packet in enumerate(video_packets):
                if i in dropped:
                    continue
                copy = bytes(packet) if i in doubled else None
                if heard is not None and track == 0:
                    heard.up_to(i / fps)
                again = (packet.pts, packet.dts, packet.time_base)
                out.mux(packet)
                if copy is not None:
                    twin: av.Packet[Any] = av.Packet(copy)
                    twin.stream = video
                    twin.pts, twin.dts, twin.time_base = again
                    _tried(out, twin)
        if heard is not None:
            heard.up_to(how["frames"] / fps)
            heard.end()


def _tried(out: Any, packet: av.Packet[Any]) -> None:
    """Mux a packet that not every container takes: a time stamp that comes twice."""
    with contextlib.suppress(av.error.FFmpegError, ValueError):
        out.mux_one(packet)


def _encoded(video: Any, stamps: list[tuple[int, Fraction]], track: int, rng: random.Random) -> list[Any]:
    noise = np.random.default_rng(rng.randrange(1 << 30))
    packets: list[Any] = []
    for i, (pts, base) in enumerate(stamps):
        rgb = np.full((48, 64, 3), 60 + 100 * track, np.uint8)
        rgb[:, : (i + 1) * 64 // len(stamps)] = (255, 0, 0)
        rgb[8:24, 8:40] = noise.integers(0, 255, (16, 32, 3), np.uint8)
        frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
        frame.pts, frame.time_base = pts, base
        packets += video.encode(frame)
    return packets + video.encode()


def _stamps(rng: random.Random, how: dict[str, Any]) -> list[tuple[int, Fraction]]:
    if how["steps"] == "steady":
        return [(how["first"] + i, Fraction(1, 25)) for i in range(how["frames"])]
    at, found = 1000 * how["first"] // 25, []
    for i in range(how["frames"]):
        found.append((at, Fraction(1, 1000)))
        at += rng.randint(5, 90) if how["steps"] == "jitter" else 40
        if how["steps"] == "long end" and i == how["frames"] - 2:
            at += 3000
        if how["steps"] == "late" and i == 0:
            at += 500
    return found


class _Sound:
    def __init__(self, out: Any, codec: str, kind: str) -> None:
        self.out, self.stream = out, out.add_stream(codec, rate=48000)
        self.stream.layout = "mono"
        self.samples, self.at = 1152 if codec == "mp2" else 1024, 0
        self.form = "s16" if codec in ("mp2", "pcm_s16le") else "flt" if codec == "libopus" else "fltp"

    def up_to(self, seconds: float) -> None:
        while self.at < seconds * 48000:
            quiet = np.zeros((1, self.samples), np.int16 if self.form == "s16" else np.float32)
            frame = av.AudioFrame.from_ndarray(quiet, format=self.form, layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 48000, self.at, Fraction(1, 48000)
            self.out.mux(self.stream.encode(frame))
            self.at += self.samples

    def end(self) -> None:
        self.out.mux(self.stream.encode())


def _hurt(path: Path, damage: str, rng: random.Random, how: dict[str, Any]) -> None:
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[int(len(data) * rng.uniform(0.3, 0.98)) :]
    elif damage == "headless":
        del data[: int(len(data) * rng.uniform(0.05, 0.3))]
    else:
        # Not in the tables of MP4, which each version of FFmpeg mends in its own way.
        begin, end = max(0, data.find(b"mdat")), len(data)
        if data.rfind(b"moov") > begin:
            end = data.rfind(b"moov") - 4
        at = begin + int((end - begin) * rng.uniform(0.2, 0.9))
        length = min(rng.randint(1, 2000), end - at)
        data[at : at + length] = bytes(length)
    path.write_bytes(data)


def ffprobe() -> str:
    """FFmpeg's own reader; a test that wants it is skipped where it is not installed, but not in CI."""
    found = shutil.which("ffprobe")
    if found is None and not os.environ.get("STREAMSEG_FFPROBE"):
        pytest.skip("ffprobe is not installed")
    assert found is not None, "CI installs ffmpeg"
    return found


def probed(made: Made) -> list[int | None]:
    """The best_effort_timestamp of each frame that ffprobe decodes; None where it has none, or guesses one.

    In MPEG-PS an older FFmpeg has fewer PTS than that of PyAV, and guesses them from DTS.
    """
    ran = subprocess.run(
        [ffprobe(), "-v", "quiet", "-threads", "1", "-select_streams", f"v:{made.track or 0}",
         "-show_entries", "frame=pts,best_effort_timestamp", "-of", "compact=p=0", str(made.path)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    frames = [
        dict(re.findall(r"(pts|best_effort_timestamp)=([^|\n]+)", line))
        for line in ran.stdout.splitlines()
        if "pts=" in line
    ]
    guessed = made.kind in ("mpg", "vob")
    words = [frame["pts" if guessed else "best_effort_timestamp"] for frame in frames]
    return [None if word == "N/A" else int(word) for word in words]
