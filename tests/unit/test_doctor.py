"""What doctor says of TensorRT: whether it is there, what it can do without a GPU, and what to install."""

from __future__ import annotations

import re

import pytest

from streamseg.cli.doctor import Finding, examine
from streamseg.inference.backends.device import cuda_missing

no_gpu = pytest.mark.skipif(cuda_missing() is None, reason="there is a GPU here")


def findings() -> dict[str, Finding]:
    return {finding.what: finding for finding in examine()}


def without_measuring(monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    monkeypatch.setattr("streamseg.bench.rough.rough_capacity", lambda: "")
    return findings()


def test_a_library_that_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    found = without_measuring(monkeypatch)
    for name in ("tensorrt", "tensorrt-rtx"):
        assert not found[name].ok
        assert f"pip install 'streamseg[{name}]'" in found[name].found


@no_gpu
def test_without_a_gpu_tensorrt_rtx_still_builds_for_other_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx")
    found = without_measuring(monkeypatch)["tensorrt-rtx"]
    assert found.found.startswith("builds plans for other machines; does not run here: no NVIDIA driver")


def test_it_says_how_many_streams_this_machine_holds() -> None:
    found = findings()["capacity"]
    assert found.ok
    assert re.fullmatch(r"about \d+ streams of 480x360 at 8 fps \(camvid-lite/\S+, \d+ cores\)", found.found)
