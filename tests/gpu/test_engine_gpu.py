"""Engines on a CUDA GPU: they agree with the CPU, and reach the frames/s that were asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import BARS, INPUT, NETWORK
from streamseg.bench.engine import bench_engines, random_engine
from streamseg.config import BackendName, EngineConfig, Precision
from streamseg.inference.backends.device import Cuda, cuda_device
from streamseg.inference.backends.protocol import backend_of
from streamseg.inference.plans.load import load_engine
from streamseg.inference.plans.verify import agreement_of
from tools.demo import draw_scene

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("backend", ["torch", "aoti"])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 99.9), ("fp16", 99.5), ("bf16", 99.0)])
def test_a_gpu_engine_agrees_with_the_cpu(backend: BackendName, precision: Precision, least: float) -> None:
    if reason := backend_of(backend).why_not(precision):
        pytest.skip(reason)
    batch = np.stack([draw_scene(t)[0] for t in (0.0, 5.0)])
    reference = load_engine(EngineConfig(backend="onnx", precision="fp32"))
    engine = load_engine(EngineConfig(backend=backend, precision=precision))
    assert agreement_of([(engine(batch), reference(batch))]).argmax_percent >= least


def test_a_recorded_shape_gives_the_answer_to_each_picture_and_not_the_last_one() -> None:
    reference = load_engine(EngineConfig(backend="onnx", precision="fp32"))
    engine = load_engine(EngineConfig(backend="torch", precision="fp32"))
    for moment in (0.0, 4.0, 8.0):
        batch = draw_scene(moment)[0][None]
        assert agreement_of([(engine(batch), reference(batch))]).argmax_percent > 99.9
    for height in range(160, 160 + 8 * 12, 8):  # more shapes than are kept recorded
        shape = (1, height, 240, 3)
        assert engine(np.zeros(shape, np.uint8)).shape[2] == height // 4


@pytest.mark.parametrize("backend", ["torch", "aoti"])
@pytest.mark.timeout(900)
def test_batches_that_are_queued_one_behind_another_have_their_own_logits(backend: BackendName) -> None:
    if reason := backend_of(backend).why_not("bf16"):
        pytest.skip(reason)
    engine: Any = load_engine(EngineConfig(backend=backend, precision="bf16"))
    batches = [np.stack([draw_scene(7.0 * n + i)[0] for i in range(n)]) for n in (1, 3, 2, 4, 1, 8, 2, 2)]
    memory = np.empty_like(batches[5])
    queued = []
    for batch in batches:
        memory[: len(batch)] = batch  # written again while batches are under way
        queued.append(engine.on_device(torch.from_numpy(memory[: len(batch)])))
    for batch, found in zip(batches, queued, strict=True):
        np.testing.assert_array_equal(found.wait().cpu().numpy(), engine(batch))
    engine.close()


@pytest.mark.timeout(900)
def test_largefov_reaches_its_frames_per_second_without_tensorrt(tmp_path: Path) -> None:
    found = cuda_device()
    if not isinstance(found, Cuda) or "H200" not in found.name:
        pytest.skip("the bar is for an H200")
    folder = random_engine(NETWORK, tmp_path / "largefov")
    result = bench_engines(
        [str(folder)], "demo:", backends=["torch", "aoti"], precisions=["bf16"], sizes=[INPUT], batches=(1, 8)
    )
    assert result.rows, result.left_out
    for (precision, batch), bar in BARS.items():
        best = max(row.fps for row in result.rows if row.batch == batch and precision in row.engine)
        assert best >= bar
