"""What pydensecrf.eigen has: vectors and matrices that are copies, here arrays like any other."""

from __future__ import annotations

from typing import Any, Self

import numpy as np

from streamseg.crf.compat.arguments import array, matrix
from streamseg.errors import CrfError


class VectorXf(np.ndarray[Any, np.dtype[np.float32]]):
    """A vector of float32, empty until something is put into it."""

    def __new__(cls) -> Self:
        return super().__new__(cls, (0,), np.float32)


class MatrixXf(np.ndarray[Any, np.dtype[np.float32]]):
    """A matrix of float32, empty until something is put into it."""

    def __new__(cls) -> Self:
        return super().__new__(cls, (0, 0), np.float32)


def vectorXf(arr: Any) -> VectorXf:
    """Copy a float32 vector."""
    found = array(arr, "vectorXf")
    if found.dtype != np.float32 or found.ndim != 1:
        raise CrfError(f"vectorXf: must be float32 of one dimension; is {found.dtype} {found.shape}")
    return found.copy().view(VectorXf)


def matrixXf(arr: Any) -> MatrixXf:
    """Copy a float32 matrix."""
    return matrix(arr, "matrixXf").copy().view(MatrixXf)
