"""OpenVINO on CPUs (extra `openvino`), its precision always said: left alone it takes bf16 by itself.

Compiling takes a tenth of a second, and is still done in the builder's process: for one network OpenVINO's
int8 ended the process it ran in.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import io
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.device import cpu_has_bf16, cpu_identity
from streamseg.inference.backends.onnx import normalised
from streamseg.inference.backends.protocol import BuildSpec, Say
from streamseg.types import F32, U8, Size

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8 is in the graph; what is not quantised is fp32


class OpenvinoBackend:
    """Exports the compiled graph, which then is imported."""

    name = "openvino"
    precisions: tuple[Precision, ...] = ("fp32", "bf16", "int8")
    suffix = ".blob"
    device = "cpu"

    def why_not(self, precision: Precision) -> str | None:
        if precision not in self.precisions:
            return f"runs {', '.join(self.precisions)} on a CPU, not {precision}"
        if importlib.util.find_spec("openvino") is None:
            return "OpenVINO is not installed (pip install 'streamseg[openvino]')"
        if precision == "bf16" and not cpu_has_bf16():
            return "this processor has no bfloat16 instructions; choose fp32 or int8"
        return None

    def why_not_build(self, precision: Precision, target: str) -> str | None:
        return f"builds for this CPU only, not for {target}" if target else self.why_not(precision)

    def identity(self, spec: BuildSpec) -> dict[str, str]:
        return {
            "openvino": importlib.metadata.version("openvino"),
            "cpu": cpu_identity(),
            "threads": str(_threads(spec)),
            "pinned": str(_pinned(spec)),
        }

    def build(self, spec: BuildSpec, out: Path, say: Say) -> None:
        import openvino

        core = openvino.Core()
        with _told(spec, "compile"):
            compiled = core.compile_model(core.read_model(spec.graph()), "CPU", _settings(spec))
            blob = io.BytesIO()
            compiled.export_model(blob)
        out.write_bytes(blob.getbuffer())

    def load(self, spec: BuildSpec, artifact: Path | None) -> OpenvinoEngine:
        assert artifact is not None
        return OpenvinoEngine(spec, artifact)


_first_call = threading.Lock()


class OpenvinoEngine:
    """Runs an exported graph on CPU threads. Belongs to one thread; releases the GIL while it computes."""

    def __init__(self, spec: BuildSpec, artifact: Path) -> None:
        import openvino

        with _first_call:
            openvino.Type.f32.to_dtype()  # makes a table at its first call; two threads at that hang for ever
        with _told(spec, "load"):
            compiled = openvino.Core().import_model(artifact.read_bytes(), "CPU", _settings(spec))
            self._request: Any = compiled.create_infer_request()
        self._norm = spec.engine.normalisation
        self.info = spec.info("openvino", "cpu", _threads(spec))

    def __call__(self, batch: U8) -> F32:
        if self._request is None:
            raise EngineError(f"engine {self.info.id}: is closed")
        feed = batch if self._norm.in_graph else normalised(batch, self._norm)
        try:
            self._request.infer([feed], share_inputs=True)
        except RuntimeError as error:
            raise EngineError(
                f"engine {self.info.id}: failed on a batch of {batch.shape}: {error}"
            ) from error
        return np.array(self._request.get_output_tensor(0).data, np.float32)  # its memory is written again

    def warm_up(self, size: Size) -> float:
        begun = time.perf_counter()
        self(np.zeros((1, *size, 3), np.uint8))
        return time.perf_counter() - begun

    def close(self) -> None:
        self._request = None


def _settings(spec: BuildSpec) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[spec.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": _threads(spec),
    }
    if not _pinned(spec):
        settings["ENABLE_CPU_PINNING"] = False
    return settings


def _pinned(spec: BuildSpec) -> bool:
    """Whether OpenVINO may tie its threads to cores: only an engine that has all of them.

    It ties every engine's first thread to the same core: two engines of one thread on two cores made 60
    masks/s together, as many as one, and 119 untied (camvid-slim, int8). One engine of two threads gains by
    it: 91 tied, 84 not.
    """
    return _threads(spec) >= len(os.sched_getaffinity(0))


def _threads(spec: BuildSpec) -> int:
    return spec.threads or len(os.sched_getaffinity(0))


@contextlib.contextmanager
def _told(spec: BuildSpec, what: str) -> Iterator[None]:
    """Turn what OpenVINO raises into one line that says of which engine."""
    try:
        yield
    except EngineError:
        raise
    except RuntimeError as error:
        told = " ".join(str(error).split())[:300]
        raise EngineError(
            f"engine {spec.engine.name}: OpenVINO cannot {what} it in {spec.precision}: {told}"
        ) from error
