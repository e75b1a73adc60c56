"""pydensecrf's interface: the calls of its examples give its results, with one import changed."""

from __future__ import annotations

import threading
from collections.abc import Callable
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


def test_unaries_alone_are_their_soft_max() -> None:
    p, _ = unary()
    d = ours.DenseCRF2D(W, H, C)
    d.setUnary(ours.ConstUnary(our_utils.unary_from_softmax(p, clip=None)))
    np.testing.assert_allclose(d.inference(5), p.reshape(C, -1), atol=1e-5)
    weights, features = np.eye(C, dtype=np.float32), our_utils.unary_from_softmax(p, clip=None)
    d.setUnary(ours.LogisticUnary(weights, features))
    np.testing.assert_allclose(d.inference(5), p.reshape(C, -1), atol=1e-5)


def results_of(add: Callable[[Any], None], labels: int = 3, variables: int = 400) -> list[Any]:
    """Three iterations of both, over the same random unary."""
    energy = np.random.default_rng(2).uniform(0, 3, (labels, variables)).astype(np.float32)
    results = []
    for module in (ours, theirs):
        d = module.DenseCRF(variables, labels)
        d.setUnaryEnergy(energy)
        add(d)
        results.append(np.array(d.inference(3)))
    return results


@pytest.mark.parametrize(("dims", "labels"), [(15, 3), (16, 3), (17, 40), (24, 3), (64, 3)])
@pytest.mark.parametrize("spread", [0.02, 0.3])
def test_features_of_many_dimensions_give_the_same_map(dims: int, labels: int, spread: float) -> None:
    features = np.random.default_rng(3).normal(0, spread, (dims, 400)).astype(np.float32)
    mine, reference = results_of(lambda d: d.addPairwiseEnergy(features, compat=2), labels)
    np.testing.assert_allclose(mine, reference, atol=1e-4)


@pytest.mark.parametrize("count", [8, 9, 40])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
def test_any_number_of_terms_gives_the_same_map(count: int, normalisation: str) -> None:
    bands = np.random.default_rng(4).normal(0, 0.5, (count, 2, 400)).astype(np.float32)

    def add(d: Any) -> None:
        for band in bands:
            d.addPairwiseEnergy(band, compat=0.01, normalization=getattr(theirs, normalisation))

    mine, reference = results_of(add)
    np.testing.assert_allclose(mine, reference, atol=1e-4)


@pytest.mark.parametrize("kind", ["number", "vector", "matrix"])
def test_pairs_of_labels_can_be_forbidden(kind: str) -> None:
    matrix = (1 - np.eye(3)).astype(np.float32)
    matrix[0, 2] = matrix[2, 0] = 1e7
    compat: Any = {"number": 1e7, "vector": np.float32([-1e7, -1, -2]), "matrix": matrix}[kind]
    features = np.random.default_rng(5).normal(size=(2, 400)).astype(np.float32)
    mine, reference = results_of(lambda d: d.addPairwiseEnergy(features, compat=compat))
    np.testing.assert_allclose(mine, reference, atol=1e-4)


def test_without_a_unary_every_energy_is_0() -> None:
    results = []
    for module in (ours, theirs):
        d = module.DenseCRF2D(W, H, C)
        d.addPairwiseGaussian(sxy=3, compat=3)
        q, tmp1, tmp2 = d.startInference()
        d.stepInference(q, tmp1, tmp2)
        np.testing.assert_allclose(np.array(q), 1 / C, atol=1e-4)
        results.append([np.array(d.inference(3)), d.klDivergence(q)])
    np.testing.assert_allclose(results[0][0], results[1][0], atol=1e-4)
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-3)


