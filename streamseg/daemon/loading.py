"""Getting the engine ready in a thread, since loading and building run for long inside libraries."""

from __future__ import annotations

import logging
import threading
import time

from streamseg.config import EngineConfig
from streamseg.daemon.machine import failed_inside
from streamseg.engine import Choice
from streamseg.engine.switch import SwitchEngine, start_engine
from streamseg.errors import EngineError, StreamsegError
from streamseg.stage import Stage

log = logging.getLogger(__name__)


class Loading:
    """Loads an engine and runs it once. wait() in the main thread, which can thus be told to stop."""

    def __init__(self, config: EngineConfig) -> None:
        self.abandoned = False  # its thread still runs, and cannot be ended
        self.better: Choice | None = None  # what has to be built before it can serve
        self._config = config
        self._lock = threading.Lock()  # guards _engine and _given_up
        self._engine: SwitchEngine | None = None
        self._given_up = False
        self._stage = Stage("load", self._load, lambda _: None)

    def wait(self, stop: threading.Event) -> SwitchEngine | None:
        """The engine, which is the caller's to close; None when `stop` was set first. Raises EngineError."""
        self._stage.start()
        while self._stage.is_alive() and not stop.is_set():
            self._stage.join(0.05)
        with self._lock:
            engine, self._engine = self._engine, None
            self._given_up = True
        if stop.is_set():
            if engine is not None:
                engine.close()
            self.abandoned = self._stage.is_alive()
            return None
        error = self._stage.error
        if isinstance(error, StreamsegError):
            raise error
        if error is not None:
            name = self._config.name
            text = failed_inside(error, name)
            if text.startswith("failed inside: "):
                text = f"engine {name}: cannot be loaded: {text.removeprefix('failed inside: ')}"
            raise EngineError(text) from error
        return engine

    def _load(self) -> None:
        begun_s = time.monotonic()
        engine, self.better = start_engine(self._config)
        loaded_s = time.monotonic()
        with self._lock:
            given_up = self._given_up
        if given_up:
            engine.close()
            return
        took_s = engine.warm_up(engine.info.input_size)
        info = engine.info
        log.info(
            "engine %s on %s: loaded in %.1f s, first run took %.0f ms",
            info.id, info.device, loaded_s - begun_s, took_s * 1000,
        )  # fmt: skip
        log.info("engine %s: licence of the weights: %s", info.id, info.spec.licence)
        with self._lock:
            if not self._given_up:
                self._engine = engine
                return
        engine.close()
