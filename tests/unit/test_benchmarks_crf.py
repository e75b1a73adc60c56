"""The CRF's table holds every quality beside the reference."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from benchmarks.crf import CrfResult, bench_crf, reference_available
from streamseg import crf
from streamseg.errors import UsageError
from tests.crf_scenes import scene


def test_every_quality_is_timed_beside_the_reference() -> None:
    scenes = [scene(48, 64, 5, seed) for seed in range(2)]
    result = bench_crf(
        [np.ascontiguousarray(s[0][:, ::2, ::2]) for s in scenes],
        [s[1] for s in scenes],
        presets=["camvid"],
        threads=[1],
        repeats=1,
        labels=[s[2].astype(np.uint8) for s in scenes],
    )
    assert (result.size, result.classes, result.pictures) == ((48, 64), 5, 2)
    by_quality = {row.quality: row for row in result.rows}
    assert set(crf.QUALITIES) <= set(by_quality)
    exact = by_quality["exact"]
    assert exact.agreement is not None
    assert exact.agreement > 99.9
    assert all(row.ms > 0 and row.miou is not None and row.miou > 50 for row in result.rows)
    if reference_available():
        assert by_quality["pydensecrf"].factor == 1.0
        assert all(row.factor is not None and row.factor > 0 for row in result.rows)
        assert exact.mean_difference == pytest.approx(0, abs=1e-3)
    assert msgspec.json.decode(msgspec.json.encode(result), type=CrfResult) == result


def test_lists_of_different_lengths_are_refused() -> None:
    logits, image, _ = scene(16, 16, 3)
    with pytest.raises(UsageError, match="equally many"):
        bench_crf([logits], [image, image])
    with pytest.raises(UsageError, match="equally many"):
        bench_crf([], [])
