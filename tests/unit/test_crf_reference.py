"""pydensecrf in a process of its own: the same results, and a child that dies is replaced."""

from __future__ import annotations

import dataclasses
import time

import numpy as np
import psutil
import pytest

from streamseg import crf
from streamseg.crf.reference import ReferenceCrf
from streamseg.errors import CrfError
from tests.crf_scenes import scene

pytest.importorskip("pydensecrf.densecrf")
PARAMS = crf.CrfParams(iterations=3)


def test_it_gives_what_exact_gives_and_survives_a_killed_child() -> None:
    logits, image, _ = scene(30, 40, 4)
    expected = crf.mean_field(logits, image, PARAMS)
    with ReferenceCrf() as reference:
        np.testing.assert_allclose(reference.mean_field(logits, image, PARAMS), expected, atol=1e-3)
        first = reference.pid
        assert first is not None
        psutil.Process(first).kill()
        np.testing.assert_allclose(reference.mean_field(logits, image, PARAMS), expected, atol=1e-3)
        assert reference.pid != first
        assert reference.restarts == 1
        second = reference.pid
        small = np.ascontiguousarray(logits[:, ::2, ::2])
        per_class = dataclasses.replace(PARAMS, compatibility=(0.5, 1.0, 1.5, 2.0))
        np.testing.assert_allclose(
            reference.mean_field(small, image, per_class),
            crf.mean_field(small, image, per_class),
            atol=1e-3,
        )
        with pytest.raises(CrfError, match="RGB"):
            reference.mean_field(logits, image[:, :, :1], PARAMS)
    assert second is not None
    deadline = time.monotonic() + 10
    while psutil.pid_exists(second) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not psutil.pid_exists(second)
    reference.close()


def test_a_child_that_overruns_its_time_is_replaced_and_said() -> None:
    logits, image, _ = scene(30, 40, 4)
    with ReferenceCrf(timeout_s=0.0) as reference:
        with pytest.raises(CrfError, match="failed twice"):
            reference.mean_field(logits, image, PARAMS)
        assert reference.restarts == 2
        assert reference.pid is None
