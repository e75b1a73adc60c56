"""What doctor says of TensorRT: whether it is there, what it can do without a GPU, and what to install."""

from __future__ import annotations

import pytest

from streamseg.cli.doctor import Finding, examine
from streamseg.inference.backends.device import cuda_missing

no_gpu = pytest.mark.skipif(cuda_missing() is None, reason="there is a GPU here")


def findings() -> dict[str, Finding]:
    return {finding.what: finding for finding in examine()}


def test_a_library_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = findings()
    for name in ("tensorrt", "tensorrt-rtx"):
        assert not found[name].ok
        assert f"pip install 'streamseg[{name}]'" in found[name].found


@no_gpu
def test_without_a_gpu_tensorrt_rtx_still_builds_for_other_machines() -> None:
    pytest.importorskip("tensorrt_rtx")
    found = findings()["tensorrt-rtx"]
    assert found.found.startswith("builds plans for other machines; does not run here: no NVIDIA driver")
