"""The CRF on a CUDA device, by torch operations and by Triton kernels, equals the CRF on the CPU."""

from __future__ import annotations

from functools import partial
from typing import Any, get_args

import msgspec
import numpy as np
import pytest

from streamseg import crf
from tests.crf_scenes import TWO_RUNS_DIFFER, agreement, scene

torch = pytest.importorskip("torch")
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("classes", [2, 11, 21, 40])
def test_a_cuda_device_gives_what_the_cpu_gives(kernels: Any, classes: int) -> None:
    from streamseg.crf.gpu import Kernels, mean_field_torch, triton_available

    assert kernels in get_args(Kernels)
    if kernels == "triton" and not triton_available():
        pytest.skip("Triton is not installed")
    logits, image, _ = scene(120, 160, classes)
    for name in ("deeplab-largefov", "deeplab-v2-resnet101"):
        for normalisation in crf.Normalisation:
            params = msgspec.structs.replace(crf.preset(name), normalisation=normalisation)
            if normalisation == crf.Normalisation.NONE:
                params = msgspec.structs.replace(params, smoothness_weight=0.01, appearance_weight=0.01)
            q = mean_field_torch(
                torch.from_numpy(logits).cuda(), torch.from_numpy(image).cuda(), params, kernels=kernels
            )
            again = mean_field_torch(
                torch.from_numpy(logits).cuda(), torch.from_numpy(image).cuda(), params, kernels=kernels
            )
            expected = crf.mean_field(logits, image, params)
            assert q.is_cuda
            assert float((q - again).abs().max()) < TWO_RUNS_DIFFER
            assert agreement(q.cpu().numpy(), expected) > 0.999
            assert np.abs(q.cpu().numpy() - expected).mean() < 1e-3


@pytest.mark.parametrize("graph", [False, True])
@pytest.mark.parametrize("kernels", ["torch", "triton"])
@pytest.mark.parametrize("preset", ["deeplab-largefov", "deeplab-v2-resnet101"])
def test_how_long_ten_iterations_take_is_written_down(
    graph: bool, kernels: Any, preset: str, capsys: pytest.CaptureFixture[str], record_property: Any
) -> None:
    """513×513, 21 classes; the goal is 5 ms. Everything is on the device before and after."""
    from streamseg.crf.gpu import mean_field_torch, triton_available
    from streamseg.crf.gpu_graph import MeanField

    if kernels == "triton" and not triton_available():
        pytest.skip("Triton is not installed")
    logits, image, _ = scene(513, 513, 21)
    params = crf.preset(preset)
    assert params.iterations == 10
    on_device = torch.from_numpy(logits).cuda(), torch.from_numpy(image).cuda()
    run = (
        MeanField(params, kernels=kernels)
        if graph
        else partial(mean_field_torch, params=params, kernels=kernels)
    )
    for _ in range(3):
        q = run(*on_device)
    took_ms = []
    for _ in range(20):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        q = run(*on_device)
        ended.record()
        ended.synchronize()
        took_ms.append(begun.elapsed_time(ended))
    assert agreement(q.cpu().numpy(), crf.mean_field(logits, image, params)) > 0.999
    p50_ms = float(np.median(took_ms))
    device = torch.cuda.get_device_name()
    record_property("crf_513x513x21_10_iterations_ms", p50_ms)
    form = f"{kernels}, a graph" if graph else kernels
    with capsys.disabled():
        print(f"\n{device}, {preset}, {form}: p50 {p50_ms:.2f} ms, fastest {min(took_ms):.2f} ms")
