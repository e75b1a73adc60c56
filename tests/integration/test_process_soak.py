"""Hours of recording in the memory of minutes."""

from __future__ import annotations

import itertools
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import psutil
import pytest

from streamseg.config import EngineConfig
from streamseg.recorded import Event, ProcessConfig, Progressed, process_files
from streamseg.recorded.verify import verify_folder
from tests.media import picture

FPS = 8
SIZE = (360, 480)


def long_clip(path: Path, frames: int) -> Path:
    """A bar that grows and shrinks, 480×360 at 8 fps."""
    drawn = [av.VideoFrame.from_ndarray(picture(SIZE, i / 64), format="rgb24") for i in range(64)]
    drawn = [frame.reformat(format="yuv420p") for frame in drawn]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "ultrafast", "g": "64"})
        stream.height, stream.width = SIZE
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, FPS)
        for i, frame in zip(range(frames), itertools.cycle(drawn + drawn[::-1]), strict=False):
            frame.pts, frame.time_base = i, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_memory_stays_flat_however_long_the_input(tiny_engine: Path, tmp_path: Path) -> None:
    """STREAMSEG_TEST_HOURS of input, a quarter of one by default."""
    hours = float(os.environ.get("STREAMSEG_TEST_HOURS", "0.25"))
    frames = round(hours * 3600 * FPS)
    clip = long_clip(tmp_path / "clip.mp4", frames)
    me = psutil.Process()
    used: list[tuple[int, int]] = []

    def on_event(event: Event) -> None:
        if isinstance(event, Progressed) and event.done % 200 == 0:
            used.append((event.done, me.memory_info().rss))

    config = ProcessConfig(engine=EngineConfig(name=str(tiny_engine)), areas=True, events=True, rle=True)
    result = process_files([clip], tmp_path / "out", config, on_event=on_event)
    after = me.memory_info().rss
    assert result.finished[0].manifest.masks == frames
    early = np.median([rss for done, rss in used if frames / 10 < done <= frames / 5])
    late = np.median([rss for done, rss in used if done > frames * 0.9])
    megabytes = [round(float(b) / 1e6) for b in (early, late, after)]
    print(
        f"{frames} frames: {megabytes[0]} MB early, {megabytes[1]} MB late, {megabytes[2]} MB after the end"
    )
    assert late < early + 30e6
    assert after < early + 60e6
    assert [v.problems for v in verify_folder(tmp_path / "out")] == [[]]
