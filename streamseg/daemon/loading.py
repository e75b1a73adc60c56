"""Load the engine in a thread, since loading and building run for long inside libraries."""

from __future__ import annotations

import logging
import threading
import time

from streamseg.config import EngineConfig
from streamseg.daemon.machine import failed_inside
from streamseg.errors import EngineError, StreamsegError
from streamseg.inference.backends.protocol import Choice
from streamseg.inference.engine import Engine
from streamseg.inference.plans.hot_swap import start_engines
from streamseg.inference.plans.load import close_all
from streamseg.runtime.memory import apart
from streamseg.runtime.stage import Stage

log = logging.getLogger(__name__)

SHORT_S = 0.2  # a first run that is short enough to run it again


class Loading:
    """Loads the engines of all replicas and runs each once; wait() blocks the main thread until then."""

    def __init__(self, config: EngineConfig) -> None:
        self.abandoned = False  # its thread still runs and cannot be ended
        self.to_build: list[Choice] = []  # better engines, which have to be built or proved first
        self.call_s = 0.0  # that one picture takes in the network, when it has been loaded
        self._config = config
        self._lock = threading.Lock()  # guards _engines and _cancelled
        self._engines: list[Engine] = []
        self._cancelled = False
        self._stage = Stage("load", self._load, lambda _: None)

    def wait(self, stop: threading.Event) -> list[Engine]:
        """The engines, the caller's to close; none when `stop` was set first. Raises EngineError."""
        self._stage.start()
        while self._stage.is_alive() and not stop.is_set():
            self._stage.join(0.05)
        with self._lock:
            engines, self._engines = self._engines, []
            self._cancelled = True
        if stop.is_set():
            close_all(engines)
            self.abandoned = self._stage.is_alive()
            return []
        error = self._stage.error
        if isinstance(error, StreamsegError):
            raise error
        if error is not None:
            name = self._config.name
            text = failed_inside(error, name)
            if text.startswith("failed inside: "):
                text = f"engine {name}: cannot be loaded: {text.removeprefix('failed inside: ')}"
            raise EngineError(text) from error
        return engines

    def _load(self) -> None:
        with apart():
            self._load_and_run()

    def _load_and_run(self) -> None:
        begun_s = time.monotonic()
        engines, self.to_build = start_engines(self._config)
        loaded_s = time.monotonic()
        with self._lock:
            cancelled = self._cancelled
        if cancelled:
            close_all(engines)
            return
        try:
            took_s = max(engine.warm_up(engine.info.input_size) for engine in engines)
            self.call_s = took_s
            if took_s < SHORT_S:  # the first run takes longer than those that follow
                self.call_s = min(engines[0].warm_up(engines[0].info.input_size) for _ in range(2))
        except BaseException:
            close_all(engines)
            raise
        info = engines[0].info
        log.info(
            "engine %s on %s%s: loaded in %.1f s, first run took %.0f ms",
            info.id, info.device, f", {len(engines)} replicas" if len(engines) > 1 else "",
            loaded_s - begun_s, took_s * 1000,
        )  # fmt: skip
        log.info("engine %s: licence of the weights: %s", info.id, info.spec.licence)
        with self._lock:
            if not self._cancelled:
                self._engines = engines
                return
        close_all(engines)
