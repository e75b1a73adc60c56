"""A decoded picture gives RGB and luma of any size, in FFmpeg's colours, whatever its planes are like."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame

from streamseg.config import EngineConfig, StreamConfig
from streamseg.evaluation.engines import picture_frame
from streamseg.inference.infer import infer, input_size
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.sources.picture import HostPicture, RgbConverter, apply_turn
from streamseg.sources.surface import UPRIGHT, Turn
from streamseg.types import U8, Frame, Size
from streamseg.types.picture import grey, scale_picture
from tests.media import corners, write_video
from tools.demo import draw_scene

CELL = 32
MATRICES = {"bt709": 1, "smpte170m": 6, "bt2020nc": 9}
WEIGHTS = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt2020nc": (0.2627, 0.0593)}
EVERY_FORMAT = [
    *("yuv420p", "yuv422p", "yuv444p", "yuv440p", "yuv411p", "yuv410p", "yuva420p", "nv12", "nv16", "nv24"),
    *(
        "yuv420p10le",
        "yuv422p10le",
        "yuv444p10le",
        "yuv420p12le",
        "yuv444p16le",
        "p010le",
        "p210le",
        "p016le",
    ),
    *("gray", "gray10le", "gray16le", "gbrp", "gbrp10le", "rgb24", "bgr24", "rgba", "bgra", "rgb0", "bgr0"),
    *("yuyv422", "uyvy422", "yuv420p10be", "argb", "rgb565le", "pal8", "monob", "ya8", "p016le", "y210le"),
]


def mosaic(rows: int = 4, columns: int = 6) -> U8:
    """Cells of colours that every matrix can carry."""
    cells = np.random.default_rng(7).integers(50, 206, (rows, columns, 3), np.uint8)
    return cells.repeat(CELL, 0).repeat(CELL, 1)


def by_ffmpeg(image: VideoFrame, to: str, matrix: str, full: bool, into: bool = False) -> VideoFrame:
    """Converted by FFmpeg's scale filter with its most exact arithmetic."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        template=None, width=image.width, height=image.height, format=image.format, time_base=1
    )
    side = "out" if into else "in"
    options = f"{side}_color_matrix={matrix}:{side}_range={'full' if full else 'limited'}"
    scale = graph.add("scale", f"flags=bilinear+accurate_rnd+full_chroma_int+full_chroma_inp:{options}")
    graph.link_nodes(source, scale, graph.add("format", to), graph.add("buffersink")).configure()
    graph.push(image)
    made = graph.pull()
    assert isinstance(made, VideoFrame)
    return made


def said(image: VideoFrame, matrix: str, full: bool) -> VideoFrame:
    image.colorspace, image.color_range = MATRICES[matrix], 2 if full else 1  # type: ignore[assignment]
    return image


def picture(image: VideoFrame, turn: Turn = UPRIGHT) -> HostPicture:
    return HostPicture(image, turn, RgbConverter())


