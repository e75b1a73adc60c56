"""The CRF on torch tensors equals the CRF on arrays."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg import crf
from streamseg.errors import CrfError
from tests.crf_scenes import TWO_RUNS_DIFFER, scene

torch = pytest.importorskip("torch")
from tests.cuda_standin import Graph, put_in_place_of_cuda  # noqa: E402

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


@pytest.mark.parametrize("preset", ["deeplab-largefov", "deeplab-v2-resnet101"])
def test_sums_in_any_order_as_a_gpus_atomics_make_them_differ_by_rounding_alone(
    monkeypatch: pytest.MonkeyPatch, preset: str
) -> None:
    from streamseg.crf.gpu import TorchSteps

    order = torch.Generator().manual_seed(0)

    def splat(steps: Any, lattice: Any, values: Any) -> Any:
        shares = (lattice.weights[:, :, None] * values[:, None]).flatten(0, 1)
        drawn = torch.randperm(len(shares), generator=order)
        rows = values.new_zeros((lattice.capacity + 1, values.shape[1]))
        return rows.index_add_(0, lattice.vertices.flatten()[drawn], shares[drawn])

    monkeypatch.setattr(TorchSteps, "splat", splat)
    logits, image, _ = scene(24, 30, 21)
    params = crf.preset(preset)
    assert params.iterations == 10
    one, other = (run(logits, image, params) for _ in range(2))
    assert 0 < np.abs(one - other).max() < TWO_RUNS_DIFFER
    np.testing.assert_allclose(one, crf.mean_field(logits, image, params), atol=1e-4)


def pictures(classes: int, *seeds: int) -> list[tuple[Any, Any]]:
    return [scene(24, 30, classes, seed)[:2] for seed in seeds]


@pytest.mark.parametrize("compatibility", [None, ((0.0, 1, 1), (1, 0, 0.5), (1, 0.5, 0))])
def test_one_picture_after_another_by_the_graph_of_their_size(
    monkeypatch: pytest.MonkeyPatch, compatibility: Any
) -> None:
    from streamseg.crf import gpu_graph

    put_in_place_of_cuda(monkeypatch)
    params = msgspec.structs.replace(PARAMS, compatibility=compatibility)
    mean_field = gpu_graph.MeanField(params)
    monkeypatch.setattr(gpu_graph, "is_on_gpu", lambda tensor: True)
    for logits, image in [*pictures(3, 0, 1, 2), scene(20, 24, 3)[:2], *pictures(3, 3)]:
        got = mean_field(torch.from_numpy(logits), torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(got, crf.mean_field(logits, image, params), atol=1e-4)
    assert mean_field.recorded == Graph.made == 2, "one for each size"


def test_a_picture_of_more_points_than_there_is_room_for_is_computed_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from streamseg.crf import gpu_graph

    put_in_place_of_cuda(monkeypatch)
    monkeypatch.setattr(gpu_graph, "is_on_gpu", lambda tensor: True)
    mean_field = gpu_graph.MeanField(PARAMS)
    random = np.random.default_rng(0)
    logits = random.normal(size=(3, 40, 48)).astype(np.float32)
    plain = np.full((40, 48, 3), 90, np.uint8)
    noisy = random.integers(0, 256, (40, 48, 3), np.uint8)
    for image in (plain, noisy, plain, noisy):
        got = mean_field(torch.from_numpy(logits), torch.from_numpy(image)).numpy()
        np.testing.assert_allclose(got, crf.mean_field(logits, image, PARAMS), atol=1e-4)
    assert mean_field.recorded == 2


def test_pictures_that_cannot_be_are_refused_by_the_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from streamseg.crf import gpu_graph

    put_in_place_of_cuda(monkeypatch)
    monkeypatch.setattr(gpu_graph, "is_on_gpu", lambda tensor: True)
    mean_field = gpu_graph.MeanField(PARAMS)
    (logits, image), (other, _) = pictures(3, 0, 1)
    want = mean_field(torch.from_numpy(logits), torch.from_numpy(image)).numpy().copy()
    other[0, 3, 4] = np.nan
    with pytest.raises(CrfError, match="NaN"):
        mean_field(torch.from_numpy(other), torch.from_numpy(image))
    with pytest.raises(CrfError, match="uint8"):
        mean_field(torch.from_numpy(logits), torch.from_numpy(image.astype(np.float32)))
    np.testing.assert_array_equal(mean_field(torch.from_numpy(logits), torch.from_numpy(image)), want)
