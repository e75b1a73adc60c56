"""Serve on an engine that is ready; switch to a better one when its plan has been built."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, cast

from streamseg.config import EngineConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import Choice
from streamseg.inference.backends.select import choices, fallback
from streamseg.inference.engine import Engine, EngineInfo, Queued, TensorEngine
from streamseg.inference.plans.build import Build, BuildStopped
from streamseg.inference.plans.load import (
    check_proof,
    close_all,
    load_choice,
    load_plan,
    load_replicas,
    open_engine,
    proof_of,
    skip,
)
from streamseg.inference.plans.proof import Proof, kept_proof, needs_proof
from streamseg.runtime.memory import apart
from streamseg.types import F32, U8, Size

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)

PROVE_WITHIN_S = 4.0
"""So long a start waits for a comparison with fp32, which takes a second or two where nothing else runs."""

OnChange = Callable[[Literal["fallback", "running"], str, EngineInfo], None]


class SwitchEngine:
    """An engine that can be replaced between two batches by another one of the same network.

    Belongs to one thread, like any engine; switch() may be called from another. The replaced engine is kept
    for batches of shapes that the new one does not take.
    """

    def __init__(self, first: Engine, spare: Callable[[], Engine] | None = None) -> None:
        """spare: loads an engine for batches that `first` does not take; called when it is needed."""
        self._engine = self._used = first
        self._spare: Engine | None = None
        self._load_spare = spare
        self._lock = threading.Lock()  # guards _next and _closed
        self._next: Engine | None = None
        self._closed = False

    @property
    def info(self) -> EngineInfo:
        """Of the engine that ran the last batch."""
        return self._used.info

    def switch(self, engine: Engine) -> None:
        """Run `engine` from the next batch on; takes ownership of it."""
        with self._lock:
            if not self._closed:
                engine, self._next = self._next, engine  # type: ignore[assignment]
        if engine is not None:
            engine.close()

    def __call__(self, batch: U8) -> F32:
        engine = self._for(batch)
        logits = engine(batch)
        self._used = engine
        return logits

    def on_device(self, batch: Tensor) -> Queued | F32:
        """See TensorEngine; by way of the host when the current engine takes no tensors."""
        engine = self._for(batch)
        fits = engine.info.tensors in ("cuda", str(batch.device.type))
        logits = cast(TensorEngine, engine).on_device(batch) if fits else engine(batch.cpu().numpy())
        self._used = engine
        return logits

    def warm_up(self, size: Size) -> float:
        return self._engine.warm_up(size)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            engines = (self._engine, self._spare, self._next)
            self._next = None
        for engine in engines:
            if engine is not None:
                engine.close()

    def _for(self, batch: U8 | Tensor) -> Engine:
        with self._lock:
            new, self._next = self._next, None
        if new is not None:
            log.info("engine %s replaces %s", new.info.id, self._engine.info.id)
            if self._spare is not None:
                self._spare.close()
            self._engine, self._spare = new, self._engine
            if new.info.shapes is None:
                self._spare.close()
                self._spare = None
        shapes = self._engine.info.shapes
        if shapes is None or shapes.take((batch.shape[0], batch.shape[1], batch.shape[2])):
            return self._engine
        if self._spare is None and self._load_spare is not None:
            self._spare = self._load_spare()
            log.info("engine %s runs batches of shape %s", self._spare.info.id, batch.shape)
        return self._spare or self._engine


def start_engines(config: EngineConfig, wait_s: float = PROVE_WITHIN_S) -> tuple[list[Engine], list[Choice]]:
    """Load the best engine that is ready, once for each replica; also give better ones to build, best first.

    Blocks while it loads, and for wait_s more where a form has to be compared with fp32 first; builds only
    where no engine can serve meanwhile. Raises EngineError.
    """
    found = choices(config)
    at = 0  # of the choice that is tried; those before it have failed
    deadline_s = time.monotonic() + wait_s

    def stand_in() -> Choice | None:
        return fallback(config, [one for one in found[at:] if _may_serve(config, one)])

    def spare() -> Engine:
        ready = stand_in()
        if ready is None:
            raise EngineError(f"engine {config.name}: no engine on this machine takes frames of this shape")
        return open_engine(ready.backend, ready.spec, None)

    for at, choice in enumerate(found):
        try:
            if needs_proof(config, choice):
                ready = stand_in()
                within_s = None if ready is None else deadline_s - time.monotonic()
                proof = _proof_within(choice, within_s)
                if proof is None:
                    assert ready is not None, "else it was waited for"
                    return _replicas(config, ready, load_choice(ready)), found[at : _place(ready, found)]
                check_proof(choice, proof)
            if not choice.backend.suffix:
                return _replicas(config, choice, load_choice(choice)), []
            engine = load_plan(choice)
            if engine is None and needs_proof(config, choice):  # it has a proof, so it is built soon
                engine = _built_within(choice, deadline_s - time.monotonic())
            if engine is not None:
                return _replicas(config, choice, engine, spare), []
            ready = stand_in()
            if ready is not None:
                return _replicas(config, ready, load_choice(ready)), found[at : _place(ready, found)]
            return _replicas(config, choice, load_choice(choice)), []
        except EngineError as error:
            if at == len(found) - 1:
                raise
            skip(choice, error)
    raise AssertionError("choices() is never empty")


def _place(choice: Choice, found: list[Choice]) -> int:
    """The index of a choice in the list; the length of the list if it is not there."""
    return next((at for at, one in enumerate(found) if one.engine_id == choice.engine_id), len(found))


def _may_serve(config: EngineConfig, choice: Choice) -> bool:
    """Whether a form may serve at once: it needs no proof, or has a good one."""
    if not needs_proof(config, choice):
        return True
    proof = kept_proof(choice)
    return proof is not None and not proof.problem


def _proof_within(choice: Choice, timeout_s: float | None) -> Proof | None:
    """The proof of a form, kept or made within this time; None where it took longer. Raises EngineError."""
    kept = kept_proof(choice)
    if kept is not None or timeout_s is None:
        return kept or proof_of(choice)
    if timeout_s <= 0:
        return None
    build = Build(choice, prove=True, progress=lambda text: None)
    with _stopped_after(build, timeout_s):
        try:
            return proof_of(choice, build)
        except BuildStopped:
            return None


def _built_within(choice: Choice, timeout_s: float) -> Engine | None:
    """The engine of a plan that is built now; None where it took longer. Raises EngineError."""
    if timeout_s <= 0:
        return None
    build = Build(choice, progress=lambda text: None)
    with _stopped_after(build, timeout_s):
        try:
            return load_choice(choice, build)
        except BuildStopped:
            return None


@contextlib.contextmanager
def _stopped_after(build: Build, timeout_s: float) -> Iterator[None]:
    timer = threading.Timer(timeout_s, build.stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _replicas(
    config: EngineConfig, choice: Choice, first: Engine, spare: Callable[[], Engine] | None = None
) -> list[Engine]:
    engines = load_replicas(config.replicas, choice, first)
    return engines if spare is None else [SwitchEngine(engine, spare) for engine in engines]


class Upgrade:
    """Builds a better engine in the background, loads it for each replica, runs it once, and switches.

    Of several the first that can be built and, where it has to, agrees with fp32. What fails is reported
    once; the current engine keeps serving. start() and stop() in one thread.
    """

    def __init__(
        self, config: EngineConfig, choices: Sequence[Choice], engines: Sequence[Engine], on_change: OnChange
    ) -> None:
        """engines: those that serve until then; use and close `self.engines` in their place from now on.

        on_change: called with the state, why, and the engine that serves; also from the build thread.
        """
        self.engines = [SwitchEngine(engine) for engine in engines]
        self._choices = choices
        self._on_change = on_change
        self._builds = [Build(one, quiet=True, prove=needs_proof(config, one)) for one in choices]
        self._proves = [needs_proof(config, one) for one in choices]
        self.alone_s: float | None = None  # a picture, once the better engine runs, if it is the only one
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="build", daemon=True)

    def start(self) -> None:
        wanted, serving = self._choices[0], self.engines[0].info
        proves = self._proves[0]
        what = "is compared with fp32" if proves else "must be built"
        log.info("engine %s %s first; %s serves until then", wanted.engine_id, what, serving.id)
        doing = "is being compared with fp32" if proves else "is being built"
        self._on_change("fallback", f"{wanted.engine_id} {doing}", serving)
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> bool:
        """Stop the build; True when its thread has ended. Stopping twice is fine."""
        self._stopping.set()
        for build in self._builds:
            build.stop()
        if self._thread.ident is not None:
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        begun_s = time.monotonic()
        for choice, build, proves in zip(self._choices, self._builds, self._proves, strict=True):
            wanted, engines = choice.engine_id, list[Engine]()
            try:
                with apart():
                    if proves:
                        check_proof(choice, proof_of(choice, build))
                    engines = load_replicas(len(self.engines), choice, load_choice(choice, build))
                    for engine in engines:
                        if self._stopping.is_set():
                            return close_all(engines)
                        took_s = engine.warm_up(engine.info.input_size)
                if len(engines) == 1:
                    self.alone_s = min(took_s, engines[0].warm_up(engines[0].info.input_size))
            except BuildStopped:
                return
            except Exception as error:  # noqa: BLE001 - a library may raise anything; the current engine serves on
                close_all(engines)
                self._failed(choice, error, proves)
                continue
            log.info("engine %s is ready after %.1f s", wanted, time.monotonic() - begun_s)
            info = engines[0].info
            for replica, engine in zip(self.engines, engines, strict=True):
                replica.switch(engine)
            self._on_change("running", "", info)
            return

    def _failed(self, choice: Choice, error: Exception, proves: bool) -> None:
        reason = str(error) if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
        wanted, serving = choice.engine_id, self.engines[0].info
        proof = kept_proof(choice) if proves else None
        if proof is not None and proof.problem:
            log.warning("engine %s: skipped: %s; %s keeps serving", wanted, reason, serving.id)
            self._on_change("running", f"{wanted} is skipped: {reason}", serving)
            return
        log.warning("engine %s failed: %s; %s keeps serving", wanted, reason, serving.id)
        self._on_change("fallback", f"{wanted} failed: {reason}", serving)
