"""The CRF: equal to the oracle and the reference, on every path, and honest about what it cannot take."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import threading
import time
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from benchmarks.crf import reference_available, run_reference
from streamseg import crf
from streamseg.crf.native import InstructionSet, _library, best_instruction_set
from streamseg.crf.params import make_job
from streamseg.errors import CrfError
from tests.crf_scenes import agreement, scene
from tests.oracles import mean_field as oracle
from tests.oracles.exact import exact_mean_field
from tests.waiting import LIMIT_S

needs_library = pytest.mark.skipif(not crf.native_available(), reason=crf.native_missing_reason())
PARAMS = crf.preset("deeplab-largefov")
NARROW = crf.preset("deeplab-v2-resnet101")
CLOSE = 1e-4


def test_probabilities_sum_to_one_and_belong_to_the_caller() -> None:
    logits, image, _ = scene(50, 70, 7)
    q = crf.mean_field(logits, image, PARAMS)
    assert q.shape == (7, 50, 70)
    assert q.dtype == np.float32
    np.testing.assert_allclose(q.sum(0), 1.0, atol=1e-5)
    q[:] = 0  # writable, and nothing else looks at it


@pytest.mark.slow
def test_the_lattice_agrees_with_the_oracle_as_well_as_the_reference_does() -> None:
    ours, theirs = [], []
    for seed in range(4):
        logits, image, _ = scene(64, 64, 6, seed)
        exact = exact_mean_field(logits, image, PARAMS)
        q = crf.mean_field(logits, image, PARAMS)
        ours.append(agreement(q, exact))
        if reference_available():
            job = make_job(logits, image, PARAMS)
            theirs.append(agreement(run_reference(job), exact))
    assert min(ours) > 0.97
    if theirs:
        assert np.mean(ours) >= np.mean(theirs) - 0.002


@pytest.mark.parametrize("params", [PARAMS, NARROW], ids=["v1", "v2"])
def test_exact_quality_equals_pydensecrf(params: crf.CrfParams) -> None:
    pytest.importorskip("pydensecrf.densecrf")
    logits, image, _ = scene(120, 160, 11)
    expected = run_reference(make_job(logits, image, params))
    q = crf.mean_field(logits, image, params)
    assert agreement(q, expected) >= 0.9999
    assert np.abs(q - expected).mean() < 1e-3


@needs_library
@pytest.mark.parametrize("classes", [1, 2, 5, 16, 17, 33, 70])
def test_any_number_of_classes_equals_the_numpy_path(classes: int) -> None:
    logits, image, _ = scene(24, 31, classes)
    q = crf.mean_field(logits, image, PARAMS)
    expected = oracle.run(make_job(logits, image, PARAMS)).probabilities
    np.testing.assert_allclose(q, expected, atol=CLOSE)


@needs_library
@pytest.mark.parametrize("normalisation", crf.Normalisation)
@pytest.mark.parametrize("compatibility", ["potts", "per class", "matrix"])
def test_every_normalisation_and_compatibility_equals_the_numpy_path(
    normalisation: crf.Normalisation, compatibility: str
) -> None:
    logits, image, _ = scene(30, 34, 5)
    given: Any = {
        "potts": None,
        "per class": tuple(np.linspace(0.5, 1.5, 5)),
        "matrix": tuple(map(tuple, np.abs(np.subtract.outer(np.arange(5.0), np.arange(5.0))) / 4)),
    }[compatibility]
    small = 0.02 if normalisation == crf.Normalisation.NONE else 1.0
    params = msgspec.structs.replace(
        PARAMS,
        normalisation=normalisation,
        compatibility=given,
        smoothness_weight=3 * small,
        appearance_weight=4 * small,
    )
    for quality in crf.QUALITIES:
        for stride in (1, 2):
            options: Any = {"quality": quality, "out_stride": stride}
            want: Any = {"probabilities": True, "log_probabilities": True, "labels": True}
            ours = crf.mean_field_outputs(logits, image, params, **options, **want)
            theirs = oracle.run(make_job(logits, image, params, **options, **want))
            assert ours.probabilities is not None
            assert ours.labels is not None
            np.testing.assert_allclose(ours.probabilities, theirs.probabilities, atol=CLOSE)
            np.testing.assert_allclose(ours.log_probabilities, theirs.log_probabilities, atol=1e-3)
            assert (ours.labels == ours.probabilities.argmax(0)).all()


@needs_library
@pytest.mark.parametrize("channels", [1, 2, 4, 7, 11])
@pytest.mark.parametrize("kind", [np.uint8, np.float32])
def test_any_number_of_channels_equals_the_numpy_path(channels: int, kind: Any) -> None:
    logits, image, _ = scene(20, 26, 4)
    wide = np.concatenate([image] * 4, axis=2)[:, :, :channels].astype(kind)
    params = msgspec.structs.replace(PARAMS, appearance_sigma_rgb=tuple(10.0 + c for c in range(channels)))
    q = crf.mean_field(logits, wide, params)
    np.testing.assert_allclose(q, oracle.run(make_job(logits, wide, params)).probabilities, atol=CLOSE)


@needs_library
def test_several_terms_with_features_of_their_own_equal_the_oracle() -> None:
    logits, image, _ = scene(20, 20, 3)
    depth = np.linspace(0, 3, 400, dtype=np.float32)[None]
    terms = [
        crf.PairwiseTerm(1.0, 3.0),
        crf.PairwiseTerm(2.0, (8.0, 4.0), 20.0),
        crf.PairwiseTerm(1.5, features=depth, normalisation=crf.Normalisation.AFTER),
    ]
    q = crf.mean_field(logits, image, terms, iterations=5)
    np.testing.assert_allclose(
        q, oracle.run(make_job(logits, image, terms, iterations=5)).probabilities, atol=CLOSE
    )
    assert np.abs(q - exact_mean_field(logits, image, terms, 5)).mean() < 0.01


@needs_library
def test_instruction_sets_agree_and_threads_are_equal_to_the_bit() -> None:
    logits, image, _ = scene(90, 120, 11)
    sets: list[InstructionSet] = ["portable", "avx2", "avx512"]
    best = sets.index(best_instruction_set())
    with crf.Workspace() as space:
        one = space.run(make_job(logits, image, PARAMS)).probabilities
        assert one is not None
        for name in sets[: best + 1]:
            other = space.run(make_job(logits, image, PARAMS), name).probabilities
            np.testing.assert_allclose(other, one, atol=1e-3)
            assert space.stats is not None
            assert space.stats.instruction_set == name
    for quality in crf.QUALITIES:
        single = crf.mean_field(logits, image, PARAMS, quality=quality, threads=1)
        np.testing.assert_array_equal(
            crf.mean_field(logits, image, PARAMS, quality=quality, threads=2), single
        )
        np.testing.assert_allclose(
            crf.mean_field(logits, image, PARAMS, quality=quality, threads=5), single, atol=1e-3
        )


@needs_library
def test_a_workspace_changes_nothing_whatever_it_did_before() -> None:
    cases = [scene(h, w, c, seed=h) for h, w, c in ((40, 60, 5), (33, 47, 12), (40, 60, 5), (7, 5, 40))]
    with crf.Workspace() as space:
        for params in (PARAMS, NARROW, msgspec.structs.replace(PARAMS, iterations=1)):
            for logits, image, _ in cases:
                for threads in (1, 3):
                    for quality in ("exact", "fast"):
                        options: Any = {"quality": quality, "threads": threads}
                        kept = crf.mean_field(logits, image, params, workspace=space, **options)
                        np.testing.assert_array_equal(kept, crf.mean_field(logits, image, params, **options))


def test_reduced_qualities_stay_near_exact_and_take_the_networks_own_stride() -> None:
    logits, image, labels = scene(120, 160, 6)
    exact = crf.mean_field(logits, image, PARAMS)
    small = np.ascontiguousarray(logits[:, 3::8, 3::8])
    for quality, least in (("balanced", 0.98), ("fast", 0.95)):
        q = crf.mean_field(logits, image, PARAMS, quality=quality)  # type: ignore[arg-type]
        assert agreement(q, exact) > least
        from_small = crf.mean_field(small, image, PARAMS, quality=quality)  # type: ignore[arg-type]
        assert (from_small.argmax(0) == labels).mean() > 0.9


def test_it_mends_a_noisy_labelling_along_edges_of_the_picture() -> None:
    logits, image, labels = scene(96, 96, 5)
    before = (logits.argmax(0) == labels).mean()
    after = (crf.mean_field(logits, image, PARAMS).argmax(0) == labels).mean()
    assert after > before + 0.02


def test_impossible_and_certain_classes_are_taken() -> None:
    logits, image, _ = scene(16, 16, 3)
    logits[0] = -np.inf
    logits[1, 3, 3] = 1e6
    q = crf.mean_field(logits, image, PARAMS)
    assert q[0].max() == pytest.approx(0.0, abs=1e-6)
    assert q[1, 3, 3] == pytest.approx(1.0)


@needs_library
def test_wrong_arrays_are_refused_with_a_sentence() -> None:
    logits, image, _ = scene(16, 16, 3)
    nan = logits.copy()
    nan[1, 5, 5] = np.nan
    full_of = np.full_like(logits, -np.inf)
    bright = image.astype(np.float32)
    bright[0, 0, 0] = np.inf
    fine = msgspec.structs.replace(PARAMS, appearance_sigma_xy=1e-9)
    cases: list[tuple[str, Any, Any, Any]] = [
        ("NaN", nan, image, PARAMS),
        ("NaN or infinity", full_of, image, PARAMS),
        ("NaN or infinity", logits, bright, PARAMS),
        ("too large", logits, image, fine),
        ("larger than the picture", logits, image[:8], PARAMS),
        (r"must be \(C, h, w\); is", logits[0], image, PARAMS),
        ("uint8 or float32", logits, image.astype(np.int64), PARAMS),
        ("above 0", logits, image, msgspec.structs.replace(PARAMS, smoothness_sigma=-1)),
        ("does not fit 3 classes", logits, image, msgspec.structs.replace(PARAMS, compatibility=(1.0, 2.0))),
        ("3 channels", logits, image, msgspec.structs.replace(PARAMS, appearance_sigma_rgb=(1.0, 2.0))),
        ("pairwise terms", logits, image, []),
    ]
    for sentence, scores, picture, params in cases:
        with pytest.raises(CrfError, match=sentence):
            crf.mean_field(scores, picture, params)
    with pytest.raises(CrfError, match="must be one of exact, balanced, fast; is 'best'"):
        crf.mean_field(logits, image, PARAMS, quality="best")  # type: ignore[arg-type]
    with pytest.raises(CrfError, match="ask for probabilities, log_probabilities or labels"):
        crf.mean_field_outputs(logits, image, PARAMS)


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}.so is in none of /here")

    monkeypatch.setattr("streamseg.crf.native.load_library", missing)
    crf.native_missing_reason.cache_clear()
    _library.cache_clear()
    try:
        logits, image, _ = scene(16, 16, 3)
        with pytest.raises(
            CrfError, match=r"the compiled CRF is missing; install a C\+\+ compiler .*_crf.so"
        ):
            crf.mean_field(logits, image, PARAMS)
        assert not crf.native_available()
    finally:
        crf.native_missing_reason.cache_clear()
        _library.cache_clear()


@needs_library
def test_memory_that_cannot_be_had_is_a_memory_error() -> None:
    code = """
