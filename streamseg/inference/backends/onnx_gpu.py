"""ONNX Runtime on an NVIDIA GPU: its CUDA and TensorRT providers, from the package onnxruntime-gpu.

Written from the documentation: none of this has run on a GPU yet. Pictures and logits go by the host.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import onnxruntime as ort

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.device import Cuda, cuda_device, cuda_missing
from streamseg.inference.backends.onnx import OnnxBackend, OnnxEngine
from streamseg.inference.backends.protocol import BuildSpec
from streamseg.inference.weights import surface_of
from streamseg.runtime.folders import cache_folder

Providers = list[tuple[str, dict[str, str]]]


class OnnxCudaBackend(OnnxBackend):
    """cuDNN's kernels; fp16 by the converter that comes with ONNX Runtime."""

    name = "onnx-cuda"
    provider = "CUDAExecutionProvider"
    precisions: tuple[Precision, ...] = ("fp32", "fp16")
    device = "cuda"

    def why_not(self, precision: Precision) -> str | None:
        if precision not in self.precisions:
            return f"runs {', '.join(self.precisions)}, not {precision}"
        if missing := cuda_missing():
            return missing
        if self.provider not in ort.get_available_providers():
            return (
                f"ONNX Runtime has no {self.provider} here "
                "(pip uninstall onnxruntime; pip install 'onnxruntime-gpu[cuda,cudnn]')"
            )
        return None

    def load(self, spec: BuildSpec, plan: object) -> OnnxGpuEngine:
        return OnnxGpuEngine(spec, self.name, self.providers(spec), self.graph(spec))

    def graph(self, spec: BuildSpec) -> bytes:
        """The graph in the arithmetic that it is to run in."""
        return half(spec.graph()) if spec.precision == "fp16" else spec.graph()

    def providers(self, spec: BuildSpec) -> Providers:
        """ONNX Runtime's names and options of what runs a graph, best first."""
        return [("CUDAExecutionProvider", {"use_tf32": "0", "cudnn_conv_use_max_workspace": "1"})]


class OnnxTensorrtBackend(OnnxCudaBackend):
    """TensorRT's kernels, built when the engine is loaded and kept in the cache."""

    name = "onnx-tensorrt"
    provider = "TensorrtExecutionProvider"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")

    def graph(self, spec: BuildSpec) -> bytes:
        return spec.graph()  # TensorRT chooses the arithmetic

    def providers(self, spec: BuildSpec) -> Providers:
        surface = surface_of(Path(spec.folder), spec.engine, spec.precision)
        name = surface.inputs[0].name if surface and surface.inputs else "image"
        key = hashlib.sha256(f"{spec.weights_sha256} {spec.precision} {spec.shapes}".encode()).hexdigest()[
            :16
        ]
        folder = cache_folder("onnx-tensorrt") / key
        options = {
            "trt_engine_cache_enable": "1",
            "trt_engine_cache_path": str(folder),
            "trt_timing_cache_enable": "1",
            "trt_timing_cache_path": str(folder.parent),
            "trt_profile_min_shapes": _shape(name, spec.shapes.smallest),
            "trt_profile_opt_shapes": _shape(name, spec.shapes.usual),
            "trt_profile_max_shapes": _shape(name, spec.shapes.largest),
        }
        if spec.precision in ("fp16", "bf16", "int8"):
            options[f"trt_{spec.precision}_enable"] = "1"
        return [(self.provider, options), *super().providers(spec)]


class OnnxGpuEngine(OnnxEngine):
    """Runs a graph by the providers given. Belongs to one thread; releases the GIL while it computes."""

    def __init__(self, spec: BuildSpec, backend: str, providers: Providers, graph: bytes) -> None:
        """Raises EngineError where ONNX Runtime cannot use the first of them, which it would only log."""
        if hasattr(ort, "preload_dlls"):  # CUDA and cuDNN from wheels
            ort.preload_dlls()
        found = cuda_device()
        device = found.name if isinstance(found, Cuda) else "cuda"
        super().__init__(spec, backend, device, [*providers, ("CPUExecutionProvider", {})], graph)
        wanted, used = providers[0][0], self._session.get_providers()
        if wanted not in used:
            raise EngineError(
                f"engine {spec.engine.name}: ONNX Runtime could not start {wanted}, only {', '.join(used)}; "
                "install the CUDA and cuDNN (and TensorRT) that it was built for: docs/gpu.md"
            )


def half(graph: bytes) -> bytes:
    """A graph of fp32 in fp16, with inputs and outputs as they were; raises EngineError."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise EngineError("backend onnx-cuda: fp16 needs onnx (pip install 'streamseg[torch]')") from error
    from onnxruntime.transformers.float16 import convert_float_to_float16

    model: Any = convert_float_to_float16(onnx.load_from_string(graph), keep_io_types=True)
    return bytes(model.SerializeToString())


def _shape(name: str, shape: tuple[int, int, int]) -> str:
    return f"{name}:{'x'.join(map(str, (*shape, 3)))}"
