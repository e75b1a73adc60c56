"""A stream that asks for another decoder plays without one, says so once, and looks the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import av
import msgspec
import numpy as np
import pytest

from streamseg.config import StreamConfig
from streamseg.inference.backends.device import cuda_missing
from streamseg.sources import hardware, open_source
from streamseg.sources.frames import decode
from streamseg.sources.picture import RgbConverter
from tests.media import write_video
from tools.demo import draw_scene


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    write_video(tmp_path / "clip.mp4", [draw_scene(t)[0] for t in (0.0, 0.04, 0.08)])
    return tmp_path / "clip.mp4"


def played(path: Path, **settings: object) -> list[np.ndarray]:
    config = StreamConfig(source=str(path), **settings)  # type: ignore[arg-type]
    with open_source(config, "gate") as source:
        return [frame.rgb for frame in decode(source, "gate")]


@pytest.mark.skipif(cuda_missing() is None, reason="this machine has a GPU")
def test_without_a_cuda_decoder_the_cpu_decodes_and_one_line_says_why(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    hardware._tell.cache_clear()  # another test's stream may have had this name
    with caplog.at_level(logging.WARNING):
        frames = [played(clip, hwaccel="cuda") for _ in range(2)]
    told = [message for message in caplog.messages if "decoder" in message]
    assert len(told) == 1
    assert told[0].startswith("gate: no cuda decoder on this machine (")
    assert told[0].endswith("decoding on the CPU")
    for ours, theirs in zip(frames[0], played(clip), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_pictures_as_hardware_decoders_give_them_have_the_same_colours(clip: Path) -> None:
    """NV12 instead of I420."""
    with av.open(str(clip)) as container:
        picture = next(container.decode(video=0))
    to_rgb = RgbConverter()
    nv12 = picture.reformat(format="nv12")
    np.testing.assert_array_equal(to_rgb(nv12), to_rgb(picture))


@pytest.fixture
def afresh() -> None:
    for remembered in (hardware._found, hardware._problem, hardware._tell):
        remembered.cache_clear()


def machine_with(monkeypatch: pytest.MonkeyPatch, *devices: str) -> None:
    """A machine that has these devices, as far as looking for them goes."""
    problem: Any = lambda kind: "" if kind in devices else "there is none"  # noqa: E731
    monkeypatch.setattr(hardware, "_problem", problem)
    hardware._found.cache_clear()


@pytest.mark.parametrize("kind", ["qsv", "drm"])
@pytest.mark.usefixtures("afresh")
def test_a_device_that_is_missing_is_named_in_one_line_and_the_cpu_decodes(
    clip: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    with caplog.at_level(logging.INFO):
        frames = [played(clip, hwaccel=kind) for _ in range(2)]
    (told,) = caplog.messages
    assert told.startswith(f"gate: no {kind} decoder on this machine (")
    assert told.endswith("); decoding on the CPU")
    for ours, theirs in zip(frames[0], played(clip), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("afresh")
def test_nvdec_is_not_there_without_the_drivers_own_decoder_library(monkeypatch: pytest.MonkeyPatch) -> None:
    """FFmpeg opens it at the first picture only, and makes its device without."""
    monkeypatch.setattr(hardware, "LIBRARIES", {"cuda": "libnobody.so.1"})
    want = "libnobody.so.1 is missing: install the NVIDIA driver's decoder library; a container needs "
    assert hardware.why_not_on_gpu("cuda").startswith(f"no cuda decoder on this machine ({want}")


@pytest.mark.skipif(cuda_missing() is None, reason="this machine has a GPU")
@pytest.mark.usefixtures("afresh")
def test_auto_says_once_for_all_streams_what_is_missing_of_each_device(
    clip: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert len(played(clip, hwaccel="auto")) == len(played(clip, hwaccel="auto")) == 3
    (told,) = caplog.messages
    assert told.startswith('hwaccel = "auto": no decoder but the CPU\'s on this machine (cuda: ')
    assert "; qsv: " in told
    assert "; drm: " in told
    assert {record.levelname for record in caplog.records} == {"INFO"}


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize(
    ("there", "taken"), [(("cuda", "qsv"), "cuda"), (("qsv", "drm"), "qsv"), (("drm",), "drm"), ((), None)]
)
def test_auto_takes_the_first_device_that_is_there(
    monkeypatch: pytest.MonkeyPatch, there: tuple[str, ...], taken: str | None
) -> None:
    machine_with(monkeypatch, *there)
    assert hardware.device_of("auto", "gate") == taken
    hardware._found.cache_clear()


@pytest.mark.usefixtures("afresh")
@pytest.mark.parametrize("name", ["clip.mp4", "clip.ts"])
def test_a_decoder_of_a_device_gives_the_same_pictures_at_the_same_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """The device is FFmpeg's own decoder, opened as that of a device is."""
    write_video(tmp_path / name, [draw_scene(t / 25)[0] for t in range(9)], options={"bf": "2"})
    config = StreamConfig(source=str(tmp_path / name))
    with open_source(config, "gate") as source:
        expected = [(frame.pts, frame.rgb) for frame in decode(source, "gate")]
    machine_with(monkeypatch, "qsv")
    monkeypatch.setitem(hardware.DECODERS, "qsv", "{}")
    with (
        caplog.at_level(logging.INFO),
        open_source(msgspec.structs.replace(config, hwaccel="qsv"), "g") as source,
    ):
        assert source.decoder is not source.video.codec_context
        found = [(frame.pts, frame.rgb) for frame in decode(source, "gate")]
    assert "g: decoded by h264" in caplog.messages
    assert [pts for pts, _ in found] == [pts for pts, _ in expected]
    for (_, ours), (_, theirs) in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("afresh")
def test_what_a_device_does_not_decode_is_decoded_on_the_cpu(
    clip: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    machine_with(monkeypatch, "qsv", "drm")
    monkeypatch.setitem(hardware.DECODERS, "qsv", "{}_that_is_not_there")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):  # as a camera of snapshots is opened again and again
            assert len(played(clip, hwaccel="qsv")) == len(played(clip, hwaccel="drm")) == 3
    assert caplog.messages == [
        "gate: qsv does not decode h264; decoding on the CPU",
        "gate: drm does not decode this h264 (no V4L2 device decodes it); decoding on the CPU",
    ]
