"""TensorRT and TensorRT-RTX: plans built from the engine's ONNX graph.

The libraries are imported when they are needed. TensorRT-RTX builds plans on machines without a GPU; running
a plan of either needs one, and torch with CUDA for its memory.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.device import Cuda, cuda_device, cuda_missing
from streamseg.inference.backends.protocol import BuildSpec, OnProgress
from streamseg.inference.backends.tensorrt.plan import Library, build_plan, capability, targets

if TYPE_CHECKING:
    from streamseg.inference.backends.tensorrt.run import PlanEngine

RECIPE = "1"  # raise it when graph.py or plan.py change the plan of the same graph

_PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "bf16", "int8")


class TensorrtBackend:
    """TensorRT: fastest, after a build of minutes that times kernels on the GPU. No build has been run yet.

    torch-tensorrt builds where it is installed, except int8, whose quantisation is in the ONNX graph. What it
    cannot convert, and everything where it is missing, goes through TensorRT's own ONNX parser.
    """

    name = "tensorrt"
    precisions = _PRECISIONS
    suffix = ".plan"
    device = "cuda"

    def why_not(self, precision: Precision) -> str | None:
        return _missing("tensorrt", precision) or cuda_missing() or _torch_missing()

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        if target:
            return (
                f"builds on the GPU that runs the plan, not for {target}; tensorrt-rtx builds ahead of time"
            )
        return self.why_not(precision) or _onnx_missing()

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        from streamseg.inference.backends.tensorrt.torch_trt import has_torch_tensorrt

        with_torch = has_torch_tensorrt() and spec.precision != "int8"
        found = cuda_device()
        return {
            "tensorrt": str(_library("tensorrt").__version__),
            "torch_tensorrt": importlib.metadata.version("torch_tensorrt") if with_torch else "",
            "cuda": found.driver if isinstance(found, Cuda) else "",
            "sm": _sm(spec),
            "recipe": RECIPE,
        }

    def build(self, spec: BuildSpec, out: Path, progress: OnProgress) -> None:
        from streamseg.inference.backends.tensorrt.torch_trt import build_with_torch, has_torch_tensorrt

        if has_torch_tensorrt() and spec.precision != "int8":
            try:
                out.write_bytes(build_with_torch(spec, progress))
                return
            except EngineError as error:
                progress(f"{error}; using TensorRT's ONNX parser instead")
        build_plan_file("tensorrt", spec, out, progress)

    def load(self, spec: BuildSpec, plan: Path | None) -> PlanEngine:
        from streamseg.inference.backends.tensorrt.run import PlanEngine

        assert plan is not None
        return PlanEngine(_library(self.name), spec, plan, self.name)


class TensorrtRtxBackend:
    """TensorRT-RTX: a plan is built in seconds, without a GPU, and finished on the one that runs it.

    No plan has been run yet; every network of the zoo has been built.
    """

    name = "tensorrt-rtx"
    precisions = _PRECISIONS
    suffix = ".plan"
    device = "cuda"

    def why_not(self, precision: Precision) -> str | None:
        if missing := _missing("tensorrt_rtx", precision) or cuda_missing() or _torch_missing():
            return missing
        found = cuda_device()
        known = targets(_library("tensorrt_rtx"))
        if isinstance(found, Cuda) and found.sm not in known:
            return f"TensorRT-RTX supports {', '.join(known)}; {found.name} is {found.sm}"
        return None

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        missing = _missing("tensorrt_rtx", precision) or _onnx_missing()
        if missing or target:
            return missing or _refused(target)
        return self.why_not(precision)

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        version = str(_library("tensorrt_rtx").__version__)
        return {"tensorrt_rtx": version, "sm": _sm(spec), "recipe": RECIPE}

    def build(self, spec: BuildSpec, out: Path, progress: OnProgress) -> None:
        build_plan_file("tensorrt_rtx", spec, out, progress)

    def load(self, spec: BuildSpec, plan: Path | None) -> PlanEngine:
        from streamseg.inference.backends.tensorrt.run import PlanEngine

        assert plan is not None
        return PlanEngine(_library("tensorrt_rtx"), spec, plan, self.name)


def build_plan_file(library: str, spec: BuildSpec, out: Path, progress: OnProgress) -> None:
    """Build a plan through the library's ONNX parser; raises EngineError."""
    from streamseg.inference.backends.tensorrt.graph import plan_graph

    try:
        graph = plan_graph(spec.graph(), spec.precision)
        out.write_bytes(build_plan(_library(library), graph, spec.shapes, spec.target, progress))
    except EngineError as error:
        raise EngineError(f"engine {spec.engine.name}, for TensorRT: {error}") from error


def _library(name: str) -> Library:
    try:
        return importlib.import_module(name)
    except (ImportError, OSError) as error:
        raise EngineError(f"{name} is installed but cannot be imported: {error}") from error


def _missing(package: str, precision: Precision) -> str | None:
    if precision not in _PRECISIONS:
        return f"runs {', '.join(_PRECISIONS)}, not {precision}"
    if importlib.util.find_spec(package) is None:
        extra = package.replace("_", "-")
        return f"{package} is not installed (pip install 'streamseg[{extra}]')"
    return None


def _onnx_missing() -> str | None:
    if importlib.util.find_spec("onnx") is None:
        return "building needs onnx (pip install onnx)"
    return None


def _torch_missing() -> str | None:
    if importlib.util.find_spec("torch") is None:
        return "running a plan needs torch with CUDA (pip install torch)"
    import torch

    return (
        None if torch.cuda.is_available() else "the torch that is installed has no CUDA (pip install torch)"
    )


def _refused(target: str) -> str | None:
    try:
        capability(_library("tensorrt_rtx"), target)
    except EngineError as error:
        return str(error)
    return None


def _sm(spec: BuildSpec) -> str:
    found = cuda_device()
    return spec.target or (found.sm if isinstance(found, Cuda) else "")