def test_one_picture_a_second_one_and_one_of_many_channels_give_the_same_map() -> None:
    p, image = unary()
    other, many = image[::-1].copy(), np.concatenate([image] * 5, 2)
    features = our_utils.create_pairwise_bilateral((20, 20), 30, many, chdim=2)
    features[[0, 1]] = features[[1, 0]]  # DenseCRF2D puts x first
    results = []
    for module, utils in both():
        d = module.DenseCRF2D(W, H, C)
        d.setUnaryEnergy(utils.unary_from_softmax(p))
        d.addPairwiseBilateral(sxy=20, srgb=(9, 10, 11), rgbim=image, compat=2)
        d.addPairwiseBilateral(sxy=(15, 20), srgb=12, rgbim=other, compat=2)
        d.addPairwiseEnergy(features, compat=2)
        results.append(np.array(d.inference(3)))
    np.testing.assert_allclose(results[0], results[1], atol=1e-3)
    mine = ours.DenseCRF2D(W, H, C)
    mine.setUnaryEnergy(our_utils.unary_from_softmax(p))
    mine.addPairwiseBilateral(sxy=20, srgb=30, rgbim=many, compat=2)
    as_features = ours.DenseCRF2D(W, H, C)
    as_features.setUnaryEnergy(our_utils.unary_from_softmax(p))
    as_features.addPairwiseEnergy(features, compat=2)
    np.testing.assert_allclose(mine.inference(3), as_features.inference(3), atol=1e-3)


