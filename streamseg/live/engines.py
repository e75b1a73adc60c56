"""The engines that serve live streams, each with its infer threads: started and ended while others go on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from streamseg.config.engines import DEFAULT
from streamseg.inference.engine import Engine
from streamseg.runtime.mailbox import FrameScheduler
from streamseg.runtime.memory import apart
from streamseg.runtime.ordered import OrderedWorkers
from streamseg.runtime.stage import Stage
from streamseg.types import DEFAULT_ENGINE, EngineKey, Frame


@dataclass(slots=True, eq=False)
class ServedEngine:
    """An engine's replicas, alike; each is used by its infer thread alone until `ended` is set."""

    key: EngineKey
    replicas: list[Engine]
    max_batch: int
    workers: OrderedWorkers = field(default_factory=OrderedWorkers)  # the replicas
    ended: threading.Event = field(
        default_factory=threading.Event
    )  # its threads have ended, and it is closed
    stages: list[Stage] = field(default_factory=list)

    @property
    def first(self) -> Engine:
        return self.replicas[0]


class LiveEngines:
    """The engines by their keys. Any thread may call."""

    def __init__(
        self,
        scheduler: FrameScheduler[Frame],
        infer: Callable[[ServedEngine, Engine], None],
        on_failed: Callable[[ServedEngine, BaseException], None],
        on_all_ended: Callable[[], None],
    ) -> None:
        """infer: the work of each thread, until it raises Closed. on_failed: called in one that failed.

        on_all_ended: called when the last engine has ended, and the scheduler is closed.
        """
        self._scheduler = scheduler
        self._infer = infer
        self._on_failed = on_failed
        self._on_all_ended = on_all_ended
        self._lock = threading.Lock()  # guards _served and _left
        self._served: dict[EngineKey, ServedEngine] = {}
        self._left: dict[EngineKey, int] = {}  # threads that have not ended

    def of(self, key: EngineKey) -> Engine | None:
        """An engine, of which only the info may be read; None where it has ended."""
        served = self._served.get(key)  # one look into a dictionary is atomic, and so is one into a list
        return None if served is None else next(iter(served.replicas), None)

    def main(self) -> EngineKey:
        """That of [engine], where it serves, else any."""
        keys = list(self._served)
        return next((key for key in keys if key.name == DEFAULT), keys[0] if keys else DEFAULT_ENGINE)

    def add(self, served: ServedEngine) -> None:
        """Serve frames that have its key, from now on; takes ownership of the replicas."""
        name = "infer" if served.key.name == DEFAULT else f"infer-{served.key.name}"
        count = len(served.replicas)
        names = [name] if count == 1 else [f"{name}-{i}" for i in range(count)]
        served.stages = [
            Stage(name, partial(self._infer, served, engine), partial(self._stage_ended, served))
            for name, engine in zip(names, served.replicas, strict=True)
        ]
        with self._lock:
            self._served[served.key] = served
            self._left[served.key] = count
        for stage in served.stages:
            stage.start()

    def end(self, key: EngineKey) -> None:
        """Take no more frames of this key; when those on their way are done, the engine is closed."""
        self._scheduler.end(key)

    def stop(self) -> None:
        """End all at once, without what they are at. The scheduler is closed already."""
        with self._lock:
            served = list(self._served.values())
        for one in served:
            one.workers.close()

    def stages(self) -> Iterator[Stage]:
        """The threads that have not ended, perhaps with some that have."""
        with self._lock:
            stages = [stage for one in self._served.values() for stage in one.stages]
        yield from stages

    def _stage_ended(self, served: ServedEngine, stage: Stage) -> None:
        if stage.error is not None:
            self._on_failed(served, stage.error)
            return  # its replicas are closed with the pipeline
        with self._lock:
            self._left[served.key] -= 1
            if self._left[served.key]:
                return
            del self._left[served.key], self._served[served.key]
            over = not self._served
        with apart():
            for engine in served.replicas:
                engine.close()
            served.replicas.clear()
            served.stages.clear()
        served.ended.set()
        if over and self._scheduler.closed:
            self._on_all_ended()
