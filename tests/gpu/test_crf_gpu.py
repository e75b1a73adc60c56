"""The CRF on a CUDA device, by torch operations and by Triton kernels, equals the CRF on the CPU."""

from __future__ import annotations

import dataclasses
from typing import Any, get_args

import numpy as np
import pytest

from streamseg import crf
from tests.crf_scenes import agreement, scene

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
            params = dataclasses.replace(crf.preset(name), normalisation=normalisation)
            if normalisation == crf.Normalisation.NONE:
                params = dataclasses.replace(params, smoothness_weight=0.01, appearance_weight=0.01)
            q = mean_field_torch(
                torch.from_numpy(logits).cuda(), torch.from_numpy(image).cuda(), params, kernels=kernels
            )
            expected = crf.mean_field(logits, image, params)
            assert q.is_cuda
            assert agreement(q.cpu().numpy(), expected) > 0.999
            assert np.abs(q.cpu().numpy() - expected).mean() < 1e-3