def middles(rgb: np.ndarray, cell: int) -> np.ndarray:
    """A pixel in the middle of each cell."""
    return rgb[cell // 2 :: cell, cell // 2 :: cell].astype(int)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("pix_fmt", EVERY_FORMAT)
def test_colours_are_ffmpegs_within_two_levels(pix_fmt: str, matrix: str, full: bool) -> None:
    rgb = VideoFrame.from_ndarray(mosaic(), format="rgb24")
    try:
        image = by_ffmpeg(rgb, pix_fmt, matrix, full, into=True)
    except (av.FFmpegError, ValueError) as error:
        pytest.skip(f"FFmpeg does not make {pix_fmt}: {error}")
    said(image, matrix, full)
    yuv = not (image.format.is_rgb or pix_fmt.startswith(("gray", "ya", "pal", "mono")))
    want = by_ffmpeg(image, "rgb24", matrix, full if yuv else True).to_ndarray()
    size = (want.shape[0] // 4, want.shape[1] // 4)
    made = picture(image)
    got = made.scaled(size)
    assert got.flags.c_contiguous
    difference = np.abs(middles(got, CELL // 4) - middles(scale_picture(want, size), CELL // 4))
    assert difference.max() <= 2, (pix_fmt, difference.max())
    full_size = np.abs(middles(made.rgb(), CELL) - middles(want, CELL))
    assert full_size.max() <= 2, (pix_fmt, "whole", full_size.max())
    luma = grey(want)
    if yuv and pix_fmt not in ("yuv420p10be", "y210le"):  # those become RGB first
        red, blue = WEIGHTS[matrix]
        luma = (want @ np.array([red, 1 - red - blue, blue]) + 0.5).astype(np.uint8)
    got = made.luma(size)
    assert got.shape == size
    assert np.abs(middles(got, CELL // 4) - middles(scale_picture(luma, size), CELL // 4)).max() <= 2


ENCODES = [
    ("libx264", "yuv420p"),
    ("libx264", "yuv422p"),
    ("libx264", "yuv444p"),
    ("libx264", "yuv420p10le"),
    ("libx264", "yuv422p10le"),
    ("mjpeg", "yuvj420p"),
    ("mjpeg", "yuvj422p"),
    ("libx265", "yuv420p10le"),
    ("ffv1", "yuv420p12le"),
    ("ffv1", "gray"),
    ("rawvideo", "bgr24"),
    ("rawvideo", "yuyv422"),
    ("ffv1", "bgr0"),
    ("gif", "rgb8"),
]


@pytest.mark.parametrize("size", [(360, 480), (361, 483)])
@pytest.mark.parametrize(("codec", "pix_fmt"), ENCODES, ids=str)
def test_an_encoded_picture_is_scaled_as_its_rgb_is(
    tmp_path: Path, codec: str, pix_fmt: str, size: Size
) -> None:
    pairs = pix_fmt == "yuyv422" or (codec in ("libx264", "libx265") and "444" not in pix_fmt)
    if size[1] % 2 and pairs:
        size = (362, 486)  # such encoders take even sides only; these are cropped from whole blocks
    scene = scale_picture(draw_scene(2.0)[0], size)
    path = tmp_path / {"gif": "clip.gif", "rawvideo": "clip.avi"}.get(codec, "clip.mkv")
    write_video(path, [scene] * 4, codec=codec, pix_fmt=pix_fmt)  # x265 at times makes nothing of one alone
    frame = frames_of(path)[0]
    for to in ((120, 160), (100, 140), (200, 300), (500, 700), (1, 1), size):
        got, want = frame.scaled(to).astype(int), scale_picture(frame.rgb, to)
        assert got.shape == (*to, 3)
        assert np.abs(got - want).mean() <= 1.5
        assert np.mean(np.abs(got - want) > 4) < 0.02  # colours outside RGB are clipped later


def frames_of(path: Path) -> list[Frame]:
    with open_source(StreamConfig(source=str(path)), "clip") as source:
        return list(decode(source, "clip"))


@pytest.mark.parametrize("transpose", [False, True])
@pytest.mark.parametrize("left_right", [False, True])
@pytest.mark.parametrize("top_bottom", [False, True])
def test_a_turned_picture_is_scaled_upright(transpose: bool, left_right: bool, top_bottom: bool) -> None:
    turn = (transpose, left_right, top_bottom)
    image = VideoFrame.from_ndarray(corners((96, 128)), format="rgb24").reformat(format="yuv420p")
    made = picture(image, turn)
    assert made.size == ((128, 96) if transpose else (96, 128))
    to = (32, 24) if transpose else (24, 32)
    want = scale_picture(apply_turn(picture(image).rgb(), turn), to)
    assert np.abs(made.scaled(to).astype(int) - want).mean() < 2
    assert made.scaled(to).flags.c_contiguous
    assert made.luma(to).shape == to
    assert np.abs(made.luma(to).astype(int) - grey(want)).mean() < 2
    assert made.scaled(made.size) is made.rgb()


def test_pixels_behind_the_width_and_rows_from_the_bottom_up_are_not_seen(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [np.full((50, 38, 3), 90, np.uint8)] * 2)
    for frame in frames_of(tmp_path / "clip.mp4"):
        image = frame.picture._image  # type: ignore[union-attr]
        assert image.planes[0].line_size > image.width
        assert np.abs(frame.scaled((11, 17)).astype(int) - 90).max() <= 3
    image = VideoFrame.from_ndarray(corners((48, 64)), format="rgb24")
    graph = av.filter.Graph()
    source = graph.add_buffer(width=64, height=48, format="rgb24", time_base=Fraction(1, 25))
    graph.link_nodes(source, graph.add("vflip"), graph.add("buffersink")).configure()
    graph.push(image)
    flipped: Any = graph.pull()
    assert flipped.planes[0].line_size < 0
    want = scale_picture(np.ascontiguousarray(corners((48, 64))[::-1]), (12, 16))
    assert np.abs(picture(flipped).scaled((12, 16)).astype(int) - want).max() <= 1


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (3, 1), (2, 2), (5, 3)])
@pytest.mark.parametrize("pix_fmt", ["yuv420p", "nv12", "yuv410p", "rgb24", "gray", "p010le"])
def test_the_smallest_pictures_are_scaled(pix_fmt: str, size: Size) -> None:
    image = VideoFrame(size[1], size[0], pix_fmt)
    for plane in image.planes:
        plane.update(bytes([128]) * plane.buffer_size)
    made = picture(image)
    for to in ((1, 1), (40, 60), (3, 2)):
        assert np.ptp(made.scaled(to)) <= 140
        assert made.scaled(to).shape == (*to, 3)
        assert made.luma(to).shape == to


def test_nothing_is_converted_until_it_is_asked_for_and_the_last_size_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[Any] = []
    usual = RgbConverter.__call__
    monkeypatch.setattr(RgbConverter, "__call__", lambda self, image: made.append(1) or usual(self, image))
    one = picture(VideoFrame.from_ndarray(corners((96, 128)), format="rgb24").reformat(format="yuv420p"))
    assert one.scaled((24, 32)) is one.scaled((24, 32))
    one.luma((9, 16))
    assert made == []
    assert one.rgb() is one.rgb()
    assert one.scaled((24, 32)) is not one.scaled((48, 64))
    assert made == [1]


def test_a_scaled_picture_outlives_its_frame_whose_buffer_goes_at_once(tmp_path: Path) -> None:
    write_video(tmp_path / "clip.mp4", [draw_scene(t / 5)[0] for t in range(12)])

    def kept() -> Iterator[tuple[U8, U8]]:
        with open_source(StreamConfig(source=str(tmp_path / "clip.mp4")), "clip") as source:
            for frame in decode(source, "clip"):
                small = frame.scaled((90, 120))
                yield small, small.copy()

    def pictures() -> int:
        return sum(type(one) is VideoFrame for one in gc.get_objects())

    gc.collect()
    gc.disable()
    before = pictures()
    try:
        pairs = list(kept())
        alive = pictures() - before
    finally:
        gc.enable()
    assert len(pairs) == 12
    assert alive <= 2
    for small, copied in pairs:
        np.testing.assert_array_equal(small, copied)


def test_labels_agree_with_those_of_the_whole_rgb_scaled_by_area(tmp_path: Path) -> None:
    write_video(
        tmp_path / "clip.mp4", [scale_picture(draw_scene(t)[0], (1080, 1920)) for t in (0.0, 2.0, 5.0)]
    )
    engine = load_engine(EngineConfig(precision="fp32", threads=1))
    same = []
    for frame in frames_of(tmp_path / "clip.mp4"):
        size = input_size(engine, frame.size)
        (new,) = infer(engine, [frame])
        (usual,) = infer(engine, [picture_frame(frame.rgb)])
        same.append(labels_of(new, size)[0] == labels_of(usual, size)[0])
    engine.close()
    assert np.mean(same) >= 0.995, [float(one.mean()) for one in same]
