"""The daemon's life: start, supervise, stop."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from streamseg.config import Config
from streamseg.daemon.systemd import Service
from streamseg.engine import load_engine
from streamseg.errors import StreamsegError
from streamseg.pipeline import Pipeline
from streamseg.publish import Publisher
from streamseg.stats import Report

log = logging.getLogger(__name__)

REPORT_EVERY_S = 10.0


class Daemon:
    """Decodes, segments and publishes what a Config names. run() blocks; stop() may come from any thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.ready = threading.Event()
        self.endpoint = ""  # where masks are published, once ready (a port 0 is filled in)
        self.own_keys: tuple[bytes, bytes] | None = None  # that our own subscribers need; see Publisher
        self.pipeline: Pipeline | None = None
        self._service = Service()
        self._stopping = threading.Event()

    def run(self) -> None:
        """Run until every stream has ended, SIGINT or SIGTERM comes, or something inside fails.

        Raises the StreamsegError that ended it. Signals are taken over only when called from the main thread.
        """
        with _signals(self.stop):
            with self._service.busy(f"loading the engine {self.config.engine.name}"):
                engine = load_engine(self.config.engine)
            try:
                with self._service.busy("running the engine for the first time"):
                    took_s = engine.warm_up(engine.info.input_size)
                info = engine.info
                log.info("engine %s on %s: first run took %.0f ms", info.id, info.device, took_s * 1000)
                log.info("engine %s: licence of the weights: %s", info.id, info.spec.licence)
                with Publisher(self.config.publish, [info.spec.labels]) as publisher:
                    self.endpoint = publisher.endpoint
                    self.own_keys = publisher.own_keys
                    log.info("publishing on %s", self.endpoint)
                    pipeline = self.pipeline = Pipeline(self.config, engine, publisher)
                    self._supervise(pipeline, publisher)
            finally:
                engine.close()

    def stop(self) -> None:
        """Ask run() to end; returns at once."""
        self._stopping.set()
        if self.pipeline is not None:
            self.pipeline.over.set()

    def _supervise(self, pipeline: Pipeline, publisher: Publisher) -> None:
        report = Report(pipeline.stats, time.monotonic())
        pipeline.start()
        self.ready.set()
        self._service.ready(pipeline.stats)
        report_at_s = time.monotonic() + REPORT_EVERY_S
        try:
            while not self._stopping.is_set() and not pipeline.over.wait(self._service.tick_s):
                publisher.check()
                self._service.alive()
                if time.monotonic() < report_at_s:
                    continue
                report_at_s += REPORT_EVERY_S
                for warning, line in report.lines(time.monotonic()):
                    log.log(logging.WARNING if warning else logging.INFO, "%s", line)
        finally:
            self._service.stopping()
            if not pipeline.stop():
                log.warning("some threads did not stop in time")
        for _, line in report.lines(time.monotonic()):
            log.info("%s", line)
        publisher.check()
        if pipeline.errors:
            error = pipeline.errors[0]
            if isinstance(error, StreamsegError):
                raise error
            raise StreamsegError(f"failed inside: {type(error).__name__}: {error}") from error


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """SIGINT and SIGTERM call stop(); the handlers before are put back."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(number: int, _frame: FrameType | None) -> None:
        log.info("stopping (%s)", signal.Signals(number).name)
        stop()

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
