"""Building and opening plans. Written once for both libraries, which have the same API.

`library` is the module tensorrt or tensorrt_rtx. Its messages go to standard error, in the build process its
log, and its errors into the EngineError.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from streamseg.errors import EngineError, one_line
from streamseg.inference.backends.protocol import BuildSpec, OnProgress
from streamseg.inference.engine import Shapes
from streamseg.runtime.terminal import echo

Library = Any
REPORT_EVERY_S = 2.0


def build_plan(
    library: Library, graph: bytes, shapes: Shapes, target: str = "", progress: OnProgress = lambda text: None
) -> bytes:
    """Build the plan of a rewritten graph (graph.py) for a target such as "sm_89", or for this machine's GPU.

    It takes batches within `shapes`. Raises EngineError with the library's reason.
    """
    logger = make_logger(library)
    builder = library.Builder(logger)
    typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        reasons = "; ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors)
        raise EngineError(f"TensorRT cannot take the graph: {one_line(reasons, 400)}")
    config = builder.create_builder_config()
    if target:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability(library, target), 0)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, *profile_shapes(shapes))
    config.add_optimization_profile(profile)
    config.progress_monitor = make_progress(library, progress)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise EngineError(f"TensorRT cannot build it: {logger.last_errors()}")
    return bytes(built)


def open_plan(library: Library, runtime: Any, logger: Any, plan: Path, spec: BuildSpec) -> Any:
    """Deserialise a plan for this machine's GPU, and check that it fits `spec`; raises EngineError."""
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise EngineError(f"engine {spec.engine.name}: TensorRT refuses {plan.name}: {logger.last_errors()}")
    if problem := unlike(library, engine, spec):
        raise EngineError(f"engine {spec.engine.name}: {plan.name} does not fit: {problem}")
    return engine


def unlike(library: Library, engine: Any, spec: BuildSpec) -> str:
    """How an engine's inputs and outputs differ from `spec`; empty where they do not."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    if len(names) != 2:
        return f"it has {len(names)} inputs and outputs, not 2"
    picture, answer = names
    if engine.get_tensor_mode(picture) != library.TensorIOMode.INPUT:
        picture, answer = answer, picture
    types = engine.get_tensor_dtype(picture), engine.get_tensor_dtype(answer)
    if types != (library.uint8, library.float32):
        return "it does not turn uint8 pictures into float32 logits"
    if engine.get_tensor_shape(answer)[1] != len(spec.engine.classes):
        return f"it has {engine.get_tensor_shape(answer)[1]} classes, not {len(spec.engine.classes)}"
    found = [tuple(shape) for shape in engine.get_tensor_profile_shape(picture, 0)]
    if found != profile_shapes(spec.shapes):
        return f"it takes batches of {found}, not {profile_shapes(spec.shapes)}"
    return ""


def profile_shapes(shapes: Shapes) -> list[tuple[int, ...]]:
    """Smallest, usual and largest batch, (N, H, W, 3)."""
    return [(*shape, 3) for shape in (shapes.smallest, shapes.usual, shapes.largest)]


def targets(library: Library) -> list[str]:
    """The GPUs that plans can be built for on any machine, such as "sm_89"."""
    members = library.ComputeCapability.__members__
    return sorted((f"sm_{name[2:]}" for name in members if name.startswith("SM")), key=lambda sm: int(sm[3:]))


def capability(library: Library, target: str) -> Any:
    """The library's name for a target such as "sm_89"; raises EngineError with the known ones."""
    if target not in targets(library):
        raise EngineError(f"TensorRT-RTX builds for {', '.join(targets(library))}, not for {target}")
    return library.ComputeCapability.__members__[f"SM{target[3:]}"]


def make_logger(library: Library) -> Any:
    """An ILogger that keeps the last errors; last_errors() gives them as one line."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(library.ILogger.WARNING):
                echo(message, err=True)
            if int(severity) <= int(library.ILogger.ERROR):
                self._errors = [*self._errors, message][-3:]

        def last_errors(self) -> str:
            return one_line("; ".join(self._errors), 400) or "no reason given"

    return Logger()


def make_progress(library: Library, progress: OnProgress) -> Any:
    """An IProgressMonitor that reports every few seconds how far a build is."""

    class Monitor(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._reported_s = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self._reported_s > REPORT_EVERY_S:
                self._reported_s = time.monotonic()
                progress(f"{phase_name}: step {step + 1} of {self._steps.get(phase_name, 0)}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
