"""JPEGs are decoded as small as is enough, and keep the size and the look that the camera gave them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest

from streamseg.config import StreamConfig
from streamseg.sources.jpeg import halvings_of, upright_size
from streamseg.sources.live import frames
from streamseg.types import U8, Frame, Size
from tests.cameras import web_server
from tests.media import write_video
from tools.demo import draw_scene

WHOLE = (360, 480)


@pytest.fixture(scope="module")
def drawn() -> list[U8]:
    return [draw_scene(t / 5)[0] for t in range(8)]


@pytest.fixture
def clip(tmp_path: Path, drawn: list[U8]) -> Path:
    write_video(tmp_path / "clip.mkv", drawn, codec="mjpeg", pix_fmt="yuvj420p", options={"qscale": "2"})
    return tmp_path / "clip.mkv"


def played(source: Path | str, *needed: Size | None, most: int = 8) -> list[Frame]:
    """The frames of a source; as small as `needed` says for each; its last one is for the rest."""
    shown: list[Frame] = []
    stop = threading.Event()
    asked = [*needed, *[needed[-1]] * most]

    def next_needed(size: Size) -> Size | None:
        assert size == WHOLE
        return asked.pop(0)

    for frame in frames(
        StreamConfig(source=str(source), max_fps=100), "gate", stop, print, needed=next_needed
    ):
        shown.append(frame)
        if len(shown) == most:
            stop.set()
    return shown


@pytest.mark.parametrize(
    ("needed", "halvings"),
    [
        ((360, 480), 0), ((61, 80), 0), ((60, 81), 0), ((60, 80), 2), ((31, 40), 2), ((30, 40), 3),
        ((1, 1), 3), ((720, 960), 0), (None, 0),
    ],
)  # fmt: skip
def test_both_sides_stay_half_as_large_again_as_is_needed(needed: Size | None, halvings: int) -> None:
    assert halvings_of(WHOLE, needed) == halvings


@pytest.mark.parametrize(
    ("size", "halvings"),
    [((360, 480), 3), ((364, 480), 2), ((360, 484), 2), ((366, 480), 0), ((361, 481), 0)],
)
def test_a_side_that_cannot_be_halved_without_a_rest_is_not(size: Size, halvings: int) -> None:
    assert halvings_of(size, (30, 40)) == halvings


def test_frames_keep_the_cameras_size_and_look_as_scaled_whole_ones(clip: Path) -> None:
    whole, smaller = played(clip, None), played(clip, (60, 80))
    assert len(smaller) == len(whole) == 8
    for ours, theirs in zip(smaller, whole, strict=True):
        assert ours.size == theirs.size == ours.rgb.shape[:2] == WHOLE
        assert (ours.pts, ours.seq) == (theirs.pts, theirs.seq)
        assert np.abs(ours.scaled((60, 80)).astype(int) - theirs.scaled((60, 80))).mean() < 2
        assert np.abs(ours.luma((45, 60)).astype(int) - theirs.luma((45, 60))).mean() < 1


def test_what_is_needed_may_change_from_picture_to_picture(clip: Path) -> None:
    whole = played(clip, None)
    changing = played(clip, None, (60, 80), (30, 40), None, (30, 40))  # of all but the first one
    exact = [np.array_equal(a.rgb, b.rgb) for a, b in zip(whole, changing, strict=True)]
    assert exact == [True, True, False, False, True, False, False, False]


@pytest.mark.parametrize(("rotation", "mirrored"), [(90, False), (180, False), (0, True)])
def test_pictures_that_are_to_be_turned_are_decoded_whole(
    tmp_path: Path, drawn: list[U8], rotation: int, mirrored: bool
) -> None:
    path, turned = tmp_path / "clip.mov", {"rotation": rotation, "mirrored": mirrored}
    write_video(path, drawn[:3], codec="mjpeg", pix_fmt="yuvj420p", **turned)  # type: ignore[arg-type]
    whole, seen = played(path, None, most=3), played(path, (60, 80), most=3)
    for ours, theirs in zip(seen, whole, strict=True):
        assert ours.size == theirs.size == ours.rgb.shape[:2]
        np.testing.assert_array_equal(ours.rgb, theirs.rgb)


def test_two_fields_in_one_packet_stay_one_picture(tmp_path: Path, drawn: list[U8]) -> None:
    with av.open(str(tmp_path / "clip.avi"), "w") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.height, stream.width, stream.pix_fmt = (*WHOLE, "yuvj420p")
        for i, rgb in enumerate(drawn):
            packet = av.Packet(field(rgb[::2], 1) + field(rgb[1::2], 2))
            packet.stream, packet.pts, packet.dts = stream, i, i
            packet.time_base, packet.is_keyframe = Fraction(1, 25), True
            container.mux(packet)
    seen = played(tmp_path / "clip.avi", (30, 40))
    assert [frame.size for frame in seen] == [WHOLE] * len(drawn)
    assert np.abs(seen[-1].rgb.astype(int) - drawn[-1]).mean() < 8


def field(rgb: U8, number: int) -> bytes:
    """Every second line as a JPEG that says which ones, as capture cards write it."""
    jpeg = cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes()
    return jpeg[:2] + b"\xff\xe0\0\x10AVI1" + bytes([number]) + bytes(9) + jpeg[20:]


def test_snapshots_and_streams_of_a_camera_are_decoded_smaller(drawn: list[U8]) -> None:
    jpegs = [cv2.imencode(".jpg", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1].tobytes() for rgb in drawn]

    def stream() -> Iterator[bytes]:
        while True:
            for jpeg in jpegs:
                yield b"--x\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (
                    len(jpeg),
                    jpeg,
                )

    answers: list[tuple[Any, str]] = [
        (lambda path: jpegs[0], "image/jpeg"),
        (lambda path: stream(), "multipart/x-mixed-replace; boundary=x"),
    ]
    for answer, kind in answers:
        with web_server(answer, kind) as address:
            seen = played(f"{address}/live.jpg", (60, 80), most=4)
        assert [frame.size for frame in seen] == [WHOLE] * 4
        smooth = cv2.resize(cv2.resize(seen[0].rgb, (120, 90)), (480, 360))
        assert np.abs(smooth.astype(int) - seen[0].rgb).mean() < 1.5  # there was no more in it


def test_the_head_of_a_jpeg_tells_its_size_and_one_that_may_be_turned_is_left_whole(tmp_path: Path) -> None:
    rgb = np.zeros((34, 50, 3), np.uint8)
    for options in ([], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1], [cv2.IMWRITE_JPEG_OPTIMIZE, 1]):
        data = cv2.imencode(".jpg", rgb, options)[1].tobytes()
        assert upright_size(memoryview(data)) == (34, 50)
        turned = data[:2] + b"\xff\xe1\x00\x08Exif\0\0" + data[2:]
        assert upright_size(memoryview(turned)) is None
        for cut in range(0, 300, 7):
            assert upright_size(memoryview(data[:cut])) in (None, (34, 50))
    assert upright_size(memoryview(b"\xff\xd8" + b"\xff" * 40)) is None
