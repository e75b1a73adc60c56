"""What runs networks: the protocol of a backend, what it builds, and the table of those we have.

Every engine's folder holds its network as an ONNX graph, with the weights in it: `model.onnx` in fp32, and
`model.int8.onnx` with QuantizeLinear and DequantizeLinear where it was calibrated. Every backend starts from
these bytes, and nothing else of a network is stored.
"""

from __future__ import annotations

import importlib
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol, cast, get_args

import msgspec

from streamseg.config import BackendName, EngineConfig, Precision
from streamseg.errors import EngineError
from streamseg.inference.preprocess import fit_size
from streamseg.inference.spec import EngineInfo, EngineSpec, Shapes, read_weights
from streamseg.types import F32, U8, Size

if TYPE_CHECKING:
    from torch import Tensor

Progress = Callable[[str], None]
"""Called with a line of text as a build goes on."""

BACKENDS: dict[str, str] = {
    "onnx": "streamseg.inference.backends.onnx:OnnxBackend",
    "openvino": "streamseg.inference.backends.openvino:OpenvinoBackend",
    "torch": "streamseg.inference.backends.torch:TorchBackend",
    "aoti": "streamseg.inference.backends.aoti:AotiBackend",
    "tensorrt": "streamseg.inference.backends.tensorrt:TensorrtBackend",
    "tensorrt-rtx": "streamseg.inference.backends.tensorrt:TensorrtRtxBackend",
}

PROFILE_ASPECT = 3.0  # frames this much wider than high, or higher than wide, still fit a plan


class Engine(Protocol):
    """A network ready to run. Belongs to one thread at a time; may be handed over whole."""

    @property
    def info(self) -> EngineInfo: ...

    def __call__(self, batch: U8) -> F32:
        """Run RGB pictures (N, H, W, 3) → logits (N, C, h, w), h = H / output_stride; raises EngineError."""
        ...

    def warm_up(self, size: Size) -> float:
        """Run once at this input size, so that the first frame does not pay for it; returns seconds."""
        ...

    def close(self) -> None: ...


class TensorEngine(Engine, Protocol):
    """An engine that takes pictures which lie on a device already, and leaves the logits there."""

    def on_device(self, batch: Tensor) -> Tensor | F32:
        """The same for uint8 (N, H, W, 3) in torch → logits in torch, the caller's; of a SwitchEngine here.

        batch lies where info.tensors says, and so do the logits. Returns when they are computed; raises
        EngineError.
        """
        ...


class BuildSpec(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that decides what a backend builds or loads, but for the machine it happens on."""

    engine: EngineSpec
    folder: str  # the engine's
    precision: Precision
    input_size: Size
    shapes: Shapes
    threads: int = 0  # of the CPU, for one engine; 0 takes one for each core
    target: str = ""  # what it is built for, such as "sm_89"; empty for the device at hand
    flags: tuple[str, ...] = ()  # of compatibility, such as "version-compatible"

    @property
    def weights_sha256(self) -> str:
        """Of the graph's file: it stands for the weights, the graph and its attributes, and calibration."""
        return self.engine.weights_of(self.precision).sha256

    @property
    def cpu_threads(self) -> int:
        """The CPU threads of one engine."""
        return self.threads or len(os.sched_getaffinity(0))

    def graph(self) -> bytes:
        """The ONNX graph to start from, proved by its SHA-256; raises EngineError."""
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
        """What an engine loaded from this tells about itself; bounded: it takes no batch outside `shapes`."""
        return EngineInfo(
            id=f"{self.engine.name}/{self.precision}/{backend}",
            spec=self.engine,
            backend=backend,
            precision=self.precision,
            device=device,
            threads=threads,
            input_size=self.input_size,
            shapes=self.shapes if bounded else None,
            tensors=tensors if self.engine.normalisation.in_graph else "",
        )


class Backend(Protocol):
    """One way of running networks. Cheap to make; its library is imported when a method needs it."""

    name: str
    precisions: tuple[Precision, ...]  # that it can run at all
    suffix: str  # of the file it builds, such as ".plan"; empty where it loads the graph itself

    @property
    def device(self) -> str:
        """Where it would run here: "cpu" or "cuda"; asked only when why_not() has nothing against it."""
        ...

    def why_not(self, precision: Precision) -> str | None:
        """None when it can run here in this precision, else what is missing and what to do about it."""
        ...

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        """The same for building: a library may build here what only another machine can run."""
        ...

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        """What else its artifact depends on: versions, SM or CPU features, and a number that changes with its
        own code. Part of the key, so of short, exact values."""
        ...

    def build(self, spec: BuildSpec, out: Path, progress: Progress) -> None:
        """Write the artifact to `out`, a new file. Runs in a process of its own; raises EngineError."""
        ...

    def load(self, spec: BuildSpec, artifact: Path | None) -> Engine:
        """Make an engine, of the artifact where it builds one. Raises EngineError for one it cannot use."""
        ...


class Choice(NamedTuple):
    """A backend, and what it builds or loads."""

    backend: Backend
    spec: BuildSpec

    @property
    def engine_id(self) -> str:
        return f"{self.spec.engine.name}/{self.spec.precision}/{self.backend.name}"


def backend_of(name: str) -> Backend:
    """The backend of this name; raises EngineError for one that there is not."""
    module, kind = BACKENDS[name].split(":")
    try:
        return cast(Backend, getattr(importlib.import_module(module), kind)())
    except ModuleNotFoundError as error:
        raise EngineError(f"backend {name}: {error}") from error


def build_spec(config: EngineConfig, folder: Path, engine: EngineSpec, precision: Precision) -> BuildSpec:
    """What the settings ask for, with shapes for every frame between 3:1 and 1:3."""
    wanted = config.input_size or engine.input_size
    size = fit_size(wanted, wanted, engine.size_multiple)
    return BuildSpec(
        engine=engine,
        folder=str(folder.absolute()),
        precision=precision,
        input_size=size,
        shapes=usual_shapes(size, engine.size_multiple, config.max_batch),
        threads=threads_of_lane(config),
    )


def threads_of_lane(config: EngineConfig) -> int:
    """The CPU threads of each of its engines; 0 for one for each core, where there is one engine."""
    if config.replicas == 1:
        return config.threads
    return max(1, (config.threads or len(os.sched_getaffinity(0))) // config.replicas)


def usual_shapes(size: Size, multiple: int, max_batch: int) -> Shapes:
    """Shapes around an input size: frames of another aspect ratio keep its number of pixels (fit_size)."""
    pixels = size[0] * size[1]
    shortest = max(1, math.floor(math.sqrt(pixels / PROFILE_ASPECT) / multiple)) * multiple
    longest = math.ceil(math.sqrt(pixels * PROFILE_ASPECT) / multiple) * multiple
    usual = (max(1, round(size[0] / multiple)) * multiple, max(1, round(size[1] / multiple)) * multiple)
    return Shapes((1, shortest, shortest), (1, *usual), (max_batch, longest, longest))


def backend_names() -> tuple[str, ...]:
    """The names that the setting engine.backend takes, but for auto."""
    return tuple(name for name in get_args(BackendName) if name != "auto")
