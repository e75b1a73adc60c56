"""Whatever the sizes, classes and parameters: the library does what NumPy does."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamseg import crf
from streamseg.crf.params import Job, make_job
from tests.crf_scenes import scene
from tests.oracles import mean_field as oracle

pytestmark = pytest.mark.skipif(not crf.native_available(), reason=crf.native_missing_reason())

sigmas = st.floats(0.6, 80)


@settings(max_examples=40, deadline=None)
@given(
    size=st.tuples(st.integers(1, 25), st.integers(1, 25)),
    classes=st.integers(1, 20),
    quality=st.sampled_from(list(crf.QUALITIES)),
    out_stride=st.sampled_from([1, 2, 4]),
    threads=st.integers(1, 4),
    iterations=st.integers(0, 3),
    smooth=sigmas,
    xy=sigmas,
    rgb=st.floats(2, 60),
    shrink=st.integers(1, 4),
)
def test_the_library_does_what_numpy_does(
    size: tuple[int, int], classes: int, smooth: float, xy: float, rgb: float, shrink: int, **options: Any
) -> None:
    logits, image, _ = scene(*size, classes)
    small = np.ascontiguousarray(logits[:, ::shrink, ::shrink])

    def job(nearly: float) -> Job:
        params = crf.CrfParams(
            smoothness_sigma=smooth * nearly,
            appearance_sigma_xy=xy * nearly,
            appearance_sigma_rgb=rgb * nearly,
            smoothness_weight=1.5,
        )
        return make_job(small, image, params, **options)

    with crf.Workspace() as space:
        ours = space.run(job(1)).probabilities
    assert ours is not None
    # A vector on the border of two simplices may fall on either side, where a point is missing that tells:
    # NumPy's own result then changes with a sigma's last digits.
    theirs = np.stack(
        [q for e in (0, -1e-5, -1e-6, 1e-6, 1e-5) if (q := oracle.run(job(1 + e)).probabilities) is not None]
    )
    assert len(theirs) == 5
    assert np.quantile(np.abs(ours - theirs).min(0), 0.98) < 1e-3
    np.testing.assert_allclose(ours.sum(0), 1.0, atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    size=st.tuples(st.integers(2, 20), st.integers(2, 20)), classes=st.integers(2, 6), seed=st.integers(0, 99)
)
def test_classes_may_be_renamed(size: tuple[int, int], classes: int, seed: int) -> None:
    logits, image, _ = scene(*size, classes, seed)
    order = np.random.default_rng(seed).permutation(classes)
    q = crf.mean_field(logits, image, crf.preset("camvid"))
    renamed = crf.mean_field(np.ascontiguousarray(logits[order]), image, crf.preset("camvid"))
    np.testing.assert_allclose(renamed, q[order], atol=1e-4)
