"""What building for a GPU takes beside torch."""

from __future__ import annotations

import importlib.machinery
import os
from pathlib import Path
from typing import Any

import pytest

from streamseg.inference.backends import aoti
from streamseg.inference.backends.device import loaded_from
from streamseg.inference.backends.protocol import backend_of

pytest.importorskip("torch")


@pytest.fixture
def nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a toolkit nor wheels of CUDA."""
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(aoti.shutil, "which", lambda name: None if name == "nvcc" else f"/usr/bin/{name}")
    monkeypatch.setattr(aoti, "TOOLKIT", "/nowhere")
    monkeypatch.setattr(aoti.importlib.util, "find_spec", lambda name: None)


def headers(folder: Path) -> Path:
    for name in ("cuda.h", "crt/host_defines.h"):
        (folder / "include" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "include" / name).touch()
    return folder


@pytest.mark.usefixtures("nothing")
def test_the_headers_are_found_where_they_are_named_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bare/include").mkdir(parents=True)
    (tmp_path / "bare/include/cuda.h").touch()
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "bare"))
    assert aoti.cuda_home() is None
    monkeypatch.setenv("CUDA_PATH", str(headers(tmp_path / "whole")))
    assert aoti.cuda_home() == str(tmp_path / "whole")


@pytest.mark.usefixtures("nothing")
def test_wheels_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    headers(tmp_path / "nvidia/cu13")
    spec = importlib.machinery.ModuleSpec("nvidia", None, is_package=True)
    spec.submodule_search_locations = [str(tmp_path / "nvidia")]
    monkeypatch.setattr(aoti.importlib.util, "find_spec", lambda name: spec)
    assert aoti.cuda_home() == str(tmp_path / "nvidia/cu13")


def test_without_headers_a_gpu_build_is_refused_before_it_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    backend: Any = backend_of("aoti")
    monkeypatch.setattr("streamseg.inference.backends.torch.torch_device", lambda: "cuda")
    monkeypatch.setattr(aoti, "cuda_home", lambda: None)
    monkeypatch.setattr(aoti, "_compiler", lambda: "/usr/bin/g++")
    assert "set CUDA_HOME" in backend.why_not("bf16")
    monkeypatch.setattr(aoti, "cuda_home", lambda: "/usr/local/cuda")
    assert backend.why_not("bf16") is None


def test_a_toolkits_stub_of_the_driver_is_linked_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIBRARY_PATH", "/mine")
    monkeypatch.setattr(aoti, "LIBRARY_FOLDERS", ())
    (tmp_path / "lib64/stubs").mkdir(parents=True)
    (tmp_path / "lib64/stubs/libcuda.so").touch()
    aoti.link_with_the_driver(str(tmp_path), tmp_path)
    assert os.environ["LIBRARY_PATH"] == f"{tmp_path / 'lib64/stubs'}:/mine"


def test_without_a_stub_the_drivers_own_library_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIBRARY_PATH", raising=False)
    monkeypatch.setattr(aoti, "LIBRARY_FOLDERS", ())
    monkeypatch.setattr(aoti, "loaded_from", lambda name: "")
    aoti.link_with_the_driver(str(tmp_path), tmp_path)
    assert "LIBRARY_PATH" not in os.environ, "the compiler says what it misses"
    driver = loaded_from("libc.so")
    monkeypatch.setattr(aoti, "loaded_from", lambda name: driver)
    for _ in range(2):
        aoti.link_with_the_driver(str(tmp_path), tmp_path)
    assert Path(os.environ["LIBRARY_PATH"].split(":")[0], "libcuda.so").resolve() == Path(driver).resolve()


def test_a_library_is_found_where_it_was_loaded_from() -> None:
    assert Path(loaded_from("libc.so")).is_file()
    assert loaded_from("libnobody.so") == ""


def test_a_package_on_a_gpu_is_given_batches_that_are_filled_up_and_gives_each_its_own_logits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import numpy as np
    import torch

    from streamseg.inference.backends.graphed_batches import GraphedBatches
    from tests.late_cuda import late_cuda

    seen: list[int] = []

    def package(image: Any) -> Any:
        seen.append(len(image))
        return image.float().mean((1, 2, 3), keepdim=True)

    with torch.inference_mode(), late_cuda(monkeypatch, seed=1):
        engine = aoti.AotiEngine.__new__(aoti.AotiEngine)
        engine._torch, engine._device, engine._package = torch, "cpu", package
        batches = GraphedBatches(engine._prepared, 4, device="cpu")
        feeds = [np.full((count, 4, 6, 3), 10 * count, np.uint8) for count in (3, 1, 2, 4)]
        queued = [batches.start(feed) for feed in feeds]
        for feed, found in zip(feeds, queued, strict=True):
            found.ready.synchronize()
            assert found.logits.flatten().tolist() == [10.0 * len(feed)] * len(feed)
    assert set(seen) == {1, 2, 4}
