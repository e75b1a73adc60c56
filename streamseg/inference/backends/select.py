"""Selects the backend that runs the network: the one asked for, or the best that works on this machine."""

from __future__ import annotations

import logging
import os

import msgspec

from streamseg.config import EngineConfig, Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.device import cuda_missing
from streamseg.inference.backends.protocol import Backend, Choice, backend_of, build_spec
from streamseg.inference.spec import EngineSpec, find_engine

log = logging.getLogger(__name__)

# Best first, on a GPU and then on the CPU.
ORDER = (
    ("tensorrt", "cuda"),
    ("tensorrt-rtx", "cuda"),
    ("aoti", "cuda"),
    ("torch", "cuda"),
    ("onnx-tensorrt", "cuda"),
    ("onnx-cuda", "cuda"),
    ("openvino", "cpu"),
    ("onnx", "cpu"),
    ("torch", "cpu"),
)
_USUAL_ONLY = ("tensorrt", "tensorrt-rtx", "aoti", "onnx-tensorrt")  # EngineSpec.usual
LIMIT = "STREAMSEG_BACKENDS"


def choices(config: EngineConfig) -> list[Choice]:
    """The backends that can run the engine of these settings on this machine, best first; never empty.

    For backend = "auto" it logs why better ones were skipped. $STREAMSEG_BACKENDS, a comma-separated list,
    limits auto. Raises EngineError with every reason when there is none.
    """
    folder, engine = find_engine(config.name)
    engine.weights_of(config.precision)
    if engine.gives == "labels":
        log.info(
            "engine %s: gives class ids: its masks have no confidence, and the CRF and fusion are off",
            engine.name,
        )
    reasons: dict[str, list[str]] = {}  # why → who, in order
    found: list[Choice] = []
    for name, device in _wanted(config):
        why, backend = _try(name, device, config.precision, engine)
        if backend is not None:
            found.append(Choice(backend, build_spec(config, folder, engine, config.precision)))
        elif not found:
            reasons.setdefault(why, []).append(name)
    skipped = [f"{', '.join(names)}: {why}" for why, names in reasons.items()]
    if not found:
        raise EngineError(
            f"engine {engine.name} in {config.precision}: no backend can run it on this machine; "
            f"{'; '.join(skipped)}"
        )
    for line in skipped:
        log.info("engine %s: skipped: %s", engine.name, line)
    return found


def plan_to_build(config: EngineConfig, target: str = "") -> Choice:
    """What `streamseg engine build` builds: for the backend asked for, or the best one that builds plans.

    target: the GPU it is for, such as "sm_89"; empty for this machine. Raises EngineError with every reason.
    """
    folder, engine = find_engine(config.name)
    reasons = []
    for name in dict.fromkeys(name for name, _ in _wanted(config)):
        backend = backend_of(name)
        reason = _form_problem(name, engine) or backend.why_not_build(config.precision, target)
        if reason is None:
            spec = build_spec(config, folder, engine, config.precision)
            return Choice(backend, msgspec.structs.replace(spec, target=target))
        reasons.append(f"{name}: {reason}")
    raise EngineError(
        f"engine {engine.name} in {config.precision}: no backend can build a plan; {'; '.join(reasons)}"
    )


def fallback(config: EngineConfig, found: list[Choice]) -> Choice | None:
    """What serves until the first choice is built: the best backend that needs no plan.

    Where none has the precision asked for, ONNX Runtime in the best precision that the engine has.
    """
    ready = [choice for choice in found if not choice.backend.suffix]
    if ready:
        return ready[0]
    folder, engine = find_engine(config.name)
    others: tuple[Precision, ...] = ("int8", "fp32") if config.precision == "int8" else ("fp32", "int8")
    for precision in others:
        if precision in engine.weights:
            return Choice(backend_of("onnx"), build_spec(config, folder, engine, precision))
    return None


def _wanted(config: EngineConfig) -> list[tuple[str, str]]:
    """(name, device) of the backends to try, best first; an empty device means any."""
    if config.backend != "auto":
        return [(config.backend, "")]
    limit = [name.strip() for name in os.environ.get(LIMIT, "").split(",") if name.strip()]
    return [(name, device) for name, device in ORDER if not limit or name in limit]


def _try(name: str, device: str, precision: Precision, engine: EngineSpec) -> tuple[str, Backend | None]:
    """Why a backend cannot run this engine on this machine, or the backend."""
    if problem := _form_problem(name, engine):
        return problem, None
    if device == "cuda" and (reason := cuda_missing()):
        return reason, None
    try:
        backend = backend_of(name)
    except EngineError as error:
        return str(error), None
    if missing := backend.why_not(precision):
        return missing, None
    if device and backend.device != device:
        return f"would run on {backend.device}", None
    return "", backend


def _form_problem(name: str, engine: EngineSpec) -> str:
    if name not in _USUAL_ONLY or engine.usual:
        return ""
    return "runs only graphs that take uint8 RGB (N, H, W, 3) and give logits"
