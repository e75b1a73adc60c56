"""The daemon's life: start, supervise, stop."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from streamseg.config import Config
from streamseg.daemon.control import ControlServer
from streamseg.daemon.loading import Loading
from streamseg.daemon.machine import WallClock, failed_inside, file_limit, fit_connections
from streamseg.daemon.operations import Operations
from streamseg.daemon.signals import Signals
from streamseg.daemon.status import stream_statuses
from streamseg.daemon.systemd import Service
from streamseg.daemon.web import WebProcess, console_of, doors_of
from streamseg.errors import ConfigError, StreamsegError
from streamseg.inference.backends.protocol import Engine
from streamseg.inference.hot_swap import Upgrade
from streamseg.inference.spec import EngineInfo
from streamseg.live.pipeline import Pipeline
from streamseg.net.control_sockets import forget_endpoint, private_endpoint
from streamseg.publish import Publisher
from streamseg.runtime.counters import Report
from streamseg.wire.control import EngineState, EngineStatus

log = logging.getLogger(__name__)

REPORT_EVERY_S = 10.0
STATUS_EVERY_S = 1.0  # at least, between two status messages of a stream
LOOK_EVERY_S = 0.2  # for signals


class Daemon:
    """Decodes, segments and publishes what a Config names. run() blocks; stop() may come from any thread."""

    def __init__(self, config: Config, path: Path | None = None) -> None:
        """path: the file that config was read from, and is read from again on reload."""
        self.config = config  # that runs; a reload replaces it
        self.path = path.absolute() if path is not None else None
        self.name = ""  # by which `streamseg ctl` finds it
        self.version = version("streamseg")
        self.started_s = time.monotonic()
        self.started_unix_ns = time.time_ns()
        self.ready = threading.Event()
        self.endpoint = ""  # where masks are published, once ready (a port 0 is filled in)
        self.own_keys: tuple[bytes, bytes] | None = None  # that our own subscribers need; see Publisher
        self.engine = EngineStatus(id=f"{config.engine.name}/{config.engine.precision}")
        self.pipeline: Pipeline | None = None
        self.publisher: Publisher | None = None
        self.control: ControlServer | None = None
        self.private_endpoint = ""  # of the control socket that only our user reaches
        self.web: WebProcess | None = None  # the console, where there is one
        self.abandoned = False  # a library still works in a thread that cannot be ended: leave by os._exit
        self.service = Service()
        self._operations = Operations(self)
        self._stopping = threading.Event()
        self._reload_asked = threading.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def run(self) -> None:
        """Run until every stream has ended, SIGINT or SIGTERM comes, or something inside fails.

        SIGHUP has the configuration read again; it ends a daemon that has none, or whose terminal goes.
        Raises the StreamsegError that ended it. Signals are taken over only when called from the main thread.
        """
        with contextlib.ExitStack() as owned:
            owned.enter_context(Signals(self.stop, self._hang_up))
            fitted, fewer = fit_connections(self.config, file_limit())
            if fewer:
                log.warning("%s", fewer)
            self._open_control(owned)
            self._start_web(owned)
            engines = self._load(owned)
            if not engines:
                return
            publisher = Publisher(fitted.publish, [engines[0].info.spec.labels])
            self.publisher = owned.enter_context(publisher)
            self.endpoint = publisher.endpoint
            self.own_keys = publisher.own_keys
            log.info("publishing on %s", self.endpoint)
            if self.web is not None:
                self.web.connect(doors_of(publisher))
            pipeline = self.pipeline = Pipeline(self.config, engines, publisher)
            self._supervise(pipeline, publisher)

    def stop(self) -> None:
        """Ask run() to end; returns at once."""
        self._stopping.set()
        if self.pipeline is not None:
            self.pipeline.over.set()

    def _hang_up(self) -> None:
        if self.path is None or (sys.stdin is not None and sys.stdin.isatty()):
            self.stop()
        else:
            self._reload_asked.set()

    def children(self) -> dict[str, int | None]:
        """The processes we have started, by name, besides the CRF's."""
        return {"web": self.web.pid if self.web is not None else None}

    @property
    def web_restarts(self) -> int:
        return self.web.restarts if self.web is not None else 0

    def _open_control(self, owned: contextlib.ExitStack) -> None:
        """Let ourselves be controlled, from now until the end."""
        try:
            self.name, self.private_endpoint = private_endpoint()
            owned.callback(forget_endpoint, self.private_endpoint)
        except ConfigError as error:
            log.warning("%s; streamseg ctl will not find this daemon", error)
        server = ControlServer(self.config.control, self.private_endpoint, self._operations.answer)
        self.control = owned.enter_context(server)
        if self.config.control.endpoint:
            log.info("control: on %s, too", server.endpoint)

    def _start_web(self, owned: contextlib.ExitStack) -> None:
        """Start the console, where one is wanted; it tells, too, that the engine is being loaded."""
        self.web = console_of(self.config, self.private_endpoint)
        if self.web is not None:
            self.web.start()
            owned.callback(self.web.close)

    def _load(self, owned: contextlib.ExitStack) -> Sequence[Engine]:
        """Get the engines of all replicas ready; none when we were stopped meanwhile."""
        loading = Loading(self.config.engine)
        with self.service.busy(f"loading the engine {self.config.engine.name}"):
            engines = loading.wait(self._stopping)
        self.abandoned = loading.abandoned
        for engine in engines:
            owned.callback(engine.close)
        if engines:

            def tell(state: EngineState, text: str, info: EngineInfo) -> None:
                self.engine = EngineStatus(id=info.id, device=info.device, state=state, text=text)

            tell("running", "", engines[0].info)
            if loading.better is not None:
                upgrade = Upgrade(loading.better, engines, tell)
                upgrade.start()
                owned.callback(self._end_upgrade, upgrade)
        return engines

    def _end_upgrade(self, upgrade: Upgrade) -> None:
        self.abandoned = not upgrade.stop()

    def _supervise(self, pipeline: Pipeline, publisher: Publisher) -> None:
        report = Report(pipeline.stats, time.monotonic())
        clock = WallClock()
        pipeline.start()
        self.ready.set()
        self.service.ready(pipeline.stats)
        now_s = time.monotonic()
        alive_at_s, status_at_s, report_at_s = now_s, now_s, now_s + REPORT_EVERY_S
        try:
            while not self._stopping.is_set() and not pipeline.over.wait(LOOK_EVERY_S):
                publisher.check()
                if self.control is not None:
                    self.control.check()
                if self._reload_asked.is_set():
                    self._reload()
                if step_s := clock.stepped_s():
                    where = "ahead" if step_s > 0 else "back"
                    log.warning("clock: this machine's was set %.1f s %s; streams go on", abs(step_s), where)
                now_s = time.monotonic()
                if now_s >= alive_at_s:
                    alive_at_s = now_s + self.service.tick_s - LOOK_EVERY_S / 2
                    self.service.alive()
                if now_s >= status_at_s:
                    status_at_s = now_s + STATUS_EVERY_S
                    self._publish_statuses(pipeline, publisher)
                if now_s >= report_at_s:
                    report_at_s += REPORT_EVERY_S
                    for warning, line in report.lines(now_s):
                        log.log(logging.WARNING if warning else logging.INFO, "%s", line)
        finally:
            self._stopping.set()
            self.service.stopping()
            if not pipeline.stop():
                log.warning("some threads did not stop in time")
        for _, line in report.lines(time.monotonic()):
            log.info("%s", line)
        publisher.check()
        if pipeline.errors:
            error = pipeline.errors[0]
            if isinstance(error, StreamsegError):
                raise error
            raise StreamsegError(failed_inside(error, self.engine.id)) from error

    def _reload(self) -> None:
        self._reload_asked.clear()
        try:
            self._operations.reload()
        except ConfigError:
            pass  # said already, line by line
        except StreamsegError as error:
            log.error("%s", error)

    def _publish_statuses(self, pipeline: Pipeline, publisher: Publisher) -> None:
        if any(publisher.wants("status", name) for name in pipeline.streams.configs()):
            for status in stream_statuses(pipeline, histograms=False):
                publisher.put_status(status)
