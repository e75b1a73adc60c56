"""pydensecrf.eigen: matrices and vectors are copies of float32 arrays, and nothing else is taken."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import streamseg.crf.compat.eigen as ours
from streamseg.errors import CrfError

MATRIX = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("given", [MATRIX, MATRIX.T, MATRIX[:, ::2], memoryview(MATRIX)])
def test_a_matrix_is_a_copy(given: Any) -> None:
    copy = ours.matrixXf(given)
    np.testing.assert_array_equal(np.array(copy), np.asarray(given))
    assert isinstance(copy, ours.MatrixXf)
    assert not np.shares_memory(copy, MATRIX)


def test_a_vector_is_a_copy() -> None:
    copy = ours.vectorXf(MATRIX[0])
    np.testing.assert_array_equal(np.array(copy), MATRIX[0])
    assert isinstance(copy, ours.VectorXf)
    assert not np.shares_memory(copy, MATRIX)


def test_new_ones_are_empty() -> None:
    assert ours.MatrixXf().shape == (0, 0)
    assert ours.VectorXf().shape == (0,)


@pytest.mark.parametrize("wrong", [MATRIX.astype(np.float64), MATRIX[None], MATRIX[0]])
def test_other_types_and_shapes_are_value_errors(wrong: Any) -> None:
    with pytest.raises(CrfError) as refusal:
        ours.matrixXf(wrong)
    assert isinstance(refusal.value, ValueError)


@pytest.mark.parametrize("wrong", [None, 3, [[1.0]], "abc"])
def test_what_is_no_array_is_a_type_error_too(wrong: Any) -> None:
    for call in (ours.matrixXf, ours.vectorXf):
        with pytest.raises(TypeError) as refusal:
            call(wrong)
        assert isinstance(refusal.value, CrfError)