import resource
import numpy as np
from streamseg import crf
logits = np.zeros((3000, 8, 8), np.float32)
image = np.zeros((1024, 1024, 1), np.uint8)
crf.mean_field_outputs(logits[:2], image[:8, :8], crf.PRESETS["deeplab"], labels=True)
resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
try:
    crf.mean_field_outputs(logits, image, crf.PRESETS["deeplab"], out_stride=8, log_probabilities=True)
except MemoryError as error:
    print("refused:", error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT_S, check=False
    )
    assert "refused: CRF on 3000 classes, 1024x1024: out of memory" in done.stdout, done.stderr


@needs_library
def test_another_python_thread_runs_while_it_runs() -> None:
    logits, image, _ = scene(240, 320, 11)
    stop, beats = threading.Event(), 0

    def beat() -> None:
        nonlocal beats
        while not stop.is_set():
            beats += 1
            time.sleep(0)

    with crf.Workspace() as space:
        crf.mean_field(logits, image, PARAMS, workspace=space)
        thread = threading.Thread(target=beat)
        thread.start()
        try:
            counts = []
            for _ in range(5):
                before = beats
                crf.mean_field(logits, image, PARAMS, workspace=space)
                counts.append(beats - before)
        finally:
            stop.set()
            thread.join()
    # A call that held the GIL would let the other thread beat only at its very ends.
    assert max(counts) > 100


