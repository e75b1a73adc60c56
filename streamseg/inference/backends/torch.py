"""torch (extra `torch`): eager on a CPU; on a GPU channels last, with a CUDA graph for each batch shape.

The network is read from the engine's ONNX graph (torch_graph.py).
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.base import BaseEngine
from streamseg.inference.backends.device import Cuda, cuda_device, cuda_missing
from streamseg.inference.backends.graphed_batches import GraphedBatches, Work
from streamseg.inference.backends.protocol import BuildSpec, OnProgress
from streamseg.inference.engine import Queued
from streamseg.inference.forms import Array
from streamseg.runtime.cuda_graphs import record
from streamseg.types import F32

if TYPE_CHECKING:
    import torch


class TorchBackend:
    """Loads the graph itself; has no plans."""

    name = "torch"
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "bf16")
    suffix = ""

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        return torch_device()

    def why_not(self, precision: Precision) -> str | None:
        if precision not in self.precisions:
            return f"runs {', '.join(self.precisions)}, not {precision}"
        if missing := torch_missing():
            return missing
        if precision == "fp16" and self.device == "cpu":
            return "fp16 is for GPUs; choose bf16 or fp32 on a CPU"
        return None

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        return "loads the graph itself and has no plans"

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        return {"torch": importlib.metadata.version("torch")}

    def build(self, spec: BuildSpec, out: Path, progress: OnProgress) -> None:
        raise EngineError("backend torch: has no plans")

    def load(self, spec: BuildSpec, plan: Path | None) -> TorchBased:
        return TorchEngine(spec, self.device)


def torch_missing() -> str | None:
    """None when torch and onnx are installed, else how to install them; imports neither."""
    missing = [name for name in ("torch", "onnx") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} missing (pip install 'streamseg[torch]')" if missing else None


def torch_device() -> Literal["cpu", "cuda"]:
    """Whether torch can use a GPU; imports torch only where there is one."""
    if cuda_missing() is not None:
        return "cpu"
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_name(device: str) -> str:
    """For EngineInfo: cpu, or the GPU's name."""
    found = cuda_device()
    return found.name if device == "cuda" and isinstance(found, Cuda) else device


def torch_dtype(precision: Precision) -> torch.dtype:
    import torch

    return {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]


def keep_fp32(precision: Precision) -> None:
    """Let convolutions of fp32 networks compute in fp32 on a GPU, not in TF32; sets it for the process."""
    if precision == "fp32":
        import torch

        torch.backends.cudnn.allow_tf32 = False


class TorchBased(BaseEngine):
    """An engine whose tensors are torch's, on "cpu" or "cuda".

    On a CPU the number of threads is the whole process's, as torch has it.
    """

    def __init__(self, backend: str, spec: BuildSpec, device: Literal["cpu", "cuda"], bounded: bool) -> None:
        import torch

        self._torch = torch
        self._device = device
        threads = spec.cpu_threads if device == "cpu" else 0
        if threads:
            torch.set_num_threads(threads)
        keep_fp32(spec.precision)
        info = spec.info(backend, device_name(device), threads, bounded=bounded, tensors=device)
        super().__init__(spec, info)


class TorchEngine(TorchBased):
    """Runs the network with torch. Belongs to one thread at a time; releases the GIL while it computes."""

    def __init__(self, spec: BuildSpec, device: Literal["cpu", "cuda"]) -> None:
        """Raises EngineError."""
        super().__init__("torch", spec, device, bounded=False)
        from streamseg.inference.backends.torch_graph import GraphModule

        module: Any = (
            GraphModule(spec.graph(), torch_dtype(spec.precision), spec.engine.output_name).eval().to(device)
        )
        self._module: Any = module.to(memory_format=self._torch.channels_last)
        self._batches: GraphedBatches | None = None
        if device == "cuda":
            self._torch.backends.cudnn.benchmark = True
            self._pool: Any = self._torch.cuda.graph_pool_handle()
            self._batches = GraphedBatches(self._prepared, spec.shapes.largest[0])

    def on_device(self, batch: torch.Tensor) -> Queued:
        """See TensorEngine."""
        with self._running(batch), self._torch.inference_mode():
            if self._batches is not None:
                return self._batches.start(batch)
            return Queued(self._module(batch).contiguous())

    def _run(self, feed: Array) -> F32:
        with self._torch.inference_mode():  # as on_device(), which may have recorded the shape
            if self._batches is not None:
                return self._batches.run(feed)
            return np.ascontiguousarray(self._module(self._torch.from_numpy(feed)).numpy(), np.float32)

    def _release(self) -> None:
        self._module = None
        if self._batches is not None:
            self._batches.close()

    def _prepared(self, shape: tuple[int, ...], dtype: torch.dtype) -> Work:
        """Record a shape; cuDNN chooses its kernels in the runs before."""
        torch = self._torch
        image = torch.zeros(shape, dtype=dtype, device="cuda")
        return recorded_work(self._module, image, torch.cuda.current_stream(), self._pool)


def recorded_work(module: Any, image: torch.Tensor, stream: Any, pool: Any) -> Work:
    """A module's run on one tensor as a CUDA graph."""
    graph = record(lambda: module(image).contiguous(), stream, pool)
    return Work(image, graph.result, graph.replay)
