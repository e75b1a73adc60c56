"""ONNX Runtime's GPU providers, as far as a machine without a GPU shows: options, reasons, fp16 graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends import onnx_gpu
from streamseg.inference.backends.device import cuda_missing
from streamseg.inference.backends.protocol import backend_of, build_spec
from streamseg.inference.plans.load import load_engine
from streamseg.inference.plans.verify import agreement_of
from streamseg.inference.spec import find_engine
from tools.demo import draw_scene

NAMES = ("onnx-cuda", "onnx-tensorrt")


def spec_of(precision: Any = "fp32") -> Any:
    folder, engine = find_engine("camvid-slim")
    return build_spec(EngineConfig(precision=precision, max_batch=3), folder, engine, precision)


@pytest.mark.skipif(cuda_missing() is None, reason="there is a GPU here")
@pytest.mark.parametrize("name", NAMES)
def test_without_a_gpu_there_is_a_reason(name: str) -> None:
    assert backend_of(name).why_not("fp32") == cuda_missing()
    assert "not " in (backend_of("onnx-cuda").why_not("int8") or "")


@pytest.mark.parametrize("name", NAMES)
def test_with_a_gpu_the_package_that_uses_it_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_gpu, "cuda_missing", lambda: None)
    backend: Any = backend_of(name)
    assert "onnxruntime-gpu[cuda,cudnn]" in (backend.why_not("fp32") or "")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [backend.provider])
    assert backend.why_not("fp32") is None


def test_tensorrt_is_told_the_shapes_that_come_and_keeps_its_engines_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    backend: Any = backend_of("onnx-tensorrt")
    (name, options), (then, _) = backend.providers(spec_of("int8"))
    assert (name, then) == ("TensorrtExecutionProvider", "CUDAExecutionProvider")
    given = ort.InferenceSession(spec_of().graph(), providers=["CPUExecutionProvider"]).get_inputs()[0].name
    sides = spec_of().shapes.largest
    assert options["trt_profile_max_shapes"] == f"{given}:3x{sides[1]}x{sides[2]}x3"
    assert options["trt_int8_enable"] == "1"
    assert "trt_fp16_enable" not in options
    folders = {backend.providers(spec_of(p))[0][1]["trt_engine_cache_path"] for p in ("fp32", "int8")}
    assert len(folders) == 2
    assert all(folder.startswith(f"{tmp_path}/") for folder in folders)


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_provider_that_does_not_start_is_an_error_and_not_a_slow_engine() -> None:
    backend: Any = backend_of("onnx-cuda")
    with pytest.raises(EngineError, match="could not start CUDAExecutionProvider, only CPUExecutionProvider"):
        backend.load(spec_of(), None)


def test_fp16_of_a_graph_computes_the_same_labels() -> None:
    pytest.importorskip("onnx")
    spec = spec_of()
    engine = onnx_gpu.OnnxEngine(spec, "onnx-cuda", "cpu", graph=onnx_gpu.half(spec.graph()))
    batch = np.stack([draw_scene(t)[0] for t in (0.0, 5.0)])
    want = load_engine(EngineConfig(name="camvid-slim", backend="onnx", precision="fp32"))(batch)
    assert agreement_of([(engine(batch), want)]).argmax_percent > 99.5
