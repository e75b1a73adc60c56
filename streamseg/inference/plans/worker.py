"""The build process: one order in, lines of progress out. Started by build.py."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from pathlib import Path

import msgspec

from streamseg.errors import EngineError, one_line
from streamseg.inference.backends.protocol import Backend, BuildSpec, Choice, OnProgress, backend_of
from streamseg.inference.plans import cache
from streamseg.inference.plans.build import Line, Order
from streamseg.inference.plans.cache import Agreement
from streamseg.inference.plans.load import open_engine, ready_plan
from streamseg.inference.plans.recipe_key import recipe_of
from streamseg.inference.plans.verify import Measured, check_agreement, measure
from streamseg.runtime.child import lower_priority

NICE = 5  # about a quarter of a busy core: with less, the build would never end beside a busy route


def main() -> None:
    """Build what standard input orders; this process ends when standard input does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # meant for the parent, which then ends us
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print goes into the log
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if order.quiet:
        lower_priority(NICE, "batch")

    def send(line: Line) -> None:
        answers.write(msgspec.json.encode(line) + b"\n")

    try:
        if not order.prove or _lacks_plan(order):
            build(order, lambda text: send(Line(progress=text)))
        if order.prove:
            send(Line(measured=prove(order)))
        send(Line(done=True))
    except EngineError as error:
        send(Line(error=str(error)))
    except Exception as error:  # noqa: BLE001 - a library may raise anything; the log has its stack
        import traceback

        traceback.print_exc()
        send(Line(error=f"{order.backend}: {type(error).__name__}: {one_line(error)}"))


def build(order: Order, progress: OnProgress) -> None:
    """Build the plan of an order, unless another process has built it meanwhile. Raises EngineError."""
    backend, spec, folder = backend_of(order.backend), order.spec, Path(order.folder)
    if reason := backend.why_not_build(spec.precision, spec.target):
        raise EngineError(f"backend {backend.name}: {reason}")
    recipe = recipe_of(backend, spec)
    progress("taking the build lock")
    with cache.building(folder, recipe.key):
        if not order.again and cache.find_plan([folder], recipe, progress) is not None:
            progress("another process has built it")
            return
        part = cache.part_file(folder, recipe, backend.suffix)
        begun = time.monotonic()
        progress(f"building for {spec.target or backend_device(backend, spec)}")
        backend.build(spec, part, progress)
        took_s = time.monotonic() - begun
        agreement = _agreement(backend, spec, part, progress)
        plan = cache.keep_plan(
            part,
            recipe,
            engine=spec.engine.name,
            device=spec.target or backend_device(backend, spec),
            suffix=backend.suffix,
            took_s=took_s,
            agreement=agreement,
        )
        progress(f"built in {took_s:.1f} s, {plan.manifest.bytes / 1e6:.1f} MB: {plan.path}")


def _lacks_plan(order: Order) -> bool:
    backend = backend_of(order.backend)
    return bool(backend.suffix) and ready_plan(Choice(backend, order.spec)) is None


def prove(order: Order) -> Measured:
    """Compare the engine of an order, whose plan is there, with fp32. Raises EngineError."""
    backend, spec = backend_of(order.backend), order.spec
    plan = ready_plan(Choice(backend, spec)) if backend.suffix else None
    if backend.suffix and plan is None:
        raise EngineError(f"backend {backend.name}: its plan disappeared after it was built")
    with contextlib.closing(open_engine(backend, spec, None if plan is None else plan.path)) as engine:
        return measure(engine, spec)


def backend_device(backend: Backend, spec: BuildSpec) -> str:
    """Where the plan runs: on this machine's device, or elsewhere."""
    return backend.device if backend.why_not(spec.precision) is None else "another machine"


def _agreement(backend: Backend, spec: BuildSpec, part: Path, progress: OnProgress) -> Agreement | None:
    if spec.target or backend.why_not(spec.precision) is not None:
        progress("not compared with fp32: it cannot run on this machine")
        return None
    progress("comparing it with fp32")
    engine = open_engine(backend, spec, part)
    try:
        found = check_agreement(engine, spec)
    finally:
        engine.close()
    progress(
        f"{found.argmax_percent:.2f} % of labels as in fp32, logits {found.max_difference:.3g} off at most"
    )
    return found


def _end_with_parent() -> None:
    while os.read(0, 4096):  # not sys.stdin, whose lock Python takes when it ends
        pass
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
