"""The daemon's life: start, supervise, stop; and its answers to control requests."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Mapping
from functools import partial
from importlib.metadata import version
from pathlib import Path

import msgspec

from streamseg.analytics.journal import EventJournal
from streamseg.analytics.keeper import EventKeeper
from streamseg.config import Config, EngineConfig
from streamseg.config.sharing import sharing_problems
from streamseg.daemon.background import Background
from streamseg.daemon.control import ControlServer
from streamseg.daemon.engines import Engines, Loaded
from streamseg.daemon.kept_zones import KeptZones
from streamseg.daemon.machine import (
    WallClock,
    failed_inside,
    file_limit,
    fit_connections,
    library_versions,
    memory_bytes,
    open_files,
    thread_count,
)
from streamseg.daemon.operations import Operations, log_level, set_log_level
from streamseg.daemon.start_load import watch_start
from streamseg.daemon.state import StateFolder
from streamseg.daemon.status import (
    ZoneMarks,
    control_status,
    publisher_status,
    stream_statuses,
    waiting_status,
    zone_shares,
)
from streamseg.daemon.systemd import Service
from streamseg.daemon.wanted import absent_engines, wanted_engines
from streamseg.daemon.web import WebProcess, console_of, mask_endpoints
from streamseg.errors import ConfigError, ControlError, StreamsegError
from streamseg.live.pipeline import Pipeline
from streamseg.net.control_sockets import PrivateSocket
from streamseg.publish import Publisher
from streamseg.runtime.counters import Report
from streamseg.runtime.cpus import resources
from streamseg.runtime.signals import Signals
from streamseg.wire.control import (
    AnyReply,
    AnyRequest,
    Done,
    EngineStatus,
    GetStatus,
    RemoveStream,
    SetLogLevel,
    Status,
)
from streamseg.wire.zones import ZoneMark

log = logging.getLogger(__name__)

REPORT_EVERY_S = 10.0
STATUS_EVERY_S = 1.0  # at least, between two status messages of a stream
CHECK_EVERY_S = 0.2  # for signals


class Daemon:
    """Decodes, segments and publishes what a Config names. run() blocks; stop() may come from any thread."""

    def __init__(self, config: Config, path: Path | None = None) -> None:
        """path: the file that config was read from, and that a reload reads again."""
        self.config = config  # of the start; a reload changes that of the operations
        self.path = path.absolute() if path is not None else None
        self.name = ""  # by which `streamseg ctl` finds it
        self.ready = threading.Event()
        self.endpoint = ""  # where masks are published, once ready (a port 0 is filled in)
        self.own_keys: tuple[bytes, bytes] | None = None  # for subscribers in this process; see Publisher
        self.pipeline: Pipeline | None = None
        self.publisher: Publisher | None = None
        self.control: ControlServer | None = None
        self.private_endpoint = ""  # of the control socket that only this process's user reaches
        self.web: WebProcess | None = None  # the console, where there is one
        self.abandoned = False  # a library still works in a thread that cannot be ended: leave by os._exit
        self._version = version("streamseg")
        self._libraries = library_versions()
        self._started_s = time.monotonic()
        self._started_unix_ns = time.time_ns()
        self._service = Service()
        self._background = Background("operate")  # what changes something: it may wait for files
        self._kept: KeptZones | None = None  # from the start of run()
        self._marks = ZoneMarks()
        self._loader = Background("exchange")  # what may have to load a network first
        self._operations: Operations | None = None  # from when the pipeline runs
        self._asked = threading.Event()  # to end, by stop()
        self._stopping = threading.Event()
        self._reload_requested = threading.Event()
        self._engines = Engines(config.engine, config.engines, self._stopping)

    def run(self) -> None:
        """Run until every stream has ended, SIGINT or SIGTERM comes, or something inside fails.

        SIGHUP has the configuration read again; it ends a daemon without one, or in a terminal that closes.
        Raises the StreamsegError that ended it. Handles signals only when called from the main thread.
        """
        with Signals(self.stop, self._on_hangup):
            try:
                with contextlib.ExitStack() as owned:
                    self._run(owned)
            except StreamsegError as error:
                if not self._asked.is_set():
                    raise
                log.warning("while stopping: %s", error)  # who asked for the end gets a clean one

    def _run(self, owned: contextlib.ExitStack) -> None:
        log.info("machine: %s", resources())
        if problems := list(sharing_problems(self.config.streams)):
            raise ConfigError(*problems)
        wanted = wanted_engines(self.config.streams, self.config.engine, self.config.engines)
        if problems := list(absent_engines(wanted)):
            raise ConfigError(*problems)
        fitted, warning = fit_connections(self.config, file_limit())
        if warning:
            log.warning("%s", warning)
        sources = [one.source for one in self.config.streams.values()]
        state = owned.enter_context(contextlib.closing(StateFolder(self.path, sources)))
        kept = self._kept = KeptZones(state)
        self.config = msgspec.structs.replace(self.config, streams=kept.over(self.config.streams))
        self._open_control(owned)
        self._start_web(owned)
        made = self._load(owned, wanted)
        if not made:
            return
        publisher = Publisher(fitted.publish, [one.served.first.info.labels for one in made.values()])
        events = self._keep_events(owned, state, publisher)
        self.publisher = owned.enter_context(publisher)
        self.endpoint = publisher.endpoint
        self.own_keys = publisher.own_keys
        log.info("publishing on %s", self.endpoint)
        if self.web is not None:
            self.web.connect(mask_endpoints(publisher))
        pipeline = self.pipeline = Pipeline(self.config, publisher, self._engines.key, [events])
        for loaded in made.values():
            pipeline.prepare(loaded.served)
        self._engines.serve(made, pipeline)
        self._engines.log_shares()
        self._supervise(pipeline, publisher, kept)

    def stop(self) -> None:
        """Ask run() to end; returns at once. It then ends without an error, unless it was over already."""
        if self.pipeline is None or not self.pipeline.over.is_set():
            self._asked.set()
        self._stopping.set()
        if self.pipeline is not None:
            self.pipeline.over.set()

    def answer(self, request: AnyRequest, local: bool) -> AnyReply:
        """Answer a control request; local: it came from this machine's own user. Raises StreamsegError."""
        if isinstance(request, GetStatus):
            return self.status()
        if isinstance(request, SetLogLevel):
            set_log_level(request.level)
            log.info("control: log level set to %s", request.level)
            return Done()
        operations = self._operations
        if operations is None:
            raise ControlError("starting", "the engine is still being loaded; try again later")
        reply = operations.answer(request, local)
        if isinstance(request, RemoveStream):
            self._loader.offer(operations.settle)
        return reply

    @property
    def engine(self) -> EngineStatus:
        """The network of [engine], or the first one."""
        return self._engines.status()

    def status(self) -> Status:
        pipeline, publisher, web = self.pipeline, self.publisher, self.web
        if pipeline is not None:
            streams = {status.stream: status for status in stream_statuses(pipeline, histograms=True)}
        else:
            streams = {name: waiting_status(name, c) for name, c in self.config.streams.items()}
        children = {
            "crf": pipeline.refinement.pid if pipeline is not None else None,
            "web": web.pid if web is not None else None,
        }
        times = os.times()
        return Status(
            streamseg=self._version,
            libraries=self._libraries,
            pid=os.getpid(),
            name=self.name,
            config=str(self.path or ""),
            state="stopping" if self._stopping.is_set() else "running" if self.ready.is_set() else "starting",
            started_unix_ns=self._started_unix_ns,
            uptime_s=time.monotonic() - self._started_s,
            log_level=log_level(),
            memory_bytes=memory_bytes(),
            cpu_s=times.user + times.system,
            threads=thread_count(),
            open_files=open_files(),
            children={name: pid for name, pid in children.items() if pid is not None},
            crf_restarts=pipeline.stats.crf_restarts if pipeline is not None else 0,
            web_restarts=web.restarts if web is not None else 0,
            engine=self.engine,
            engines=self._engines.statuses(),
            engine_names=self._operations.engine_names if self._operations is not None else [],
            publisher=publisher_status(publisher) if publisher is not None else None,
            control=control_status(self.control),
            streams=streams,
            zones=self._zone_marks(),
            shares=zone_shares(pipeline) if pipeline is not None else {},
            details=pipeline.details.names() if pipeline is not None else [],
        )

    def _zone_marks(self) -> dict[str, ZoneMark]:
        if self.pipeline is None or self._kept is None:
            return {}
        return self._marks.of(self.pipeline.streams.configs(), self._kept)

    def _on_hangup(self) -> None:
        if self.path is None or (sys.stdin is not None and sys.stdin.isatty()):
            self.stop()
        else:
            self._reload_requested.set()

    def _open_control(self, owned: contextlib.ExitStack) -> None:
        """Answer control requests from now until the end."""
        private = owned.enter_context(contextlib.closing(PrivateSocket()))
        self.name, self.private_endpoint = private.name, private.endpoint
        server = ControlServer(
            self.config.control, self.private_endpoint, self.answer, self._background, self._loader
        )
        self.control = owned.enter_context(server)
        if self.config.control.endpoint:
            log.info("control: also on %s", server.endpoint)

    def _keep_events(
        self, owned: contextlib.ExitStack, state: StateFolder, publisher: Publisher
    ) -> EventKeeper:
        """Read what events were open, and have it in snapshots before anybody can ask for one."""
        journal = owned.enter_context(EventJournal(state.path, state.hold))
        events = EventKeeper(journal, publisher.run, publisher.put_events, list(self.config.streams))
        for stream, kept in events.kept().items():
            publisher.put_events(stream, [], kept)
        return events

    def _start_web(self, owned: contextlib.ExitStack) -> None:
        """Start the console, if it is set up; it also shows that the engine is being loaded."""
        self.web = console_of(self.config, self.private_endpoint)
        if self.web is not None:
            self.web.start()
            owned.callback(self.web.close)

    def _load(self, owned: contextlib.ExitStack, wanted: Mapping[str, EngineConfig]) -> Mapping[str, Loaded]:
        """Get the engines ready that the streams need; empty when stopped meanwhile."""
        owned.callback(self._close_engines)
        names = ", ".join(dict.fromkeys(config.name for config in wanted.values()))
        with self._service.busy(f"loading the engine{'s' if len(wanted) > 1 else ''} {names}"):
            try:
                return self._engines.load(wanted, self.config.streams)
            except ControlError:  # it was asked to stop
                return {}
            finally:
                self.abandoned = self._engines.abandoned

    def _close_engines(self) -> None:
        self._engines.close()
        self.abandoned = self.abandoned or self._engines.abandoned

    def _supervise(self, pipeline: Pipeline, publisher: Publisher, kept: KeptZones) -> None:
        report = Report(pipeline.stats, time.monotonic())
        clock = WallClock()
        start_load = watch_start(pipeline, self._engines.network_of, self.path, self._stopping)
        try:
            pipeline.start()
            self._operations = Operations(
                self.config, self.path, pipeline, publisher, self._service, kept, self._engines
            )
            self._engines.on_better = partial(self._loader.offer, self._operations.settle)
            self.ready.set()
            self._service.ready(pipeline.stats)
            now_s = time.monotonic()
            alive_at_s, status_at_s, report_at_s = now_s, now_s, now_s + REPORT_EVERY_S
            while not self._stopping.is_set() and not pipeline.over.wait(CHECK_EVERY_S):
                publisher.check()
                if self.control is not None:
                    self.control.check()
                if self._reload_requested.is_set() and self._loader.offer(
                    partial(self._reload, self._operations)
                ):
                    self._reload_requested.clear()
                clock.log_step()
                now_s = time.monotonic()
                if now_s >= alive_at_s:
                    alive_at_s = now_s + self._service.tick_s - CHECK_EVERY_S / 2
                    self._service.alive()
                if now_s >= status_at_s:
                    status_at_s = now_s + STATUS_EVERY_S
                    self._publish_statuses(pipeline, publisher)
                if now_s >= report_at_s:
                    report_at_s += REPORT_EVERY_S
                    for warning, line in report.lines(now_s):
                        log.log(logging.WARNING if warning else logging.INFO, "%s", line)
        finally:
            self._stopping.set()
            self._service.stopping()
            start_load.join()
            if not pipeline.stop():
                log.warning("some threads did not stop in time")
                self.abandoned = True
        for _, line in report.lines(time.monotonic(), final=True):
            log.info("%s", line)
        publisher.check()
        if pipeline.errors:
            error = pipeline.errors[0]
            if isinstance(error, StreamsegError):
                raise error
            raise StreamsegError(failed_inside(error, pipeline.failed_engine or self.engine.id)) from error

    def _reload(self, operations: Operations) -> None:
        try:
            operations.reload()
        except ConfigError:
            pass  # logged line by line
        except StreamsegError as error:
            log.error("%s", error)

    def _publish_statuses(self, pipeline: Pipeline, publisher: Publisher) -> None:
        if any(publisher.wants("status", name) for name in pipeline.streams.configs()):
            for status in stream_statuses(pipeline, histograms=False):
                publisher.put_status(status)
