"""Segments made by the workers of a Ray cluster.

Each segment is a task: Ray places it, runs it again when its worker or node dies, and returns its bytes. The
engine is loaded once in each worker process. The driver, which submits them, writes what comes back as it
would its own work, so it may be killed and continue like a job in one process.
"""

from __future__ import annotations

import atexit
import functools
import logging
import os
import platform
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from streamseg.config import EngineConfig
from streamseg.errors import EngineError, OutputError, StreamsegError, UsageError, one_line
from streamseg.inference.engine import Engine
from streamseg.inference.plans.load import load_engine
from streamseg.recorded.inputs import Input, fetched
from streamseg.recorded.manifest import Identity, versions
from streamseg.recorded.opening import Facts, Recording
from streamseg.recorded.segment_plan import PlannedSegment, make_segment
from streamseg.recorded.settings import ProcessConfig
from streamseg.recorded.storage import is_stored
from streamseg.refinement.flow import one_thread

RETRIES = 4
"""How often a segment is tried again after the death of its worker or node, before its input is given up."""

SEGMENTS_PER_WORKER = 2
"""Segments in the cluster for each of its workers: one that runs, one that waits."""

POLL_S = 0.2


class Cluster:
    """A connection to a Ray cluster. Any thread may use it; close() ends it, if this object made it."""

    def __init__(self, on: str = "ray") -> None:
        """Connect: "ray://HOST:PORT" to that address, "ray" to $RAY_ADDRESS or to a cluster that it starts.

        A connection that this process already has is used as it is. Raises UsageError.
        """
        if on != "ray" and not on.startswith("ray://"):
            raise UsageError(f"--on {on}: is not known; use ray or ray://HOST:PORT")
        try:
            import ray
        except ImportError:
            raise UsageError(f"--on {on}: needs Ray; pip install 'streamseg[ray]'") from None
        self._ray: Any = ray
        self._ours = not ray.is_initialized()
        if self._ours:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                with _own_signals():
                    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
                    if on == "ray":
                        options["include_dashboard"] = False  # of a cluster that we start
                    ray.init(None if on == "ray" else on, **options)
            except Exception as error:  # Ray raises a plain Exception when it is slow to start
                raise UsageError(
                    f"--on {on}: Ray could not be reached or started ({one_line(error)})"
                ) from error
        self._task = ray.remote(max_retries=RETRIES)(_segment)

    @property
    def cpus(self) -> int:
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def segments(
        self, recording: Recording, identity: Identity, planned: Iterator[PlannedSegment]
    ) -> Iterator[tuple[int, bytes]]:
        """Yield (index, bytes) of each planned segment as they are made, in any order.

        Ends early when the recording's `stop` is set. Raises what making a segment raised, and OutputError
        when its workers died too often.
        """
        ray, stop, engine = self._ray, recording.stop, recording.config.engine
        threads = engine.threads or 1
        config = msgspec.structs.replace(
            recording.config, engine=msgspec.structs.replace(engine, threads=threads)
        )
        task = self._task.options(num_cpus=threads)
        common = ray.put((recording.input, recording.facts, config, identity))
        limit = SEGMENTS_PER_WORKER * max(1, self.cpus // threads)
        running: dict[Any, int] = {}
        try:
            more = True
            while (more or running) and not stop.is_set():
                one = next(planned, None) if more and len(running) < limit else None
                more = more and (one is not None or len(running) >= limit)
                if one is not None:
                    running[task.remote(common, one)] = one.index
                full = not more or len(running) >= limit
                ready, _ = ray.wait(list(running), timeout=POLL_S if full else 0) if running else ([], [])
                for reference in ready:
                    yield running.pop(reference), self._result(recording.input, reference)
        finally:
            for reference in running:
                ray.cancel(reference, force=True)

    def close(self) -> None:
        if self._ours:
            self._ours = False
            self._ray.shutdown()

    def _result(self, one: Input, reference: Any) -> bytes:
        try:
            data: bytes = self._ray.get(reference)
        except self._ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, StreamsegError):
                raise error.cause from None
            raise
        except self._ray.exceptions.RayError as error:
            raise OutputError(
                f"{one.shown}: the cluster could not make a segment of it in {1 + RETRIES} tries "
                f"({one_line(error)}); run the same command again to continue"
            ) from error
        return data


def _segment(common: tuple[Input, Facts, ProcessConfig, Identity], planned: PlannedSegment) -> bytes:
    """Runs in a worker of the cluster."""
    one_thread()
    one, facts, config, identity = common
    engine = _engine(msgspec.msgpack.encode(config.engine))
    _check_alike(engine, identity)
    return make_segment(Recording(_held(one), facts, config, [engine], threading.Event()), planned)


@functools.lru_cache(maxsize=1)
def _engine(settings: bytes) -> Engine:
    """The engine of encoded settings, which may hold what has no hash."""
    return load_engine(msgspec.msgpack.decode(settings, type=EngineConfig))


def _held(one: Input) -> Input:
    """The input, its copy kept until another input comes: segments of one file follow each other."""
    if not is_stored(one.source):
        return one
    if _HELD.input is None or _HELD.input.source != one.source:
        _HELD.input = None
        _HELD.stack.close()
        _HELD.input = _HELD.stack.enter_context(fetched(replace(one, copy=None)))
    return _HELD.input


@dataclass(slots=True)
class _Held:
    """What a worker keeps between its tasks."""

    input: Input | None = None
    stack: ExitStack = field(default_factory=ExitStack)


_HELD = _Held()
atexit.register(_HELD.stack.close)

_versions: Callable[[], dict[str, str]] = functools.cache(versions)


def _check_alike(engine: Engine, identity: Identity) -> None:
    """Another library or other weights would give other bytes; raises EngineError."""
    node = platform.node()
    for name, wanted in identity.versions.items():
        if (found := _versions().get(name)) != wanted:
            raise EngineError(f"node {node}: {name} is {found}, not {wanted}; install the same everywhere")
    if engine.info.id != identity.engine:
        raise EngineError(
            f"node {node}: would run {engine.info.id}, not {identity.engine}; set engine.backend for all"
        )
    if engine.info.weights_sha256 != identity.weights_sha256:
        raise EngineError(f"node {node}: engine {identity.engine} has other weights")


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our handler of SIGTERM, which Ray replaces."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
