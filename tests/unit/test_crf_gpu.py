"""The CRF on torch tensors equals the CRF on arrays."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg import crf
from streamseg.errors import CrfError
from tests.crf_scenes import scene

torch = pytest.importorskip("torch")
PARAMS = crf.CrfParams(iterations=4, appearance_sigma_xy=30.0, appearance_sigma_rgb=8.0)


def run(logits: Any, image: Any, params: Any, **options: Any) -> Any:
    from streamseg.crf.gpu import mean_field_torch

    return mean_field_torch(torch.from_numpy(logits), torch.from_numpy(image), params, **options).numpy()


@pytest.mark.parametrize("normalisation", crf.Normalisation)
@pytest.mark.parametrize("compatibility", [None, (0.5, 1.0, 1.5), ((0.0, 1, 1), (1, 0, 0.5), (1, 0.5, 0))])
def test_tensors_on_the_cpu_give_what_arrays_give(
    normalisation: crf.Normalisation, compatibility: Any
) -> None:
    logits, image, _ = scene(24, 30, 3)
    params = msgspec.structs.replace(PARAMS, normalisation=normalisation, compatibility=compatibility)
    if normalisation == crf.Normalisation.NONE:
        params = msgspec.structs.replace(params, smoothness_weight=0.02, appearance_weight=0.02)
    np.testing.assert_allclose(run(logits, image, params), crf.mean_field(logits, image, params), atol=1e-4)


def test_other_channels_and_features_of_their_own() -> None:
    logits, image, _ = scene(20, 24, 4)
    thermal = image[:, :, :1].astype(np.float32)
    features = np.random.default_rng(0).normal(size=(7, 480)).astype(np.float32) * 30
    terms = [crf.PairwiseTerm(2.0, 5.0, 10.0), crf.PairwiseTerm(1.0, features=features)]
    expected = crf.mean_field(logits, thermal, terms, iterations=3)
    np.testing.assert_allclose(run(logits, thermal, terms, iterations=3), expected, atol=1e-4)


def test_wrong_tensors_are_refused() -> None:
    logits, image, _ = scene(20, 24, 4)
    with pytest.raises(CrfError, match="must be"):
        run(logits, image[1:], PARAMS)
    logits[0, 0, 0] = np.nan
    with pytest.raises(CrfError, match="NaN"):
        run(logits, image, PARAMS)
