"""What pydensecrf's callers hand in, checked at the call that is wrong."""

from __future__ import annotations

import operator
from numbers import Number
from typing import Any

import numpy as np
import numpy.typing as npt

from streamseg.errors import CrfError
from streamseg.types import F32


class WrongType(CrfError, TypeError):
    """An argument that is no array or no number; pydensecrf raises TypeError."""


def shown(given: Any) -> str:
    """A wrong argument in one short line."""
    if isinstance(given, np.ndarray):
        return f"an array of {given.shape} {given.dtype}"
    text = " ".join(repr(given).split())
    return text if len(text) <= 80 else text[:77] + "..."


def array(given: Any, what: str) -> npt.NDArray[Any]:
    """Anything that holds an array in one piece of memory, without a copy; no list, as in pydensecrf."""
    if isinstance(given, np.ndarray):
        return given
    try:
        return np.asarray(given if hasattr(given, "__array__") else memoryview(given))
    except (TypeError, ValueError):
        raise WrongType(f"{what}: must be an array; is {type(given).__name__}") from None


def matrix(given: Any, what: str) -> F32:
    """(rows, columns) float32, not empty, as it is: the caller's memory."""
    found = array(given, what)
    if found.dtype != np.float32:
        raise CrfError(f"{what}: must be float32; is {found.dtype}")
    if found.ndim != 2 or 0 in found.shape:
        raise CrfError(f"{what}: must be (rows, columns); is {found.shape}")
    return found


def whole(given: Any, what: str, least: int, most: int) -> int:
    """A whole number within bounds, of any integer type."""
    try:
        number = operator.index(given)
    except TypeError:
        raise WrongType(f"{what}: must be a whole number; is {shown(given)}") from None
    if not least <= number <= most:
        raise CrfError(f"{what}: must be {least} to {most}; is {number}")
    return number


def real(given: Any, what: str) -> float:
    """A finite number."""
    if isinstance(given, str | bytes) or not hasattr(given, "__float__"):
        raise WrongType(f"{what}: must be a number; is {shown(given)}")
    try:
        number = float(given)
    except (TypeError, ValueError):
        raise WrongType(f"{what}: must be a number; is {shown(given)}") from None
    if not np.isfinite(number):
        raise CrfError(f"{what}: must be finite; is {number}")
    return number


def widths(given: Any, what: str, count: int) -> tuple[float, ...]:
    """`count` widths above 0: one number for all, or one for each."""
    if isinstance(given, Number):
        numbers = (real(given, what),) * count
    else:
        try:
            numbers = tuple(real(one, what) for one in given)
        except TypeError:
            raise WrongType(f"{what}: must be a number or {count} numbers; is {shown(given)}") from None
    if len(numbers) != count:
        raise CrfError(f"{what}: must be one number or {count}; {len(numbers)} given")
    if min(numbers) <= 0:
        raise CrfError(f"{what}: must be above 0; is {given}")
    return numbers
