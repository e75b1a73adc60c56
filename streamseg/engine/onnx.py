"""ONNX Runtime: the CPU default."""

from __future__ import annotations

import os
import time

import numpy as np
import onnxruntime as ort

from streamseg.engine.spec import EngineInfo, EngineSpec
from streamseg.errors import EngineError
from streamseg.types import F32, U8, Size


class OnnxEngine:
    """Runs an ONNX graph on CPU threads. Belongs to one thread; releases the GIL while it computes."""

    def __init__(
        self,
        spec: EngineSpec,
        weights: bytes,
        *,
        precision: str,
        threads: int = 0,
        input_size: Size | None = None,
    ) -> None:
        """weights: the serialized graph. threads: 0 takes one for each core. Raises EngineError."""
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
        options.inter_op_num_threads = 1
        # Threads that spin between two frames take the core from decoding and publishing.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        try:
            self._session: ort.InferenceSession | None = ort.InferenceSession(
                weights, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise EngineError(f"engine {spec.name}: ONNX Runtime cannot load the weights: {error}") from error
        self._input = self._session.get_inputs()[0].name
        norm = spec.normalisation
        self._normalises = not norm.in_graph
        self.info = EngineInfo(
            id=f"{spec.name}/{precision}/onnx",
            spec=spec,
            backend="onnx",
            precision=precision,
            device="cpu",
            threads=options.intra_op_num_threads,
            input_size=input_size or spec.input_size,
        )

    def __call__(self, batch: U8) -> F32:
        if self._session is None:
            raise EngineError(f"engine {self.info.id}: is closed")
        feed = self._normalised(batch) if self._normalises else batch
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

    def _normalised(self, batch: U8) -> F32:
        """(N, H, W, 3) uint8 → (N, 3, H, W) float32."""
        norm = self.info.spec.normalisation
        scaled = (batch - np.array(norm.mean, np.float32)) / np.array(norm.std, np.float32)
        return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2), np.float32)
