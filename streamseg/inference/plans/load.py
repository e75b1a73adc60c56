"""Loads a chosen backend: its plan from the cache, built first where there is none."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import Backend, BuildSpec, Choice
from streamseg.inference.backends.select import choices
from streamseg.inference.engine import Engine
from streamseg.inference.interface import check_runs
from streamseg.inference.plans.build import Build
from streamseg.inference.plans.cache import Plan, drop_plan, find_plan, mark_used, plan_folders
from streamseg.inference.plans.proof import Proof, SlowerForm, keep_proof, kept_proof, needs_proof
from streamseg.inference.plans.recipe_key import recipe_of

log = logging.getLogger(__name__)


def load_engine(config: EngineConfig) -> Engine:
    """Load the engine that the settings name, building its plan first where it needs one. Blocks.

    With backend = "auto" or precision = "auto" the next best is taken when one fails, or disagrees with fp32.
    Raises EngineError with what is missing or damaged.
    """
    found = choices(config)
    for at, choice in enumerate(found):
        try:
            if needs_proof(config, choice):
                check_proof(choice, proof_of(choice))
            return load_choice(choice)
        except EngineError as error:
            if at == len(found) - 1:
                raise
            skip(choice, error)
    raise AssertionError("choices() is never empty")


def proof_of(choice: Choice, build: Build | None = None) -> Proof:
    """The proof of a form, made now where there is none, which builds its plan. Blocks; raises EngineError.

    build: used instead of a new one; with prove=True.
    """
    proof = kept_proof(choice)
    if proof is None:
        build = build or Build(choice, prove=True)
        build.run()
        assert build.measured is not None, "a build with prove=True measures"
        proof = keep_proof(choice, build.measured)
    return proof


def check_proof(choice: Choice, proof: Proof) -> None:
    """Log why a form is taken; raises EngineError where it is not."""
    if proof.disagreement:
        raise EngineError(proof.disagreement)
    if proof.slowness:
        raise SlowerForm(proof.slowness)
    log.info("engine %s: %s", choice.engine_id, proof.why)


def skip(choice: Choice, error: EngineError) -> None:
    """Log that a form is not taken, and the next one is tried."""
    text = str(error).removeprefix(f"engine {choice.engine_id}: ")
    level = logging.INFO if isinstance(error, SlowerForm) else logging.WARNING
    log.log(level, "engine %s: skipped: %s", choice.engine_id, text)


def load_choice(choice: Choice, build: Build | None = None) -> Engine:
    """Load an engine, building its plan first where there is none; a refused plan is built once again.

    build: used instead of a new one. Blocks. Raises EngineError; BuildStopped when `build` was stopped.
    """
    backend, spec = choice
    if not backend.suffix:
        return open_engine(backend, spec, None)
    engine = load_plan(choice)
    if engine is not None:
        return engine
    (build or Build(choice)).run()
    plan = ready_plan(choice)
    if plan is None:
        raise EngineError(f"engine {choice.engine_id}: its plan disappeared after it was built")
    return open_engine(backend, spec, plan.path)


def open_engine(backend: Backend, spec: BuildSpec, plan: Path | None) -> Engine:
    """Load an engine and check that its logits are as engine.toml says; raises EngineError."""
    engine = backend.load(spec, plan)
    try:
        check_runs(engine, spec)
    except BaseException:
        engine.close()
        raise
    for note in notes(spec):
        log.info("engine %s: %s", engine.info.id, note)
    return engine


def notes(spec: BuildSpec) -> Iterator[str]:
    """How pictures of another size become its input."""
    if spec.limits.size is not None:
        height, width = spec.limits.size
        how = "placed in it between bars" if spec.engine.fit == "letterbox" else "stretched to it"
        yield f"takes pictures of {width}x{height} only; others are {how}"


def load_replicas(count: int, choice: Choice, first: Engine) -> list[Engine]:
    """Load more engines like `first`, to have `count`, at least it alone; when one fails, all are closed.

    The plan is kept then: `first` has proved that it is a good one. Raises EngineError.
    """
    engines = [first]
    try:
        while len(engines) < count:
            plan = ready_plan(choice) if choice.backend.suffix else None
            if choice.backend.suffix and plan is None:
                raise EngineError(f"engine {choice.engine_id}: its plan was removed from the cache")
            engines.append(choice.backend.load(choice.spec, None if plan is None else plan.path))
    except BaseException:
        close_all(engines)
        raise
    return engines


def close_all(engines: Sequence[Engine]) -> None:
    """Close several engines."""
    for engine in engines:
        engine.close()


def load_plan(choice: Choice) -> Engine | None:
    """Load a plan that was built before; None where there is none that can be used."""
    plan = ready_plan(choice)
    if plan is None:
        return None
    try:
        engine = open_engine(choice.backend, choice.spec, plan.path)
    except EngineError as error:
        log.warning("engine %s: its plan is refused and will be built again: %s", choice.engine_id, error)
        drop_plan(plan)
        return None
    mark_used(plan)
    return engine


def ready_plan(choice: Choice) -> Plan | None:
    """The plan of a choice, checked, if there is one; one that is damaged or does not fit is logged."""
    folders = plan_folders(Path(choice.spec.folder))
    return find_plan(
        folders,
        recipe_of(*choice),
        lambda why: log.warning("engine %s: %s; it is not used", choice.engine_id, why),
    )
