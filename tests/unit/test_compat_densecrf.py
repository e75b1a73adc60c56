"""pydensecrf's interface: the calls of its examples give its results, with one import changed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import streamseg.crf.compat.densecrf as ours
import streamseg.crf.compat.utils as our_utils
from streamseg.errors import CrfError
from tests.crf_scenes import agreement, scene

theirs = pytest.importorskip("pydensecrf.densecrf")
their_utils = pytest.importorskip("pydensecrf.utils")

NORMALISATIONS = ("NO_NORMALIZATION", "NORMALIZE_BEFORE", "NORMALIZE_AFTER", "NORMALIZE_SYMMETRIC")
H, W, C = 40, 52, 5


def both() -> list[tuple[Any, Any]]:
    return [(ours, our_utils), (theirs, their_utils)]


def unary() -> tuple[Any, Any]:
    logits, image, _ = scene(H, W, C)
    p = np.exp(logits) / np.exp(logits).sum(0)
    return p.astype(np.float32), image


def test_names_and_values_are_those_of_pydensecrf() -> None:
    for name in (*NORMALISATIONS, "CONST_KERNEL", "DIAG_KERNEL", "FULL_KERNEL"):
        assert int(getattr(ours, name)) == int(getattr(theirs, name))
    for kind in ("DenseCRF", "DenseCRF2D"):
        public = [n for n in dir(getattr(theirs, kind)) if not n.startswith("__")]
        assert not [n for n in public if not hasattr(getattr(ours, kind), n)]
    wanted = {n for n in dir(their_utils) if callable(getattr(their_utils, n)) and "_" in n.strip("_")}
    assert {n for n in wanted if not n.startswith("_")} <= set(dir(our_utils))


def test_the_inference_example_gives_the_same_map() -> None:
    _, image, labels = scene(H, W, C)
    results = []
    for module, utils in both():
        d = module.DenseCRF2D(W, H, C)
        d.setUnaryEnergy(utils.unary_from_labels(labels + 1, C, gt_prob=0.7, zero_unsure=True))
        d.addPairwiseGaussian(
            sxy=(3, 3), compat=3, kernel=module.DIAG_KERNEL, normalization=module.NORMALIZE_SYMMETRIC
        )
        d.addPairwiseBilateral(
            sxy=(80, 60),
            srgb=(13, 13, 13),
            rgbim=image,
            compat=10,
            kernel=module.DIAG_KERNEL,
            normalization=module.NORMALIZE_SYMMETRIC,
        )
        results.append(np.array(d.inference(5)))
        q, tmp1, tmp2 = d.startInference()
        for _ in range(5):
            d.stepInference(q, tmp1, tmp2)
        np.testing.assert_allclose(np.array(q), results[-1], atol=1e-4)
        results.append(d.klDivergence(q) / (H * W))
    np.testing.assert_allclose(results[0], results[2], atol=1e-3)
    assert results[1] == pytest.approx(results[3], abs=1e-3)


def test_the_non_rgb_example_gives_the_same_map() -> None:
    p, image = unary()
    infrared = image[:, :, :1].astype(np.float32)
    results = []
    for module, utils in both():
        d = module.DenseCRF2D(W, H, C)
        d.setUnaryEnergy(utils.unary_from_softmax(p))
        energy = utils.create_pairwise_bilateral(sdims=(10, 10), schan=(0.8,), img=infrared, chdim=2)
        d.addPairwiseEnergy(energy, compat=10)
        results.append(np.array(d.inference(5)))
    assert agreement(*results) > 0.999
    assert np.abs(results[0] - results[1]).mean() < 1e-3


def test_three_dimensional_grids_give_the_same_map() -> None:
    shape = (8, 10, 12)
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(3), shape).transpose(3, 0, 1, 2).astype(np.float32)
    results = []
    for module, utils in both():
        d = module.DenseCRF(int(np.prod(shape)), 3)
        d.setUnaryEnergy(utils.unary_from_softmax(p, scale=0.9))
        d.addPairwiseEnergy(utils.create_pairwise_gaussian(sdims=(2.0, 2.0, 3.0), shape=shape), compat=3)
        results.append(np.array(d.inference(4)))
    np.testing.assert_allclose(results[0], results[1], atol=1e-3)


@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("kind", ["number", "vector", "matrix"])
def test_compatibilities_and_normalisations_mean_the_same(normalisation: str, kind: str) -> None:
    p, image = unary()
    rng = np.random.default_rng(1)
    compat = {
        "number": 3,
        "vector": rng.uniform(-3, -1, C).astype(np.float32),
        "matrix": rng.uniform(0, 2, (C, C)).astype(np.float32),
    }[kind]
    if normalisation == "NO_NORMALIZATION":
        compat = compat * np.float32(0.01)
    results = []
    for module, utils in both():
        d = module.DenseCRF2D(W, H, C)
        d.setUnaryEnergy(utils.unary_from_softmax(p))
        how = getattr(module, normalisation)
        given = float(compat) if np.ndim(compat) == 0 else compat
        d.addPairwiseBilateral(sxy=20, srgb=10, rgbim=image, compat=given, normalization=how)
        d.addPairwiseGaussian(sxy=2, compat=given, normalization=how)
        results.append(np.array(d.inference(3)))
        results.append(d.klDivergence(d.startInference()[0]) / (H * W))
    np.testing.assert_allclose(results[0], results[2], atol=1e-3)
    assert results[1] == pytest.approx(results[3], rel=1e-3, abs=1e-3)


def test_utilities_give_the_same_arrays() -> None:
    p, image = unary()
    labels = p.argmax(0)
    cases: list[Any] = [
        lambda u: u.unary_from_labels(labels, C, 0.6, zero_unsure=False),
        lambda u: u.unary_from_labels(labels, C - 1, 0.6),
        lambda u: u.unary_from_softmax(p),
        lambda u: u.unary_from_softmax(p, scale=0.5, clip=None),
        lambda u: u.create_pairwise_gaussian((2, 3), (H, W)),
        lambda u: u.create_pairwise_bilateral((2, 3), (4, 5, 6), image, chdim=2),
        lambda u: u.create_pairwise_bilateral((2, 3), 7, image[:, :, 0]),
    ]
    for case in cases:
        np.testing.assert_allclose(case(our_utils), case(their_utils), rtol=1e-5, atol=1e-5)
    with pytest.warns(DeprecationWarning, match="unary_from_softmax"):
        our_utils.softmax_to_unary(p)
    with pytest.warns(DeprecationWarning, match="unary_from_labels"):
        our_utils.compute_unary(labels, C)


def test_unaries_alone_are_their_soft_max() -> None:
    p, _ = unary()
    d = ours.DenseCRF2D(W, H, C)
    d.setUnary(ours.ConstUnary(our_utils.unary_from_softmax(p, clip=None)))
    np.testing.assert_allclose(d.inference(5), p.reshape(C, -1), atol=1e-5)
    weights, features = np.eye(C, dtype=np.float32), our_utils.unary_from_softmax(p, clip=None)
    d.setUnary(ours.LogisticUnary(weights, features))
    np.testing.assert_allclose(d.inference(5), p.reshape(C, -1), atol=1e-5)


def test_wrong_shapes_and_types_are_refused() -> None:
    p, image = unary()
    d = ours.DenseCRF2D(W, H, C)
    with pytest.raises(CrfError, match="setUnaryEnergy first"):
        d.inference(1)
    energy = our_utils.unary_from_softmax(p)
    with pytest.raises(ValueError, match="Bad shape for unary energy"):
        d.setUnaryEnergy(energy[:, 1:])
    with pytest.raises(ValueError, match="float32"):
        d.setUnaryEnergy(energy.astype(np.float64))
    with pytest.raises(ValueError, match="Bad shape for pairwise bilateral"):
        d.addPairwiseBilateral(sxy=3, srgb=3, rgbim=image[1:], compat=3)
    with pytest.raises(ValueError, match="Bad shape for pairwise energy"):
        d.addPairwiseEnergy(np.zeros((2, 5), np.float32), compat=3)
    with pytest.raises(ValueError, match="Bad shape for compat"):
        d.addPairwiseGaussian(sxy=3, compat=np.zeros(C + 1, np.float32))
