"""Selects backend and precision of a network: those asked for, or the best that work on this machine."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import msgspec

from streamseg.config import EngineConfig, Precision
from streamseg.errors import EngineError
from streamseg.inference.backends.device import (
    Cuda,
    cpu_has_bf16,
    cuda_device,
    cuda_missing,
    gpu_precisions,
)
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
    """The forms in which this machine can run the engine of these settings, best first; never empty.

    Of precision = "auto" there are several; one that is not fp32 has yet to be compared with it
    (plans/proof.py). Logs in one line why better ones were skipped. $STREAMSEG_BACKENDS, a comma-separated
    list, limits backend = "auto". Raises EngineError with every reason when there is none.
    """
    folder, engine = find_engine(config.name)
    if engine.gives == "labels":
        log.info(
            "engine %s: gives class ids: its masks have no confidence, and the CRF and fusion are off",
            engine.name,
        )
    reasons: dict[str, list[str]] = {}  # why → who, in order
    found: list[Choice] = []
    auto = config.precision == "auto"
    for name, device, precision in _forms(config, engine):
        why, backend = _try(name, device, precision, engine)
        if backend is not None:
            found.append(Choice(backend, build_spec(config, folder, engine, precision)))
        elif not found and (not auto or _runs(name, precision)):
            reasons.setdefault(why, []).append(name)
    skipped = [f"{', '.join(dict.fromkeys(names))}: {why}" for why, names in reasons.items()]
    if auto and found and _could_be_int8(found[0].backend) and (why := _int8_missing(engine)):
        skipped.append(f"int8: {why}")
    if not found:
        raise EngineError(
            f"engine {engine.name} in {config.precision}: no backend can run it on this machine; "
            f"{'; '.join(skipped)}"
        )
    if skipped:
        log.info("engine %s: skipped: %s", engine.name, "; ".join(skipped))
    return found


def plan_to_build(config: EngineConfig, target: str = "") -> Choice:
    """What `streamseg engine build` builds: for the backend asked for, or the best one that builds plans.

    target: the GPU it is for, such as "sm_89"; empty for this machine. Raises EngineError with every reason.
    """
    folder, engine = find_engine(config.name)
    reasons: dict[str, None] = {}  # in order
    for name, _, precision in _forms(config, engine, target):
        backend = backend_of(name)
        reason = _form_problem(name, engine) or backend.why_not_build(precision, target)
        if reason is None:
            spec = build_spec(config, folder, engine, precision)
            return Choice(backend, msgspec.structs.replace(spec, target=target))
        reasons[f"{name}: {reason}"] = None
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


def _forms(
    config: EngineConfig, engine: EngineSpec, target: str = ""
) -> Iterator[tuple[str, str, Precision]]:
    """(name, device, precision) to try, best first; an empty device means any. Raises EngineError."""
    wanted = _wanted(config)
    if config.precision != "auto":
        engine.weights_of(config.precision)
        for name, device in wanted:
            yield name, device, config.precision
        return
    found = cuda_device()
    sm = target or (found.sm if isinstance(found, Cuda) else "")
    on_cpu: list[Precision] = ["int8"] if not _int8_missing(engine) else []
    on_cpu += ["bf16", "fp32"] if cpu_has_bf16() else ["fp32"]
    for device, precisions in (("cuda", gpu_precisions(sm)), ("cpu", tuple(on_cpu))):
        if target and device == "cpu":
            continue
        for precision in precisions if "fp32" in engine.weights else ("int8",):
            for name, of in wanted:
                if of == device or (not of and (target or device == _device(name))):
                    yield name, of, precision


def _device(name: str) -> str:
    """Where a backend that was asked for would run."""
    if {device for known, device in ORDER if known == name} == {"cpu"} or cuda_missing():
        return "cpu"
    return "cuda"


def _could_be_int8(backend: Backend) -> bool:
    return backend.device == "cpu" and "int8" in backend.precisions


def _int8_missing(engine: EngineSpec) -> str:
    """Why an engine is not to be run in int8; empty where it is."""
    made = "int8" in engine.weights
    return "" if made else "this engine has no such form; streamseg engine quantise makes it"


def _runs(name: str, precision: Precision) -> bool:
    """Whether a backend runs a precision on some machine."""
    try:
        return precision in backend_of(name).precisions
    except EngineError:
        return True  # its library is missing: that is the reason


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
