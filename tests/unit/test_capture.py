"""Each network can be recorded as a CUDA graph: it touches no memory of the host and waits for nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from tests.narrow import NARROW, TYPICAL, narrow_engine  # noqa: E402
from tools.device.checks.capture import PRECISIONS, check, operations_of  # noqa: E402

pytest.importorskip("onnxscript")


@pytest.mark.slow  # they are exported first, which takes seconds
@pytest.mark.parametrize("name", TYPICAL)
def test_a_network_is_recordable_in_each_precision(name: str) -> None:
    folder = narrow_engine(name)
    for precision in PRECISIONS:
        assert check(folder, precision, exported=False) > 40


@pytest.mark.soak
@pytest.mark.parametrize("name", [name for name in NARROW if name not in TYPICAL])
def test_every_other_network_of_the_zoo_is_recordable(name: str) -> None:
    assert check(narrow_engine(name), "bf16", exported=False) > 40


@pytest.mark.soak  # tracing takes seconds; that of torchvision's networks, twenty
@pytest.mark.parametrize("name", ["deeplab-v1", "deeplab-v1-msc-largefov"])
def test_a_network_is_recordable_when_it_is_exported(name: str) -> None:
    assert check(narrow_engine(name), "bf16", exported=True) > 40


def test_a_bundled_engine_is_recordable_in_each_precision() -> None:
    for precision in PRECISIONS:
        assert check(Path("engines/camvid-slim"), precision, exported=False) > 40


@pytest.mark.slow  # because of tracing
def test_a_bundled_engine_is_recordable_when_it_is_exported() -> None:
    assert check(Path("engines/camvid-slim"), "bf16", exported=True) > 40


@pytest.mark.parametrize(
    "unsafe",
    [
        lambda x: x * float(x.max()),
        lambda x: x[x > 3],
        lambda x: x.nonzero(),
        lambda x: x + torch.tensor([1, 2, 3]),
        lambda x: x + torch.arange(3),
        lambda x: x.cpu().float(),
        lambda x: x if x.sum() > 0 else -x,
    ],
    ids=["a number", "a mask", "nonzero", "a list", "a range of the host", "a copy", "a condition"],
)
def test_what_reads_numbers_or_takes_data_of_the_host_is_refused(unsafe: Callable[[Any], Any]) -> None:
    with pytest.raises((RuntimeError, NotImplementedError)):
        operations_of(unsafe, (1, 4, 6, 3))


def test_what_stays_on_the_gpu_is_not() -> None:
    assert operations_of(lambda x: (x.float() + torch.arange(3, device=x.device)).sum(3), (1, 4, 6, 3)) >= 4
