"""OpenVINO on CPUs (extra `openvino`). Its precision is always set: by itself it would take bf16.

Compiling takes a tenth of a second, and is still done in the build process: for one network OpenVINO's int8
ended the process it ran in.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np

from streamseg.config import Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.base import BaseEngine, library_errors
from streamseg.inference.backends.device import cpu_has_bf16, cpu_identity, int8_saturates
from streamseg.inference.backends.protocol import BuildSpec, OnProgress
from streamseg.inference.forms import Array
from streamseg.runtime.cpus import usable_cores
from streamseg.types import F32

_HINTS = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}  # int8 is in the graph; what is not quantised is fp32


class OpenvinoBackend:
    """Compiles the graph and exports it; an engine imports the export."""

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
            "threads": str(spec.cpu_threads),
            "pinned": str(_pinned(spec)),
        }

    def build(self, spec: BuildSpec, out: Path, progress: OnProgress) -> None:
        import openvino

        core = openvino.Core()
        with _openvino_errors(spec, "compile"):
            model = core.read_model(spec.graph())
            if int8_saturates() and _has_wide_weights(model):
                raise EngineError(
                    f"engine {spec.engine.name}: OpenVINO's int8 overflows on a processor without VNNI with "
                    "weights of more than 7 bits; run streamseg engine quantise --weight-bits 7, or set "
                    'engine.backend = "onnx"'
                )
            compiled = core.compile_model(model, "CPU", _settings(spec))
            blob = io.BytesIO()
            compiled.export_model(blob)
        out.write_bytes(blob.getbuffer())

    def load(self, spec: BuildSpec, plan: Path | None) -> OpenvinoEngine:
        assert plan is not None
        return OpenvinoEngine(spec, plan)


_first_call = threading.Lock()


class OpenvinoEngine(BaseEngine):
    """Runs an exported graph on CPU threads. Belongs to one thread; releases the GIL while it computes."""

    def __init__(self, spec: BuildSpec, plan: Path) -> None:
        import openvino

        with _first_call:
            openvino.Type.f32.to_dtype()  # makes a table at its first call; two threads at that hang
        with _openvino_errors(spec, "load"):
            compiled = openvino.Core().import_model(plan.read_bytes(), "CPU", _settings(spec))
            self._request: Any = compiled.create_infer_request()
            wanted = spec.engine.output_name
            self._output: Any = compiled.output(wanted) if wanted else compiled.output(0)
        super().__init__(spec, spec.info("openvino", "cpu", spec.cpu_threads))

    def _run(self, feed: Array) -> F32:
        self._request.infer([feed], share_inputs=True)
        return np.array(
            self._request.get_tensor(self._output).data, np.float32
        )  # its memory is written again

    def _release(self) -> None:
        self._request = None


def _has_wide_weights(model: Any) -> bool:
    """Whether two products of an 8-bit level with the graph's int8 weights can be more than 16 bits hold.

    Depthwise convolutions, whose weights are (C, 1, h, w), do not sum products in 16 bits.
    """
    constants = (op for op in model.get_ops() if op.get_type_name() == "Constant")
    weights = (op.data for op in constants if op.get_element_type().get_type_name() == "i8")
    summed = (w for w in weights if w.ndim != 4 or w.shape[1] != 1)
    return any(np.abs(w.astype(np.int16)).max(initial=0) > 64 for w in summed)


def _openvino_errors(spec: BuildSpec, verb: str) -> AbstractContextManager[None]:
    return library_errors(f"engine {spec.engine.name}: OpenVINO cannot {verb} it in {spec.precision}")


def _settings(spec: BuildSpec) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": _HINTS[spec.precision],
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": spec.cpu_threads,
    }
    if not _pinned(spec):
        settings["ENABLE_CPU_PINNING"] = False
    return settings


def _pinned(spec: BuildSpec) -> bool:
    """Whether OpenVINO may pin its threads to cores: only an engine that has all of them.

    It pins every engine's first thread to the same core: two engines of one thread on two cores made 60
    masks/s together, as many as one, and 119 unpinned (camvid-slim, int8). One engine of two threads is
    faster pinned: 91 masks/s, unpinned 84.
    """
    return spec.cpu_threads >= usable_cores()
