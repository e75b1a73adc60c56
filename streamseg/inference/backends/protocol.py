"""The protocol of a backend, what it builds, and the table of backends.

An engine's folder holds its network as an ONNX graph with its weights: `model.onnx` in fp32, and where
calibrated `model.int8.onnx`, with QuantizeLinear and DequantizeLinear. Every backend starts from these files.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, cast, get_args

import msgspec

from streamseg.config import BackendName, EngineConfig, Precision
from streamseg.errors import EngineError
from streamseg.inference.engine import Engine, EngineInfo, Limits, Shapes
from streamseg.inference.interface import declared_limits
from streamseg.inference.scaling import fit_size
from streamseg.inference.spec import EngineSpec
from streamseg.inference.weights import read_weights, surface_of
from streamseg.runtime.cpus import usable_cores
from streamseg.types import Size

OnProgress = Callable[[str], None]
"""Called with a line of text as a build goes on."""

BACKENDS: dict[str, str] = {
    "onnx": "streamseg.inference.backends.onnx:OnnxBackend",
    "onnx-cuda": "streamseg.inference.backends.onnx_gpu:OnnxCudaBackend",
    "onnx-tensorrt": "streamseg.inference.backends.onnx_gpu:OnnxTensorrtBackend",
    "openvino": "streamseg.inference.backends.openvino:OpenvinoBackend",
    "torch": "streamseg.inference.backends.torch:TorchBackend",
    "aoti": "streamseg.inference.backends.aoti:AotiBackend",
    "tensorrt": "streamseg.inference.backends.tensorrt:TensorrtBackend",
    "tensorrt-rtx": "streamseg.inference.backends.tensorrt:TensorrtRtxBackend",
}

PROFILE_ASPECT = 3.0  # a plan takes frames up to this much wider than high, or higher than wide


class BuildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what a backend builds or loads, apart from the machine."""

    engine: EngineSpec
    folder: str  # the engine's
    precision: Precision
    input_size: Size
    shapes: Shapes
    limits: Limits = Limits()  # of the graph's input
    threads: int = 0  # CPU threads of one engine; 0: one for each core
    target: str = ""  # the GPU it is built for, such as "sm_89"; empty: this machine's
    flags: tuple[str, ...] = ()  # of compatibility, such as "version-compatible"

    @property
    def weights_sha256(self) -> str:
        """Of the graph: weights, also in other files, nodes with their attributes, and calibration."""
        return self.engine.weights_of(self.precision).digest

    @property
    def cpu_threads(self) -> int:
        """The CPU threads of one engine."""
        return self.threads or usable_cores()

    def graph(self) -> bytes:
        """The ONNX graph to start from, its SHA-256 checked; raises EngineError."""
        return read_weights(Path(self.folder), self.engine, self.precision)

    def info(
        self,
        backend: str,
        device: str,
        threads: int = 0,
        *,
        bounded: bool = False,
        tensors: Literal["", "cpu", "cuda"] = "",
    ) -> EngineInfo:
        """The info of an engine loaded from this. bounded: it takes only batches within `shapes`."""
        return EngineInfo(
            id=f"{self.engine.name}/{self.precision}/{backend}",
            spec=self.engine,
            backend=backend,
            precision=self.precision,
            device=device,
            threads=threads,
            input_size=self.input_size,
            limits=self.limits,
            shapes=self.shapes if bounded and self.limits == Limits() else None,  # else it is fitted to them
            kind=self.engine.gives,
            tensors=tensors if self.engine.usual and self.limits == Limits() else "",
        )


class Backend(Protocol):
    """A library that runs networks. Cheap to make; the library is imported when a method needs it."""

    name: str
    precisions: tuple[Precision, ...]  # that it can run at all
    suffix: str  # of its plans, such as ".plan"; empty for one that loads the graph itself

    @property
    def device(self) -> str:
        """Where it would run on this machine, "cpu" or "cuda"; only after why_not() gave None."""
        ...

    def why_not(self, precision: Precision) -> str | None:
        """None when it can run on this machine in this precision, else what is missing and what to do."""
        ...

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        """The same for building: some libraries build for a GPU that this machine does not have."""
        ...

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        """What else its plan depends on: versions, SM or CPU features, and a number that changes with its own
        code. Part of the plan's key."""
        ...

    def build(self, spec: BuildSpec, out: Path, progress: OnProgress) -> None:
        """Write the plan to `out`, a new file. Called in the build process; raises EngineError."""
        ...

    def load(self, spec: BuildSpec, plan: Path | None) -> Engine:
        """Load an engine, from the plan if the backend builds one. Raises EngineError."""
        ...


class Choice(NamedTuple):
    """A backend, and what it builds or loads."""

    backend: Backend
    spec: BuildSpec

    @property
    def engine_id(self) -> str:
        return f"{self.spec.engine.name}/{self.spec.precision}/{self.backend.name}"


def backend_of(name: str) -> Backend:
    """The backend of this name; raises EngineError when its module lacks a library."""
    module, kind = BACKENDS[name].split(":")
    try:
        return cast(Backend, getattr(importlib.import_module(module), kind)())
    except ModuleNotFoundError as error:
        raise EngineError(f"backend {name}: {error}") from error


def build_spec(config: EngineConfig, folder: Path, engine: EngineSpec, precision: Precision) -> BuildSpec:
    """The settings as a BuildSpec, with shapes for every frame between 3:1 and 1:3.

    Raises EngineError for a graph that does not take or give what engine.toml says (interface.py).
    """
    surface = surface_of(folder, engine, precision)
    limits = Limits() if surface is None else declared_limits(engine, precision, surface)
    wanted = config.input_size or engine.input_size
    if limits.size not in (None, wanted):
        raise EngineError(
            f"engine.input_size: engine {engine.name} takes pictures of {list(limits.size or ())} only; is "
            f"{list(wanted)}"
        )
    size = limits.size or fit_size(wanted, wanted, engine.size_multiple)
    return BuildSpec(
        engine=engine,
        folder=str(folder.absolute()),
        precision=precision,
        input_size=size,
        shapes=_within(limits, usual_shapes(size, engine.size_multiple, config.max_batch)),
        limits=limits,
        threads=threads_of_replica(config),
    )


def _within(limits: Limits, shapes: Shapes) -> Shapes:
    """The shapes that the graph's input lets through."""

    def limited(shape: tuple[int, int, int]) -> tuple[int, int, int]:
        return (limits.batch or shape[0], *(limits.size or shape[1:]))

    return Shapes(limited(shapes.smallest), limited(shapes.usual), limited(shapes.largest))


def threads_of_replica(config: EngineConfig) -> int:
    """The CPU threads of each replica; 0, for one on each core, where there is one replica."""
    if config.replicas <= 1:
        return config.threads
    return max(1, (config.threads or usable_cores()) // config.replicas)


def usual_shapes(size: Size, multiple: int, max_batch: int) -> Shapes:
    """Shapes for an input size: frames of another aspect ratio have about as many pixels (fit_size)."""
    pixels = size[0] * size[1]
    shortest = max(1, math.floor(math.sqrt(pixels / PROFILE_ASPECT) / multiple)) * multiple
    longest = math.ceil(math.sqrt(pixels * PROFILE_ASPECT) / multiple) * multiple
    usual = (max(1, round(size[0] / multiple)) * multiple, max(1, round(size[1] / multiple)) * multiple)
    return Shapes((1, shortest, shortest), (1, *usual), (max_batch, longest, longest))


def backend_names() -> tuple[str, ...]:
    """The values of the setting engine.backend without auto."""
    return tuple(name for name in get_args(BackendName) if name != "auto")
