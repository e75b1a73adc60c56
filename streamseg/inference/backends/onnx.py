"""ONNX Runtime: the CPU default."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import BuildSpec, Say
from streamseg.inference.spec import Normalisation
from streamseg.types import F32, U8, Size


class OnnxBackend:
    """Loads the graph itself; there is nothing to build."""

    name = "onnx"
    precisions: tuple[Precision, ...] = ("fp32", "int8")
    suffix = ""
    device = "cpu"

    def why_not(self, precision: Precision) -> str | None:
        if precision in self.precisions:
            return None
        return f"runs {' and '.join(self.precisions)} on a CPU, not {precision}"

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        return "loads the graph as it is; there is nothing to build"

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        return {"onnxruntime": ort.__version__}

    def build(self, spec: BuildSpec, out: Path, say: Say) -> None:
        raise EngineError("backend onnx: there is nothing to build")

    def load(self, spec: BuildSpec, artifact: Path | None) -> OnnxEngine:
        return OnnxEngine(spec)


class OnnxEngine:
    """Runs an ONNX graph on CPU threads. Belongs to one thread; releases the GIL while it computes."""

    def __init__(self, spec: BuildSpec) -> None:
        """Raises EngineError for a graph that cannot be had or loaded."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = spec.threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        # Threads that spin between two frames take the core from decoding and publishing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        graph = spec.graph()
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                graph, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(
                f"engine {spec.engine.name}: ONNX Runtime cannot load the weights: {error}"
            ) from error
        self._input = self._session.get_inputs()[0].name
        self._norm = spec.engine.normalisation
        self.info = spec.info("onnx", "cpu", options.intra_op_num_threads)

    def __call__(self, batch: U8) -> F32:
        if self._session is None:
            raise EngineError(f"engine {self.info.id}: is closed")
        feed = batch if self._norm.in_graph else normalised(batch, self._norm)
        try:
            (logits,) = self._session.run(None, {self._input: feed})
        except Exception as error:
            raise EngineError(
                f"engine {self.info.id}: failed on a batch of {batch.shape}: {error}"
            ) from error
        return np.ascontiguousarray(logits, np.float32)

    def warm_up(self, size: Size) -> float:
        begun = time.perf_counter()
        self(np.zeros((1, *size, 3), np.uint8))
        return time.perf_counter() - begun

    def close(self) -> None:
        self._session = None


def normalised(batch: U8, norm: Normalisation) -> F32:
    """(N, H, W, 3) uint8 → (N, 3, H, W) float32, for a graph that does not do it itself."""
    scaled = (batch - np.array(norm.mean, np.float32)) / np.array(norm.std, np.float32)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)
