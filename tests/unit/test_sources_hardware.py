"""A stream that asks for a GPU's decoder plays without one, says so once, and looks the same."""

from __future__ import annotations

import logging
from pathlib import Path

import av
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
    hardware._warn.cache_clear()  # another test's stream may have had this name
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