@needs_library
def test_repeated_calls_over_changing_sizes_do_not_grow_memory() -> None:
    process = psutil.Process(os.getpid())
    rng = np.random.default_rng(0)
    sizes = [(int(h), int(w), int(c)) for h, w, c in rng.integers((8, 8, 2), (64, 64, 20), (25, 3))]
    with crf.Workspace() as space:

        def round_of_calls() -> None:
            for h, w, c in sizes:
                logits, image, _ = scene(h, w, c)
                crf.mean_field(logits, image, PARAMS, iterations=2, workspace=space, threads=1 + h % 2)
                crf.mean_field(logits, image, PARAMS, iterations=1, quality="fast")

        def grown() -> int:
            gc.collect()
            before = process.memory_info().rss
            for _ in range(4):
                round_of_calls()
            gc.collect()
            return process.memory_info().rss - before

        round_of_calls()
        round_of_calls()
        # A leak grows each time; what else this process has may do so once.
        assert any(grown() < 8 << 20 for _ in range(3))


def test_presets_hold_the_released_models_parameters() -> None:
    assert crf.preset("deeplab-msc-coco-largefov").appearance_sigma_xy == 59
    table = {
        "deeplab": (5, 50, 10, 3, 3),
        "deeplab-msc": (3, 95, 3, 3, 3),
        "deeplab-largefov": (4, 121, 5, 3, 3),
        "deeplab-msc-largefov": (4, 83, 5, 3, 3),
        "deeplab-coco-largefov": (5, 69, 5, 3, 3),
        "deeplab-msc-coco-largefov": (4, 59, 5, 3, 3),
        "deeplab-v2-vgg16": (4, 65, 3, 2, 2),
        "deeplab-v2-resnet101": (4, 67, 3, 3, 1),
    }
    for name, (w1, xy, rgb, w2, smooth) in table.items():
        p = crf.preset(name)
        assert (p.appearance_weight, p.appearance_sigma_xy, p.appearance_sigma_rgb) == (w1, xy, rgb)
        assert (p.smoothness_weight, p.smoothness_sigma, p.iterations) == (w2, smooth, 10)
    assert "camvid" in crf.PRESETS
    with pytest.raises(CrfError, match="did you mean 'deeplab-msc'"):
        crf.preset("deeplab-mcs")


def test_threads_that_share_a_workspace_get_what_each_would_alone() -> None:
    logits, image, _ = scene(40, 52, 4)
    params = crf.CrfParams()
    wanted = [crf.mean_field(logits, image, params, iterations=n) for n in range(1, 5)]
    found: dict[int, list[Any]] = {n: [] for n in range(4)}
    with crf.Workspace() as space:

        def work(n: int) -> None:
            for _ in range(10):
                found[n].append(crf.mean_field(logits, image, params, iterations=n + 1, workspace=space))

        threads = [threading.Thread(target=work, args=(n,)) for n in found]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for n, results in found.items():
        assert len(results) == 10
        for result in results:
            np.testing.assert_array_equal(result, wanted[n])
    with pytest.raises(CrfError, match="closed"):
        crf.mean_field(logits, image, params, workspace=space)
