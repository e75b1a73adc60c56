"""Every picture of a container becomes one frame: upright, in true colours, with its own time stamp."""

from __future__ import annotations

import gc
import struct
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from av.sidedata.sidedata import Type as SideDataType
from av.video.frame import VideoFrame

from streamseg.config import StreamConfig
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.types import Frame
from tests.media import corners, draw_clip, write_video


def all_frames(path: Path) -> list[Frame]:
    with open_source(StreamConfig(source=str(path)), "clip") as source:
        return list(decode(source, "clip", epoch=3))


def container_stamps(path: Path) -> list[tuple[int | None, Fraction | None]]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        return sorted((packet.pts, packet.time_base) for packet in container.demux(stream) if packet.size)


def ramp(count: int, size: tuple[int, int] = (48, 64)) -> list[np.ndarray]:
    return [np.full((*size, 3), 5 * i % 256, np.uint8) for i in range(count)]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv", "clip.ts", "clip.avi"])
def test_every_frame_comes_once_with_the_containers_pts(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    codec = "mpeg4" if name.endswith("avi") else "libx264"  # AVI carries no PTS for H.264's B frames
    write_video(path, ramp(23), codec=codec, options={"bf": "0"} if codec == "mpeg4" else {"bf": "2"})
    frames = all_frames(path)
    assert [(f.pts, f.time_base) for f in frames] == container_stamps(path)
    assert [f.seq for f in frames] == list(range(23))
    assert {f.epoch for f in frames} == {3}
    levels = [int(f.rgb.mean()) for f in frames]
    assert np.abs(np.array(levels) - [5 * i for i in range(23)]).max() <= 3


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_the_shortest_clips_lose_nothing(tmp_path: Path, count: int) -> None:
    """All of their pictures leave the decoder in one go, at the end."""
    path = tmp_path / "short.mp4"
    write_video(path, ramp(count), options={"bf": "2"})
    assert [(f.pts, f.time_base) for f in all_frames(path)] == container_stamps(path)


def test_variable_frame_rate_stays_variable(tmp_path: Path) -> None:
    path = tmp_path / "vfr.mkv"
    pts = [0, 40, 41, 200, 1000, 1033, 5000]
    write_video(path, ramp(len(pts)), time_base=Fraction(1, 1000), pts=pts)
    frames = all_frames(path)
    assert [f.pts for f in frames] == pts
    assert frames[0].time_base == Fraction(1, 1000)
    assert frames[4].pts_ns == 1_000_000_000


@pytest.mark.parametrize("size", [(48, 64), (47, 63), (10, 6)])
@pytest.mark.parametrize(
    "pix_fmt",
    ["yuv420p", "yuv422p", "yuv444p", "yuv410p", "yuv420p10le", "gray", "gray16le", "bgra", "gbrp10le"],
)
def test_any_pixel_format_and_size_comes_out_as_rgb(
    tmp_path: Path, pix_fmt: str, size: tuple[int, int]
) -> None:
    path = tmp_path / "clip.mkv"
    codec = "rawvideo" if pix_fmt == "yuv410p" else "ffv1"  # FFV1 loses chroma of yuv410p of odd widths
    write_video(path, [np.full((*size, 3), 90, np.uint8)] * 2, codec=codec, pix_fmt=pix_fmt)
    for frame in all_frames(path):
        assert frame.rgb.shape == (*size, 3)
        assert frame.rgb.flags.c_contiguous
        assert np.abs(frame.rgb.astype(int) - 90).max() <= 4


QUARTERS = {"red": (220, 30, 30), "green": (30, 220, 30), "blue": (30, 30, 220), "white": (230, 230, 230)}


def quarters(rgb: np.ndarray) -> list[str]:
    """The names of the quarters' colours: top left, top right, bottom left, bottom right."""
    h, w = rgb.shape[:2]
    spots = [rgb[y, x].astype(int) for y in (h // 4, 3 * h // 4) for x in (w // 4, 3 * w // 4)]
    return [min(QUARTERS, key=lambda name: int(np.abs(spot - QUARTERS[name]).sum())) for spot in spots]


@pytest.mark.parametrize(
    ("rotation", "mirrored", "expected"),
    [
        (0, False, ["red", "green", "blue", "white"]),
        (90, False, ["green", "white", "red", "blue"]),
        (180, False, ["white", "blue", "green", "red"]),
        (-90, False, ["blue", "red", "white", "green"]),
        (0, True, ["green", "red", "white", "blue"]),
        (180, True, ["blue", "white", "red", "green"]),
    ],
)
def test_rotation_metadata_turns_the_picture(
    tmp_path: Path, rotation: float, mirrored: bool, expected: list[str]
) -> None:
    path = tmp_path / "turned.mp4"
    write_video(path, [corners((48, 64))] * 3, rotation=rotation, mirrored=mirrored)
    with open_source(StreamConfig(source=str(path)), "clip") as source:
        frames = list(decode(source, "clip"))
        assert source.size == frames[0].size == ((64, 48) if rotation % 180 else (48, 64))
    assert quarters(frames[0].rgb) == expected
    assert frames[0].rgb.flags.c_contiguous


MATRICES = {"bt709": (1, 0.2126, 0.0722), "bt601": (6, 0.299, 0.114), "bt2020": (9, 0.2627, 0.0593)}


def exact_rgb(yuv: tuple[int, int, int], kr: float, kb: float, full: bool) -> list[int]:
    """ITU-T H.273, equations for 8-bit Y'CbCr."""
    y, cb, cr = yuv[0], yuv[1] - 128.0, yuv[2] - 128.0
    if not full:
        y, cb, cr = (y - 16) * 255 / 219, cb * 255 / 224, cr * 255 / 224
    r, b = y + 2 * (1 - kr) * cr, y + 2 * (1 - kb) * cb
    g = (y - kr * r - kb * b) / (1 - kr - kb)
    return [min(255, max(0, round(v))) for v in (r, g, b)]


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize(
    "yuv", [(81, 90, 200), (150, 60, 80), (200, 140, 120), (16, 128, 128), (235, 128, 128)]
)
def test_colours_follow_the_matrix_and_range_that_are_said(
    tmp_path: Path, matrix: str, full: bool, yuv: tuple[int, int, int]
) -> None:
    code, kr, kb = MATRICES[matrix]
    path = tmp_path / "colour.mkv"
    planes = np.concatenate([np.full(32 * 32, yuv[0]), np.full(256, yuv[1]), np.full(256, yuv[2])])
    frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8).reshape(48, 32), format="yuv420p")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width = stream.height = 32
        stream.pix_fmt = "yuv420p"
        for thing in (frame, stream.codec_context):
            thing.colorspace, thing.color_range = code, 2 if full else 1
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    (decoded,) = all_frames(path)
    want = exact_rgb(yuv, kr, kb, full)
    assert np.abs(decoded.rgb[16, 16].astype(int) - want).max() <= 3, (decoded.rgb[16, 16], want)


def test_an_unsaid_matrix_is_bt601_for_small_pictures_and_bt709_for_large(tmp_path: Path) -> None:
    for size, (kr, kb) in (((480, 640), MATRICES["bt601"][1:]), ((720, 1280), MATRICES["bt709"][1:])):
        h, w = size
        yuv = (110, 90, 190)
        planes = np.concatenate(
            [np.full(h * w, yuv[0]), np.full(h * w // 4, yuv[1]), np.full(h * w // 4, yuv[2])]
        )
        frame = av.VideoFrame.from_ndarray(planes.astype(np.uint8).reshape(h * 3 // 2, w), format="yuv420p")
        path = tmp_path / f"{h}.mkv"
        with av.open(str(path), "w") as container:
            stream = container.add_stream("ffv1", rate=25)
            stream.width, stream.height, stream.pix_fmt = w, h, "yuv420p"
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        (decoded,) = all_frames(path)
        assert np.abs(decoded.rgb[5, 5].astype(int) - exact_rgb(yuv, kr, kb, False)).max() <= 3


def test_the_fast_path_is_the_exact_conversion_within_one_level() -> None:
    from streamseg.sources.picture import RgbConverter

    rng = np.random.default_rng(0)
    y, cb, cr = (rng.integers(lo, hi, 64 * 64, np.uint8) for lo, hi in ((16, 236), (60, 196), (60, 196)))
    planes = np.concatenate([y, cb[:1024], cr[:1024]]).reshape(96, 64)
    frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    rgb = RgbConverter()(frame).astype(int)
    chroma = [c[:1024].reshape(32, 32).repeat(2, 0).repeat(2, 1) for c in (cb, cr)]
    luma = y.reshape(64, 64)
    for row, column in rng.integers(0, 64, (200, 2)):
        yuv = (int(luma[row, column]), int(chroma[0][row, column]), int(chroma[1][row, column]))
        assert np.abs(rgb[row, column] - exact_rgb(yuv, 0.299, 0.114, False)).max() <= 1


def test_a_picture_that_changes_its_size_midway_is_taken_as_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "sizes.ts"
    parts = []
    for size in ((48, 64), (96, 128)):
        part = tmp_path / f"{size[0]}.ts"
        write_video(part, ramp(6, size))
        parts.append(part.read_bytes())
    path.write_bytes(b"".join(parts))
    assert {f.size for f in all_frames(path)} == {(48, 64), (96, 128)}


CLIPS = {"camvid_0016E5_15hz.mp4": 101, "car-detection.mp4": 377, "one-by-one-person-detection.mp4": 1394}


@pytest.mark.parametrize("name", CLIPS)
def test_every_frame_of_the_real_clips_comes_with_its_pts(shared_data: Path, name: str) -> None:
    path = shared_data / "video" / name
    with open_source(StreamConfig(source=str(path)), "clip") as source:
        stamps = [(f.pts, f.time_base) for f in decode(source, "clip")]
        assert (source.corrupt, source.damage) == (0, None)
    assert len(stamps) == CLIPS[name]
    assert stamps == container_stamps(path)


def test_decoded_pictures_are_freed_at_once_not_when_cycles_are_collected(tmp_path: Path) -> None:
    clip = draw_clip(tmp_path / "clip.mp4", frames=20)
    gc.collect()
    gc.disable()
    before = pictures()
    try:
        with open_source(StreamConfig(source=str(clip)), "gate") as source:
            count = sum(1 for _ in decode(source, "gate"))
        alive = pictures() - before
    finally:
        gc.enable()
    assert count == 20
    assert alive <= 2  # the first one, whose orientation was looked at, twice


def pictures() -> int:
    return sum(type(one) is VideoFrame for one in gc.get_objects())


def exif(orientation: int) -> bytes:
    """A TIFF header with the orientation alone."""
    return b"II*\0\x08\0\0\0" + struct.pack("<HHHIII", 1, 0x0112, 3, 1, orientation, 0)


def jpeg_with_exif(jpeg: bytes, orientation: int) -> bytes:
    body = b"Exif\0\0" + exif(orientation)
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + jpeg[2:]


def png_with_exif(png: bytes, orientation: int) -> bytes:
    chunk, at = b"eXIf" + exif(orientation), png.find(b"IDAT") - 4
    return (
        png[:at] + struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) + png[at:]
    )


TURNED = {  # corners that orientation brings to the upper left, going on clockwise
    1: lambda rgb: rgb,
    2: lambda rgb: rgb[:, ::-1],
    3: lambda rgb: rgb[::-1, ::-1],
    4: lambda rgb: rgb[::-1],
    6: lambda rgb: np.rot90(rgb, -1),
    8: lambda rgb: np.rot90(rgb),
}


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["jpg", "png", "mjpeg"])
def test_exif_turns_the_picture_and_stops_nothing(tmp_path: Path, kind: str, orientation: int) -> None:
    rgb = corners((64, 96))
    if kind == "png":
        made = png_with_exif(cv2.imencode(".png", rgb[..., ::-1])[1].tobytes(), orientation)
    else:
        made = jpeg_with_exif(cv2.imencode(".jpg", rgb[..., ::-1])[1].tobytes(), orientation)
    path = tmp_path / f"camera.{kind}"
    path.write_bytes(made * 3 if kind == "mjpeg" else made)
    frames = all_frames(path)
    assert len(frames) == (3 if kind == "mjpeg" else 1)
    for frame in frames:
        wanted = TURNED[orientation](rgb)
        assert frame.rgb.shape == wanted.shape
        assert np.abs(frame.rgb.astype(int) - wanted).mean() < 6


def test_side_data_of_any_number_has_a_name() -> None:
    assert SideDataType(4711).name == "UNKNOWN_4711"
