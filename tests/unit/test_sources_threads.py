"""Decoders of many streams have few threads, and those of one stream have the cores."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path

import pytest

from streamseg.config import StreamConfig
from streamseg.sources import open_source
from streamseg.sources.threads import decoder_threads
from tests.media import draw_clip


@pytest.mark.parametrize(
    ("cores", "streams", "threads"),
    [(1, 1, 1), (2, 1, 2), (2, 2, 1), (2, 40, 1), (8, 1, 8), (8, 3, 2), (64, 1, 16), (64, 40, 1), (64, 8, 8)],
)
def test_threads_of_a_decoder_are_its_share_of_the_cores(cores: int, streams: int, threads: int) -> None:
    assert decoder_threads(cores, streams) == threads
    assert threads * streams <= max(cores, streams)


@pytest.mark.parametrize("realtime", [True, False])
def test_forty_streams_on_few_cores_are_decoded_without_further_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, realtime: bool
) -> None:
    clip = draw_clip(tmp_path / "clip.mp4")
    monkeypatch.setattr("streamseg.sources.threads.usable_cores", lambda: 2)
    before = set(os.listdir("/proc/self/task"))
    with ExitStack() as opened:
        for number in range(40):
            config = StreamConfig(source=str(clip), realtime=realtime)
            opened.enter_context(open_source(config, f"s{number}", streams=40))
        assert set(os.listdir("/proc/self/task")) <= before
