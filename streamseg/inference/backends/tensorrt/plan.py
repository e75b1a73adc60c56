"""A plan: what TensorRT's builder makes of a graph. Written once for both libraries, whose APIs agree.

`library` is the module tensorrt or tensorrt_rtx. Whatever it says goes to standard error, in the builder's
process its log, and its errors into the EngineError.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import BuildSpec, Say
from streamseg.inference.spec import Shapes

Library = Any
SAY_EVERY_S = 2.0


def build_plan(
    library: Library, graph: bytes, shapes: Shapes, target: str = "", say: Say = lambda text: None
) -> bytes:
    """Build the plan of a rewritten graph (see graph.py) for a target such as "sm_89", or the GPU at hand.

    It takes batches within `shapes`. Raises EngineError with what the library said.
    """
    logger = make_logger(library)
    builder = library.Builder(logger)
    typed = 1 << int(library.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(typed)
    parser = library.OnnxParser(network, logger)
    if not parser.parse(graph):
        errors = [parser.get_error(i) for i in range(parser.num_errors)]
        told = "; ".join(f"{e.node_operator()} {e.node_name()}: {e.desc()}" for e in errors)
        raise EngineError(f"TensorRT cannot take the graph: {_line(told)}")
    config = builder.create_builder_config()
    if target:
        config.num_compute_capabilities = 1
        config.set_compute_capability(capability(library, target), 0)
    profile = builder.create_optimization_profile()
    profile.set_shape(network.get_input(0).name, *profile_shapes(shapes))
    config.add_optimization_profile(profile)
    config.progress_monitor = make_progress(library, say)
    built = builder.build_serialized_network(network, config)
    if built is None:
        raise EngineError(f"TensorRT cannot build it: {logger.told()}")
    return bytes(built)


def open_plan(library: Library, runtime: Any, logger: Any, artifact: Path, spec: BuildSpec) -> Any:
    """Deserialise a plan for the GPU at hand, and check that it is one of `spec`; raises EngineError."""
    engine = runtime.deserialize_cuda_engine(artifact.read_bytes())
    if engine is None:
        raise EngineError(f"engine {spec.engine.name}: TensorRT refuses {artifact.name}: {logger.told()}")
    if problem := unlike(library, engine, spec):
        raise EngineError(f"engine {spec.engine.name}: {artifact.name} is another plan: {problem}")
    return engine


def unlike(library: Library, engine: Any, spec: BuildSpec) -> str:
    """What of an engine's inputs and outputs is not as `spec` has it; empty where all is."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    if len(names) != 2:
        return f"it has {len(names)} inputs and outputs, not 2"
    picture, answer = names
    if engine.get_tensor_mode(picture) != library.TensorIOMode.INPUT:
        picture, answer = answer, picture
    wanted = library.float32 if spec.output == "logits" else library.uint8
    if engine.get_tensor_dtype(picture) != library.uint8 or engine.get_tensor_dtype(answer) != wanted:
        return f"it does not turn uint8 pictures into {spec.output}"
    if spec.output == "logits" and engine.get_tensor_shape(answer)[1] != len(spec.engine.classes):
        return f"it has {engine.get_tensor_shape(answer)[1]} classes, not {len(spec.engine.classes)}"
    found = [tuple(shape) for shape in engine.get_tensor_profile_shape(picture, 0)]
    if found != profile_shapes(spec.shapes):
        return f"it takes batches of {found}, not {profile_shapes(spec.shapes)}"
    return ""


def profile_shapes(shapes: Shapes) -> list[tuple[int, ...]]:
    """Smallest, usual and largest batch, (N, H, W, 3)."""
    return [(*shape, 3) for shape in (shapes.smallest, shapes.usual, shapes.largest)]


def targets(library: Library) -> list[str]:
    """The GPUs that plans can be built for without having one, such as "sm_89"."""
    members = library.ComputeCapability.__members__
    return sorted((f"sm_{name[2:]}" for name in members if name.startswith("SM")), key=lambda sm: int(sm[3:]))


def capability(library: Library, target: str) -> Any:
    """The library's name for a target such as "sm_89"; raises EngineError with those there are."""
    if target not in targets(library):
        raise EngineError(f"TensorRT-RTX builds for {', '.join(targets(library))}, not for {target}")
    return library.ComputeCapability.__members__[f"SM{target[3:]}"]


def make_logger(library: Library) -> Any:
    """An ILogger that keeps the last errors; told() gives them as one line."""

    class Logger(library.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            library.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if int(severity) <= int(library.ILogger.WARNING):
                print(message, file=sys.stderr)
            if int(severity) <= int(library.ILogger.ERROR):
                self._errors = [*self._errors, message][-3:]

        def told(self) -> str:
            return _line("; ".join(self._errors)) or "it gives no reason"

    return Logger()


def make_progress(library: Library, say: Say) -> Any:
    """An IProgressMonitor that says how far a build is, every few seconds."""

    class Progress(library.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            library.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._said_s = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self._said_s > SAY_EVERY_S:
                self._said_s = time.monotonic()
                say(f"{phase_name}: step {step + 1} of {self._steps.get(phase_name, 0)}")
            return True

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Progress()


def _line(text: str) -> str:
    return " ".join(text.split())[:400]
