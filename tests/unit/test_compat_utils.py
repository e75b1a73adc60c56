"""pydensecrf.utils: the same arrays for the same arguments, and a refusal of what cannot be meant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import streamseg.crf.compat.utils as ours
from streamseg.errors import CrfError

theirs = pytest.importorskip("pydensecrf.utils")

RANDOM = np.random.default_rng(0)
P = RANDOM.dirichlet(np.ones(5), (12, 16)).transpose(2, 0, 1).astype(np.float32)
IMAGE = RANDOM.integers(0, 256, (12, 16, 3)).astype(np.uint8)
VOLUME = RANDOM.normal(size=(2, 6, 7, 8)).astype(np.float32)
LABELS = P.argmax(0)


def test_every_function_of_pydensecrf_is_there() -> None:
    functions = {n for n in dir(theirs) if getattr(getattr(theirs, n), "__module__", "") == theirs.__name__}
    assert {n for n in functions if not n.startswith("_")} <= set(dir(ours))


@pytest.mark.parametrize(
    "call",
    [
        lambda u: u.unary_from_labels(LABELS, 5, 0.6, zero_unsure=False),
        lambda u: u.unary_from_labels(LABELS, 4, 0.6),
        lambda u: u.unary_from_labels(LABELS.astype(np.int16), 7, 0.2),
        lambda u: u.unary_from_softmax(P),
        lambda u: u.unary_from_softmax(P, scale=0.5, clip=None),
        lambda u: u.unary_from_softmax(P.astype(np.float64), scale=0.9, clip=0.1),
        lambda u: u.unary_from_softmax(np.eye(3), clip=0),
        lambda u: u.create_pairwise_gaussian((2, 3), (12, 16)),
        lambda u: u.create_pairwise_gaussian((2, 3, 0.5), (4, 5, 6)),
        lambda u: u.create_pairwise_gaussian((2,), (4, 6)),
        lambda u: u.create_pairwise_bilateral((2, 3), (4, 5, 6), IMAGE, chdim=2),
        lambda u: u.create_pairwise_bilateral((2, 3), 7, IMAGE, chdim=2),
        lambda u: u.create_pairwise_bilateral((2, 3), np.float32(7), IMAGE, chdim=2),
        lambda u: u.create_pairwise_bilateral((2, 3), 7, IMAGE[:, :, 0]),
        lambda u: u.create_pairwise_bilateral((2, 3), (20,), IMAGE, chdim=2),
        lambda u: u.create_pairwise_bilateral((2, 3), (0.01,), IMAGE, chdim=2),
        lambda u: u.create_pairwise_bilateral((2, 3), (20, 30), IMAGE, chdim=2),
        lambda u: u.create_pairwise_bilateral((10,), np.array([20, 20, 20]), IMAGE, chdim=2),
        lambda u: u.create_pairwise_bilateral((10,), (), IMAGE, chdim=2),
        lambda u: u.create_pairwise_bilateral((2, 3), (20,), np.moveaxis(IMAGE, 2, 0), chdim=0),
        lambda u: u.create_pairwise_bilateral((2, 3, 4), (0.5, 2), VOLUME, chdim=0),
        lambda u: u.create_pairwise_bilateral((2, 3), (0.5,), VOLUME, chdim=0),
    ],
)
def test_utilities_give_the_same_arrays(call: Callable[[Any], Any]) -> None:
    with np.errstate(divide="ignore"):
        wanted = call(theirs)
    found = call(ours)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_old_names_work_and_say_so() -> None:
    with pytest.warns(DeprecationWarning, match="unary_from_softmax"):
        np.testing.assert_array_equal(ours.softmax_to_unary(P, 0.9), ours.unary_from_softmax(P, 0.9, None))
    with pytest.warns(DeprecationWarning, match="unary_from_labels"):
        np.testing.assert_array_equal(ours.compute_unary(LABELS, 5), ours.unary_from_labels(LABELS, 5, 0.5))


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("labels: must be 0 to 3", lambda: ours.unary_from_labels(np.array([0, 9]), 3, 0.7)),
        ("labels: must be 0 to 2", lambda: ours.unary_from_labels(np.array([3]), 3, 0.7, zero_unsure=False)),
        ("labels: must be 0 to 2", lambda: ours.unary_from_labels(np.array([-1]), 3, 0.7, False)),
        ("whole numbers; are float64", lambda: ours.unary_from_labels(np.array([1.0]), 3, 0.7)),
        ("labels: must be an array", lambda: ours.unary_from_labels([0, 1], 3, 0.7)),  # type: ignore[arg-type]
        ("n_labels: must be 2 to", lambda: ours.unary_from_labels(np.array([1]), 1, 0.7)),
        ("gt_prob: must lie between", lambda: ours.unary_from_labels(LABELS, 5, 1)),
        ("0 or more; the least is nan", lambda: ours.unary_from_softmax(np.full((3, 4), np.nan))),
        ("0 or more; the least is -1", lambda: ours.unary_from_softmax(np.full((3, 4), -1.0), clip=None)),
        ("scale: must be above 0", lambda: ours.unary_from_softmax(P, scale=0)),
        ("clip: must be 0 to 1", lambda: ours.unary_from_softmax(P, clip=2)),
        ("3 widths for 2 dimensions", lambda: ours.create_pairwise_bilateral((1, 1, 1), 1, IMAGE, 2)),
        ("4 widths for 3 channels", lambda: ours.create_pairwise_bilateral((1, 1), (1,) * 4, IMAGE, 2)),
        ("must not be 0", lambda: ours.create_pairwise_bilateral((1, 0), 1, IMAGE, 2)),
        ("must not be 0", lambda: ours.create_pairwise_bilateral((1, 1), 0, IMAGE, 2)),
        ("schan: must be a sequence", lambda: ours.create_pairwise_bilateral((1, 1), None, IMAGE, 2)),  # type: ignore[arg-type]
        ("sdims: must be a sequence", lambda: ours.create_pairwise_gaussian(3, (4, 5))),  # type: ignore[arg-type]
        ("chdim: must be -3 to 2", lambda: ours.create_pairwise_bilateral((1, 1), 1, IMAGE, 3)),
        ("img: holds NaN", lambda: ours.create_pairwise_bilateral((1, 1), 1, IMAGE * np.nan, 2)),
        ("3 widths for 2 dimensions", lambda: ours.create_pairwise_gaussian((1, 1, 1), (4, 5))),
        ("2 for 3 dimensions", lambda: ours.create_pairwise_gaussian((1, 1), (3, 3, 3))),
        ("shape: must be", lambda: ours.create_pairwise_gaussian((1, 1), (4, 0))),
    ],
)
def test_what_cannot_be_meant_is_refused(words: str, call: Callable[[], Any]) -> None:
    with pytest.raises(CrfError, match=words):
        call()


@pytest.mark.parametrize("wrong", [np.zeros((40, 40)), "x" * 4000, {"a": [1] * 500}, [np.zeros(3)] * 90])
def test_a_wrong_argument_is_shown_in_one_short_line(wrong: Any) -> None:
    for call in (
        lambda: ours.create_pairwise_gaussian(wrong, (4, 5)),
        lambda: ours.create_pairwise_gaussian((1, 1), wrong),
        lambda: ours.unary_from_labels(np.zeros((4, 5), int), wrong, 0.5),
    ):
        with pytest.raises((CrfError, TypeError, ValueError)) as found:
            call()
        assert len(str(found.value)) < 200
        assert "\n" not in str(found.value)