def test_threads_that_share_an_object_get_what_each_would_alone() -> None:
    p, image = unary()
    d = ours.DenseCRF2D(W, H, C)
    d.setUnaryEnergy(our_utils.unary_from_softmax(p))
    d.addPairwiseGaussian(3, 3)
    d.addPairwiseBilateral(20, 13, image, 5)
    wanted = {n: d.inference(n) for n in range(1, 5)}
    stepped = d.startInference()[0]
    d.stepInference(stepped)
    wrong: list[str] = []

    def work(n: int) -> None:
        for _ in range(20):
            if not np.array_equal(d.inference(n), wanted[n]):
                wrong.append(f"inference({n})")
            q = d.startInference()[0]
            d.stepInference(q)
            if not np.array_equal(q, stepped):
                wrong.append(f"stepInference beside inference({n})")

    threads = [threading.Thread(target=work, args=(n,)) for n in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_arrays_are_the_callers_again_once_handed_over() -> None:
    p, image = unary()
    energy, picture = our_utils.unary_from_softmax(p), image.copy()
    features = our_utils.create_pairwise_gaussian((3, 3), (H, W))
    d = ours.DenseCRF2D(W, H, C)
    d.setUnaryEnergy(energy)
    d.addPairwiseBilateral(20, 13, picture, 5)
    d.addPairwiseEnergy(features)
    before = d.inference(2)
    for given in (energy, picture, features):
        given[:] = 0
    np.testing.assert_array_equal(d.inference(2), before)


def crf(energy: bool = True) -> Any:
    d = ours.DenseCRF2D(8, 6, 3)
    if energy:
        d.setUnaryEnergy(np.zeros((3, 48), np.float32))
    return d


PICTURE = np.zeros((6, 8, 3), np.uint8)
NAN = np.full((3, 48), np.nan, np.float32)
ZEROS = np.zeros((3, 48), np.float32)
READ_ONLY = ZEROS.copy()
READ_ONLY.flags.writeable = False
WRONG: list[tuple[str, Callable[[], Any]]] = [
    ("nvar: must be 1 to", lambda: ours.DenseCRF(-5, 2)),
    ("nvar: must be 1 to", lambda: ours.DenseCRF2D(1 << 20, 1 << 20, 2)),
    ("w: must be a whole number", lambda: ours.DenseCRF2D(8.0, 6, 2)),  # type: ignore[arg-type]
    ("nlabels: must be 1 to", lambda: ours.DenseCRF2D(8, 6, 0)),
    ("must be a ConstUnary", lambda: crf().setUnary(ZEROS)),
    ("Bad shape for unary energy", lambda: crf().setUnary(ours.ConstUnary(ZEROS[:, 1:]))),
    ("Bad shape for unary energy", lambda: crf().setUnaryEnergy(ZEROS[:2])),
    ("must be float32; is float64", lambda: crf().setUnaryEnergy(ZEROS.astype(np.float64))),
    ("must be an array; is list", lambda: crf().setUnaryEnergy(ZEROS.tolist())),
    ("must be an array; is NoneType", lambda: crf().setUnaryEnergy(None)),
    ("unary energy: holds NaN", lambda: crf().setUnaryEnergy(NAN)),
    ("do not fit", lambda: ours.LogisticUnary(ZEROS, ZEROS)),
    ("sxy: must be above 0", lambda: crf().addPairwiseGaussian(0, 1)),
    ("sxy: must be one number or 2", lambda: crf().addPairwiseGaussian((3, 3, 3), 1)),
    ("sxy: must be a number", lambda: crf().addPairwiseGaussian("34", 1)),
    ("sxy: must be finite", lambda: crf().addPairwiseGaussian((3, np.nan), 1)),
    ("too large", lambda: crf().addPairwiseGaussian(1e-9, 1)),
    ("kernel: must be 0 to 2", lambda: crf().addPairwiseGaussian(3, 1, kernel=7)),
    ("normalization: must be 0 to 3", lambda: crf().addPairwiseGaussian(3, 1, normalization=-1)),
    ("compat: must be float32", lambda: crf().addPairwiseGaussian(3, np.ones(3))),
    ("compat: must be an array", lambda: crf().addPairwiseGaussian(3, "3")),
    ("compat: must be an array", lambda: crf().addPairwiseGaussian(3, [1.0, 2.0, 3.0])),
    ("compat: must be finite", lambda: crf().addPairwiseGaussian(3, np.inf)),
    ("compatibility is NaN", lambda: crf().addPairwiseGaussian(3, np.full(3, np.nan, np.float32))),
    ("Bad shape for compat", lambda: crf().addPairwiseGaussian(3, np.zeros(4, np.float32))),
    ("Bad shape for compat", lambda: crf().addPairwiseGaussian(3, np.zeros((3, 3, 3), np.float32))),
    ("Bad shape for pairwise bilateral", lambda: crf().addPairwiseBilateral(3, 3, PICTURE[1:], 1)),
    ("Bad shape for pairwise bilateral", lambda: crf().addPairwiseBilateral(3, 3, PICTURE[:, :, 0], 1)),
    ("rgbim: must be uint8", lambda: crf().addPairwiseBilateral(3, 3, PICTURE.astype(np.float32), 1)),
    ("srgb: must be one number or 3", lambda: crf().addPairwiseBilateral(3, (3, 3), PICTURE, 1)),
    ("Bad shape for pairwise energy", lambda: crf().addPairwiseEnergy(np.zeros((2, 5), np.float32))),
    ("features holds NaN", lambda: crf().addPairwiseEnergy(NAN)),
    ("300 features", lambda: crf().addPairwiseEnergy(np.zeros((300, 48), np.float32))),
    ("niter: must be a whole number", lambda: crf().inference(5.0)),
    ("niter: must be 0 to", lambda: crf().inference(-1)),
    ("Q: must be an array", lambda: crf().stepInference(ZEROS.tolist())),
    ("Q: must be float32", lambda: crf().stepInference(ZEROS.astype(np.float64))),
    ("read-only", lambda: crf().stepInference(READ_ONLY)),
    ("Bad shape for Q", lambda: crf().stepInference(ZEROS[:2].copy())),
    ("Q: holds NaN", lambda: crf().klDivergence(NAN)),
]


@pytest.mark.parametrize(("words", "call"), WRONG)
def test_what_is_wrong_is_refused_by_its_own_call(words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(CrfError, match=words):
        call()


@pytest.mark.parametrize("wrong", [0, 1.5, "2"])
def test_threads_are_a_whole_number_of_cores(wrong: Any) -> None:
    d = crf()
    d.threads = wrong
    with pytest.raises(CrfError, match="threads: must be"):
        d.inference(1)


def test_a_second_picture_is_held_to_the_same_rules() -> None:
    d = crf()
    d.addPairwiseBilateral(3, 3, PICTURE, 1)
    for wrong in (PICTURE + 0.5, PICTURE.astype(np.float32), PICTURE[:, 1:]):
        with pytest.raises(CrfError):
            d.addPairwiseBilateral(3, 3, wrong, 1)
    d.addPairwiseBilateral(3, 3, PICTURE + 1, 1)


def test_a_refused_term_leaves_the_object_as_it_was() -> None:
    d = crf()
    with pytest.raises(CrfError):
        d.addPairwiseBilateral(1e-9, 3, PICTURE, 1)
    np.testing.assert_allclose(d.inference(2), 1 / 3, atol=1e-6)
    for _ in range(256):
        d.addPairwiseGaussian(3, 0.001)
    with pytest.raises(CrfError, match="more than 256"):
        d.addPairwiseGaussian(3, 0.001)
    np.testing.assert_allclose(d.inference(1), 1 / 3, atol=1e-4)
