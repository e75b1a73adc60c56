"""AOTInductor (extra `torch`): the network compiled by torch, for GPUs without TensorRT, and for CPUs.

Building needs a C++ compiler, and on a GPU Triton, which comes with torch.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from streamseg.config import Precision
from streamseg.inference.backends.base import library_errors
from streamseg.inference.backends.device import Cuda, cpu_identity, cuda_device, loaded_from
from streamseg.inference.backends.graphed_batches import GraphedBatches, Work
from streamseg.inference.backends.protocol import BuildSpec, OnProgress
from streamseg.inference.backends.torch import (
    TorchBackend,
    TorchBased,
    keep_fp32,
    torch_dtype,
)
from streamseg.inference.engine import Queued
from streamseg.inference.forms import Array
from streamseg.types import F32

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.export import ExportedProgram

TOOLKIT = "/usr/local/cuda"
LIBRARY_FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib")
RECIPE = "2"  # raise it when the compiled program changes


class AotiBackend(TorchBackend):
    """Builds a package (.pt2) for the shapes of the specification."""

    name = "aoti"
    suffix = ".pt2"

    def why_not(self, precision: Precision) -> str | None:
        if missing := super().why_not(precision):
            return missing
        if _compiler() is None:
            return "building needs a C++ compiler (Debian: apt install g++)"
        if self.device == "cuda" and cuda_home() is None:
            return (
                "building for a GPU needs CUDA's headers (install the CUDA toolkit, or set CUDA_HOME to it)"
            )
        return None

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        return f"builds for this machine only, not for {target}" if target else self.why_not(precision)

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        found = cuda_device()
        on_gpu = self.device == "cuda" and isinstance(found, Cuda)
        return {
            "torch": importlib.metadata.version("torch"),
            "device": f"{found.sm} CUDA {found.driver}" if on_gpu else cpu_identity(),  # type: ignore[union-attr]
            "recipe": RECIPE,
        }

    def build(self, spec: BuildSpec, out: Path, progress: OnProgress) -> None:
        if self.device == "cuda" and (home := cuda_home()) is not None:
            os.environ["CUDA_HOME"] = home  # before torch reads it, which it does once
            link_with_the_driver(home, out.parent)

        import torch
        from torch._inductor import aoti_compile_and_package

        from streamseg.inference.backends.torch_graph import GraphModule

        device = self.device
        keep_fp32(spec.precision)
        module: Any = GraphModule(spec.graph(), torch_dtype(spec.precision)).eval().to(device)
        module = module.to(memory_format=torch.channels_last)
        progress("tracing the network")
        program = traced(module, spec, device)
        progress("compiling it; this takes a minute or more")
        with torch.inference_mode():
            aoti_compile_and_package(program, package_path=str(out))

    def load(self, spec: BuildSpec, plan: Path | None) -> AotiEngine:
        assert plan is not None
        return AotiEngine(spec, plan, self.device)


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")


def cuda_home() -> str | None:
    """The folder of CUDA's headers: a toolkit where torch looks for one, or wheels with all of them."""
    nvcc = shutil.which("nvcc")
    named = [os.environ.get(name) for name in ("CUDA_HOME", "CUDA_PATH")]
    wheels = importlib.util.find_spec("nvidia")
    folders = [*named, nvcc and str(Path(nvcc).parents[1]), TOOLKIT]
    if wheels is not None:
        folders += [
            str(found) for at in wheels.submodule_search_locations or () for found in Path(at).glob("cu*")
        ]
    needed = ("include/cuda.h", "include/crt/host_defines.h")
    homes = (folder for folder in folders if folder and all((Path(folder) / one).is_file() for one in needed))
    return next(homes, None)


def link_with_the_driver(home: str, folder: Path) -> None:
    """Let the linker find libcuda.so, which torch links with: a toolkit has a stub of it, wheels have none.

    Without one a link to the driver's own library is made in `folder`, which must last while it is built.
    """
    folders = [Path(home) / "lib64/stubs", Path(home) / "lib/stubs", *map(Path, LIBRARY_FOLDERS)]
    if any((one / "libcuda.so").exists() for one in folders):
        stubs = [str(one) for one in folders[:2] if (one / "libcuda.so").exists()]
    elif driver := loaded_from("libcuda.so"):
        link = folder / "link" / "libcuda.so"
        link.parent.mkdir(exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(driver)
        stubs = [str(link.parent)]
    else:
        return  # the compiler then says what it misses
    if stubs:
        os.environ["LIBRARY_PATH"] = os.pathsep.join(
            [*stubs, *filter(None, [os.environ.get("LIBRARY_PATH")])]
        )


def traced(module: nn.Module, spec: BuildSpec, device: str) -> ExportedProgram:
    """Trace a GraphModule for the shapes of `spec`."""
    import torch

    shape, sides = example_batch(spec)
    batch = torch.zeros(shape, dtype=torch.uint8, device=device)
    with torch.inference_mode():
        return torch.export.export(module, (batch,), dynamic_shapes=(sides,))


def example_batch(spec: BuildSpec) -> tuple[tuple[int, ...], dict[int, Any]]:
    """A batch's shape for tracing, and its dynamic sides by axis."""
    from torch.export import Dim

    multiple = spec.engine.size_multiple
    shape: list[int] = []
    sides: dict[int, Any] = {}
    for axis, (name, unit) in enumerate((("n", 1), ("h", multiple), ("w", multiple))):
        low, high = spec.shapes.smallest[axis] // unit, spec.shapes.largest[axis] // unit
        if low == high:
            shape.append(low * unit)
            continue
        # Tracing would fix a side of 1, and tie equal sides to each other.
        side = Dim(name, min=low, max=high)
        sides[axis] = side if unit == 1 else unit * side
        shape.append(min(high, max(low, (2, 4, 6)[axis])) * unit)
    return (*shape, 3), sides


class AotiEngine(TorchBased):
    """Runs a package. Belongs to one thread at a time."""

    def __init__(self, spec: BuildSpec, plan: Path, device: Literal["cpu", "cuda"]) -> None:
        """Raises EngineError for a package that torch cannot load."""
        super().__init__("aoti", spec, device, bounded=True)
        if device == "cuda":
            self._torch.backends.cudnn.benchmark = True
        from torch._inductor import aoti_load_package

        with library_errors(f"{plan}: torch cannot load it"):
            self._package: Any = aoti_load_package(str(plan))
        self._batches: GraphedBatches | None = None
        if device == "cuda":
            self._batches = GraphedBatches(self._prepared, spec.shapes.largest[0])

    def on_device(self, batch: torch.Tensor) -> Queued:
        """See TensorEngine."""
        with self._running(batch), self._torch.inference_mode():
            return Queued(self._package(batch)) if self._batches is None else self._batches.start(batch)

    def _run(self, feed: Array) -> F32:
        with self._torch.inference_mode():
            if self._batches is not None:
                return self._batches.run(feed)
            return np.ascontiguousarray(self._package(self._torch.from_numpy(feed)).numpy(), np.float32)

    def _release(self) -> None:
        if self._batches is not None:
            self._batches.close()
        self._package = None

    def _prepared(self, shape: tuple[int, ...], dtype: torch.dtype) -> Work:
        """Memory for a shape. The package launches its kernels itself: whether a graph gains by it is a stage
        of tools/device."""
        image = self._torch.zeros(shape, dtype=dtype, device=self._device)
        logits: torch.Tensor = self._package(image)
        return Work(image, logits, lambda: logits.copy_(self._package(image)))
