"""Planes that lie on a device become the network's input there: what decoding and scaling here would give."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from av.video.reformatter import ColorRange, Colorspace

from streamseg.config import StreamConfig
from streamseg.inference.scaling import make_batch
from streamseg.sources import open_source
from streamseg.sources.frames import decode
from streamseg.sources.surface import Surface
from streamseg.types import U8, Size
from streamseg.types.picture import ArrayPicture
from tests.media import write_video
from tests.nvdec import leave_pictures_on_a_fake_gpu
from tools.demo import draw_scene

torch = pytest.importorskip("torch")

MATRICES = {5: (0.299, 0.114), 1: (0.2126, 0.0722), 9: (0.2627, 0.0593), 4: (0.30, 0.11), 7: (0.212, 0.087)}
TURNS = list(itertools.product([False, True], repeat=3))
SIZE = (360, 480)


def street(size: Size) -> U8:
    return np.asarray(cv2.resize(draw_scene(1.0)[0], size[::-1]), np.uint8)


def batch(surfaces: list[Surface], size: Size) -> Any:
    from streamseg.inference.preprocess_device import make_device_batch

    return make_device_batch(surfaces, size)


def surface_of(image: av.VideoFrame, **about: Any) -> Surface:
    black = ArrayPicture(np.zeros((1, 1, 3), np.uint8))
    return Surface(*image.planes, (image.height, image.width), lambda: black, **about)


def exact(image: av.VideoFrame, red: float, blue: float, full: bool) -> np.ndarray:
    """RGB in floating point, clipped, by the definition (ITU-T H.273), each chroma sample for four pixels."""
    bits, unit = (8, 1) if image.format.name == "nv12" else (10, 64)
    luma, chroma = (np.from_dlpack(plane).astype(float) / unit for plane in image.planes)
    wide = chroma.repeat(2, axis=0).repeat(2, axis=1)
    more = 2 ** (bits - 8)
    y = luma / (2**bits - 1) if full else (luma / more - 16) / 219
    cb, cr = (wide - 128 * more).transpose(2, 0, 1) / (2**bits - 1 if full else 224 * more)
    r, b = y + 2 * (1 - red) * cr, y + 2 * (1 - blue) * cb
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(255 * np.stack([r, g, b], axis=2), 0, 255)


@pytest.mark.parametrize("pixel_format", ["nv12", "p010le"])
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_colours_are_those_of_the_definition_to_one_level(pixel_format: str, full: bool, matrix: int) -> None:
    image = av.VideoFrame.from_ndarray(street((90, 120)), format="rgb24").reformat(
        format=pixel_format,
        dst_colorspace=Colorspace(matrix),
        dst_color_range=ColorRange.JPEG if full else ColorRange.MPEG,
    )
    surface = surface_of(image, luma_of_red_and_blue=MATRICES[matrix], full_range=full)
    got = batch([surface], (90, 120))[0].numpy()
    assert np.abs(got - exact(image, *MATRICES[matrix], full)).max() < 0.51


@pytest.mark.parametrize("size", [(360, 480), (720, 960), (1080, 1920), (240, 320), (160, 208), (330, 500)])
@pytest.mark.parametrize(
    ("matrix", "pixel_format", "levels"),
    [
        (5, "nv12", 1),
        (1, "nv12", 3),
        (9, "p010le", 3),
    ],  # OpenCV's conversion, and swscale's, which is coarser
)
def test_a_decoded_picture_is_within_these_levels_of_what_comes_out_here(
    matrix: int, pixel_format: str, levels: int, size: Size, tmp_path: Path
) -> None:
    """But for one value in 2000: colours outside RGB are clipped before scaling here, after it there."""
    write_video(tmp_path / "clip.mp4", [street(size)], setup=say(matrix))
    (here,), (there,) = played(tmp_path / "clip.mp4"), left_there(tmp_path / "clip.mp4", pixel_format)
    assert there.size == size
    for to in (SIZE, (176, 240)):
        difference = np.abs(make_batch([here], to).astype(int) - batch([there], to).numpy())
        assert (difference > levels).mean() < 5e-4
        assert difference.max() <= 16


@pytest.mark.parametrize("turn", TURNS)
def test_a_picture_is_turned_as_its_metadata_say(turn: tuple[bool, bool, bool]) -> None:
    from streamseg.sources.picture import apply_turn

    image = av.VideoFrame.from_ndarray(street((120, 160)), format="rgb24").reformat(format="nv12")
    upright = batch([surface_of(image)], (120, 160))[0].numpy()
    turned = surface_of(image, turn=turn)
    assert turned.size == ((160, 120) if turn[0] else (120, 160))
    np.testing.assert_array_equal(batch([turned], turned.size)[0].numpy(), apply_turn(upright, turn))
    smaller = (64, 48) if turn[0] else (48, 64)
    want = apply_turn(batch([surface_of(image)], (48, 64))[0].numpy(), turn)
    assert np.abs(batch([turned], smaller)[0].numpy().astype(int) - want).max() <= 1


@pytest.mark.parametrize("size", [(121, 161), (120, 161), (121, 160)])
def test_odd_sides_take_the_last_chroma_sample_again(size: Size) -> None:
    """PyAV hands on one chroma row or column too few then; swscale interpolates chroma of such pictures."""
    picture = street(size)
    image = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="nv12")
    assert np.from_dlpack(image.planes[1]).shape == (size[0] // 2, size[1] // 2, 2)
    want = image.to_rgb().to_ndarray().astype(int)
    difference = np.abs(want - batch([surface_of(image)], size)[0].numpy())
    assert np.median(difference) <= 1
    assert (difference > 8).mean() < 0.03
    assert batch([surface_of(image)], (40, 48)).shape == (1, 40, 48, 3)


def test_pictures_of_several_sizes_and_turns_make_one_batch() -> None:
    images = [
        av.VideoFrame.from_ndarray(street(size), format="rgb24").reformat(format="nv12")
        for size in ((120, 160), (240, 320), (160, 120))
    ]
    surfaces = [
        surface_of(images[0]),
        surface_of(images[1]),
        surface_of(images[2], turn=(True, False, False)),
    ]
    got = batch(surfaces, (96, 128))
    assert got.shape == (3, 96, 128, 3)
    assert got.dtype == torch.uint8
    assert got.is_contiguous()
    for one, surface in zip(got, surfaces, strict=True):
        np.testing.assert_array_equal(one, batch([surface], (96, 128))[0])


def test_planes_on_two_devices_or_on_none_that_we_know_are_refused() -> None:
    class Elsewhere:
        def __dlpack_device__(self) -> tuple[int, int]:
            return 7, 0

        def __dlpack__(self) -> Any: ...

    with pytest.raises(ValueError, match="CPU or CUDA device"):
        Surface(Elsewhere(), Elsewhere(), (2, 2), lambda: ArrayPicture(np.zeros((2, 2, 3), np.uint8)))


def played(path: Path) -> list[U8]:
    with open_source(StreamConfig(source=str(path)), "gate") as source:
        return [frame.rgb for frame in decode(source, "gate")]


def left_there(path: Path, pixel_format: str = "nv12") -> list[Surface]:
    with pytest.MonkeyPatch.context() as patch, open_source(StreamConfig(source=str(path)), "gate") as source:
        leave_pictures_on_a_fake_gpu(patch, pixel_format)
        frames = list(decode(source, "gate"))
    return [frame.picture for frame in frames if isinstance(frame.picture, Surface)]


def say(matrix: int) -> Any:
    def setup(stream: av.VideoStream) -> None:
        stream.codec_context.colorspace = matrix
        stream.codec_context.color_range = 1

    return setup
