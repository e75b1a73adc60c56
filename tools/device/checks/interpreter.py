"""Compare the CRF's Triton kernels with the compiled CRF, in Triton's interpreter on the CPU.

python -m tools.device.checks.interpreter. Ends with 1 where they differ by more than MOST.
"""

import os
import sys

os.environ["TRITON_INTERPRET"] = "1"

import msgspec
import numpy as np
import torch

from streamseg import crf
from streamseg.crf.gpu import mean_field_torch
from streamseg.crf.gpu_graph import MeanField
from tests.crf_scenes import agreement, scene

MOST = 1e-6
SIZE = (9, 14)


def params_of(classes: int, normalisation: crf.Normalisation, matrix: bool) -> crf.CrfParams:
    weight = 0.01 if normalisation == crf.Normalisation.NONE else 3.0
    return msgspec.structs.replace(
        crf.preset("deeplab-largefov"),
        normalisation=normalisation,
        iterations=2,
        smoothness_weight=weight,
        appearance_weight=weight,
        compatibility=tuple(map(tuple, 0.8 - 0.8 * np.eye(classes))) if matrix else None,
    )


def main() -> int:
    worst = 0.0
    cases = [(2, n, False) for n in crf.Normalisation]
    cases += [(5, crf.Normalisation.SYMMETRIC, True), (21, crf.Normalisation.SYMMETRIC, False)]
    for classes, normalisation, matrix in cases:
        logits, image, _ = scene(*SIZE, classes)
        params = params_of(classes, normalisation, matrix)
        want = crf.mean_field(logits, image, params)
        on_device = torch.from_numpy(logits), torch.from_numpy(image)
        for name, got in (
            ("", mean_field_torch(*on_device, params, kernels="triton")),
            (" with room", MeanField(params, kernels="triton")(*on_device)),
        ):
            off = float(np.abs(got.numpy() - want).max())
            worst = max(worst, off)
            print(
                f"{classes} classes, {normalisation.name}{name}: max |ΔQ| {off:.2g}, "
                f"agreement {agreement(got.numpy(), want):.4f}",
                flush=True,
            )
    return int(not worst <= MOST)


if __name__ == "__main__":
    sys.exit(main())
