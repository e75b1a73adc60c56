"""What the stage `backends` of `make gpu` runs, as far as it runs without a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import msgspec
import pytest

from benchmarks import gpu
from benchmarks.gpu_route import bench_route, street_clip
from streamseg.config import EngineConfig
from streamseg.errors import EngineError, UsageError
from streamseg.inference.backends.device import Cuda, cuda_missing
from tests.nvdec import leave_pictures_on_a_fake_gpu

pytest.importorskip("torch")


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return street_clip(tmp_path_factory.mktemp("clips") / "street.mp4", (180, 320), 6)


def test_the_clip_is_h264_as_nvdec_takes_it(clip: Path) -> None:
    with av.open(str(clip)) as container:
        video = container.streams.video[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert (video.height, video.width) == (180, 320)
        assert sum(1 for _ in container.decode(video)) == 6


def test_the_route_is_measured_both_ways_and_gives_the_same_labels(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pictures_on_a_fake_gpu(monkeypatch)
    config = EngineConfig(backend="torch", precision="fp32", input_size=(96, 160))
    result = bench_route(config, clip, frames=3)
    assert result.frame_size == (180, 320)
    assert (result.stays.count, result.by_memory.count) == (3, 3)
    assert result.same_labels_percent > 99
    assert result.ratio == pytest.approx(result.by_memory.p50_ms / result.stays.p50_ms, abs=0.01)


def test_pictures_that_do_not_stay_are_not_measured_as_if_they_did(clip: Path) -> None:
    with pytest.raises(UsageError, match="do not stay"):
        bench_route(EngineConfig(backend="torch", precision="fp32"), clip, frames=1)


@pytest.mark.skipif(cuda_missing() is None, reason="there is a GPU here")
def test_without_a_gpu_there_is_nothing_to_measure() -> None:
    with pytest.raises(UsageError, match="nothing to measure"):
        gpu.bench_gpu(lambda result: None)


def test_a_part_that_fails_is_told_and_the_others_are_written_after_each(
    clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_pictures_on_a_fake_gpu(monkeypatch)
    route = bench_route(EngineConfig(backend="torch", precision="fp32", input_size=(96, 160)), clip, frames=1)
    monkeypatch.setattr(gpu, "cuda_device", lambda: Cuda("Some GPU", "sm_90", "13.0"))
    monkeypatch.setattr(gpu, "street_clip", lambda path: clip)
    monkeypatch.setattr(gpu, "random_engine", lambda name, folder: folder)

    def no_crf(repeats: int) -> Any:
        raise RuntimeError("CUDA error: no kernel image is available\nfor this GPU")

    def no_engines(names: Any, source: str, **asked: Any) -> Any:
        raise EngineError(f"{asked['backends'][0]} cannot be had")

    monkeypatch.setattr(gpu, "_crf_times", no_crf)
    monkeypatch.setattr(gpu, "bench_route", lambda config, clip, frames: route)
    monkeypatch.setattr(gpu, "bench_engines", no_engines)
    written: list[gpu.GpuResult] = []
    result = gpu.bench_gpu(written.append, ["bf16"])
    assert len(written) == 5
    assert written[-1] == result == msgspec.json.decode(msgspec.json.encode(result), type=gpu.GpuResult)
    assert result.routes == [route, route]
    table = gpu.table_of(result)
    assert "Some GPU, sm_90, CUDA 13.0" in table
    assert f"| {route.engine} | 320x180 |" in table
    assert "Not run: CRF: CUDA error: no kernel image is available for this GPU" in table
    assert "Not run: torch: torch cannot be had" in table
    assert "Not run: aoti, tensorrt, tensorrt-rtx: aoti cannot be had" in table
