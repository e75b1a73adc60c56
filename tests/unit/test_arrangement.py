"""Replicas are chosen by what the streams bring and what one engine makes."""

from __future__ import annotations

from typing import Any

import pytest

from streamseg.config import EngineConfig, StreamConfig
from streamseg.daemon import arrangement
from streamseg.daemon.arrangement import arranged, demands_of

ONNX = EngineConfig(backend="onnx")


@pytest.mark.parametrize(
    ("cores", "demand_fps", "alone_s", "replicas", "masks", "why"),
    [
        (2, 30.0, 0.010, 1, "younger", "30 frames/s, and one engine on 2 threads makes 100"),
        (2, 30.0, 0.031, 2, "more", "30 frames/s, and one engine on 2 threads makes 32"),
        (2, 112.0, 0.010, 2, "more", "112 frames/s, and one engine on 2 threads makes 100"),
        (2, float("inf"), None, 2, "more", "a file is played as fast as it goes"),
        (16, float("inf"), None, 4, "more", "a file is played as fast as it goes"),
        (2, 30.0, None, 1, "", ""),  # nothing has run yet
        (1, float("inf"), 0.010, 1, "", ""),
    ],
)  # fmt: skip
def test_few_frames_have_one_engine_and_many_have_several(
    cores: int, demand_fps: float, alone_s: float | None, replicas: int, masks: str, why: str
) -> None:
    chosen = arranged(ONNX, cores, demand_fps, alone_s)
    assert chosen.config.replicas == replicas
    assert chosen.why.endswith(why)
    assert chosen.why.startswith(f"for {masks} masks: " if masks else why)
    assert chosen.config.threads == 0


@pytest.mark.parametrize("set_", [{"replicas": 1}, {"replicas": 3}, {"replicas": 2, "threads": 2}])
def test_what_is_set_stays(set_: dict[str, Any]) -> None:
    config = EngineConfig(**set_)
    assert arranged(config, 2, float("inf"), 0.01) == (config, "")


def test_replicas_share_the_threads_that_are_set() -> None:
    assert arranged(EngineConfig(threads=3, backend="onnx"), 8, float("inf"), None).config.replicas == 3
    assert arranged(EngineConfig(threads=1, backend="onnx"), 8, float("inf"), None).config.replicas == 1


def test_a_gpu_has_one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrangement, "cuda_missing", lambda: None)
    assert arranged(EngineConfig(), 8, float("inf"), None).config.replicas == 1
    assert arranged(ONNX, 8, float("inf"), None).config.replicas == 4


def test_streams_bring_their_rates_to_the_engines_they_name() -> None:
    streams = {
        "camera": StreamConfig(source="rtsp://10.0.0.7/h264"),
        "slow": StreamConfig(source="rtsp://10.0.0.8/h264", max_fps=8),
        "again": StreamConfig(source="stream:slow", engine="night", max_fps=4),
        "file": StreamConfig(source="demo:", engine="batch"),
        "same": StreamConfig(source="stream:file", engine="night"),
        "played": StreamConfig(source="demo:", realtime=True, engine="other"),
    }
    found = demands_of(streams, ["default", "night", "batch", "other"])
    assert found == {"default": 33.0, "night": float("inf"), "batch": float("inf"), "other": 25.0}
