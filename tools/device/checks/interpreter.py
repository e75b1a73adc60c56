"""Compare the CRF's Triton kernels with the compiled CRF, in Triton's interpreter on the CPU."""

import os

os.environ["TRITON_INTERPRET"] = "1"

import msgspec
import numpy as np
import torch

from streamseg import crf
from streamseg.crf.gpu import mean_field_torch
from tests.crf_scenes import agreement, scene


def main() -> None:
    for classes in (2, 5, 21):
        logits, image, _ = scene(24, 30, classes)
        for normalisation in crf.Normalisation:
            params = msgspec.structs.replace(
                crf.preset("deeplab-largefov"), normalisation=normalisation, iterations=2
            )
            if normalisation == crf.Normalisation.NONE:
                params = msgspec.structs.replace(params, smoothness_weight=0.01, appearance_weight=0.01)
            got = mean_field_torch(
                torch.from_numpy(logits), torch.from_numpy(image), params, kernels="triton"
            ).numpy()
            want = crf.mean_field(logits, image, params)
            print(
                f"{classes} classes, {normalisation.name}: max |ΔQ| {np.abs(got - want).max():.2g}, "
                f"agreement {agreement(got, want):.4f}"
            )


if __name__ == "__main__":
    main()
