"""ONNX Runtime: the CPU default."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.base import BaseEngine, library_errors
from streamseg.inference.backends.protocol import BuildSpec, OnProgress
from streamseg.inference.forms import Array
from streamseg.types import F32


class OnnxBackend:
    """Loads the graph itself; has no plans."""

    name = "onnx"
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    suffix = ""
    device = "cpu"

    def why_not(self, precision: Precision) -> str | None:
        if precision in self.precisions:
            return None
        return f"runs {' and '.join(self.precisions)} on a CPU, not {precision}"

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        return "loads the graph itself and has no plans"

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        return {"onnxruntime": ort.__version__}

    def build(self, spec: BuildSpec, out: Path, progress: OnProgress) -> None:
        raise EngineError("backend onnx: has no plans")

    def load(self, spec: BuildSpec, plan: Path | None) -> OnnxEngine:
        return OnnxEngine(spec)


EXACT_INT8 = ("session.x64quantprecision", "1")
"""For processors without VNNI, where weights of more than 7 bits saturate: exact then, and slower."""


class OnnxEngine(BaseEngine):
    """Runs an ONNX graph on CPU threads. Belongs to one thread; releases the GIL while it computes."""

    def __init__(
        self,
        spec: BuildSpec,
        backend: str = "onnx",
        device: str = "cpu",
        providers: Sequence[tuple[str, dict[str, str]]] = (("CPUExecutionProvider", {}),),
        graph: bytes | None = None,
    ) -> None:
        """graph: in place of the engine's. Raises EngineError for one that is missing, damaged or refused."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = spec.cpu_threads
        options.inter_op_num_threads = 1
        # Threads that spin between two frames take the core from decoding and publishing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(*EXACT_INT8)
        options.log_severity_level = 4  # its errors are raised as well
        graph = spec.graph() if graph is None else graph
        with library_errors(f"engine {spec.engine.name}: ONNX Runtime cannot load the weights"):
            self._session: Any = ort.InferenceSession(graph, options, providers=list(providers))
        self._input = spec.engine.input_name or self._session.get_inputs()[0].name
        self._outputs = [spec.engine.output_name or self._session.get_outputs()[0].name]
        super().__init__(spec, spec.info(backend, device, spec.cpu_threads))

    def _run(self, feed: Array) -> F32:
        (logits,) = self._session.run(self._outputs, {self._input: feed})
        return np.ascontiguousarray(logits, np.float32)

    def _release(self) -> None:
        self._session = None
