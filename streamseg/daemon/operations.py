"""What the daemon can be asked to do while it runs, request by request."""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import TYPE_CHECKING

from streamseg.config import Config, StreamConfig, build_settings, load_config
from streamseg.daemon.reload import Change, check_sources, plan_change
from streamseg.daemon.status import (
    library_versions,
    memory_bytes,
    open_files,
    publisher_status,
    stream_statuses,
    thread_count,
    waiting_status,
)
from streamseg.errors import ConfigError, ControlError
from streamseg.live.pipeline import Pipeline
from streamseg.wire import encode_labels, encode_mask
from streamseg.wire.control import (
    LOG_LEVELS,
    AddStream,
    AnyReply,
    AnyRequest,
    ControlStatus,
    Done,
    ForceKeyframe,
    GetSnapshot,
    GetStatus,
    LogLevel,
    PauseStream,
    Reload,
    Reloaded,
    RemoveStream,
    ResumeStream,
    SetLogLevel,
    Snapshot,
    Status,
)

if TYPE_CHECKING:
    from streamseg.daemon import Daemon

log = logging.getLogger(__name__)

MOST_STREAMS = 1024


class Operations:
    """Answers requests in the thread that asks; one change at a time."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._changing = threading.Lock()  # guards that changes do not mix; reading needs none
        self._libraries = library_versions()

    def answer(self, request: AnyRequest, local: bool) -> AnyReply:
        """Do what is asked; local: it came from this machine's own user. Raises StreamsegError."""
        if isinstance(request, GetStatus):
            return self.status()
        if isinstance(request, GetSnapshot):
            return self._snapshot(request)
        if isinstance(request, SetLogLevel):
            set_log_level(request.level)
            log.info("control: logging from %s on", request.level)
            return Done()
        with self._changing:
            if isinstance(request, Reload):
                return self._reload()
            return self._change(request, local)

    def reload(self) -> Reloaded:
        """Make the daemon what its file says now, or raise with every reason why not and change nothing."""
        with self._changing:
            return self._reload()

    def status(self) -> Status:
        daemon = self._daemon
        pipeline, publisher, control = daemon.pipeline, daemon.publisher, daemon.control
        if pipeline is not None:
            streams = {status.stream: status for status in stream_statuses(pipeline, histograms=True)}
        else:
            streams = {name: waiting_status(name, c) for name, c in daemon.config.streams.items()}
        children = {"crf": pipeline.refinement.pid if pipeline is not None else None} | daemon.children()
        times = os.times()
        return Status(
            streamseg=daemon.version,
            libraries=self._libraries,
            pid=os.getpid(),
            name=daemon.name,
            config=str(daemon.path or ""),
            state="stopping" if daemon.is_stopping else "running" if daemon.ready.is_set() else "starting",
            started_unix_ns=daemon.started_unix_ns,
            uptime_s=time.monotonic() - daemon.started_s,
            log_level=log_level(),
            memory_bytes=memory_bytes(),
            cpu_s=times.user + times.system,
            threads=thread_count(),
            open_files=open_files(),
            children={name: pid for name, pid in children.items() if pid is not None},
            crf_restarts=pipeline.stats.crf_restarts if pipeline is not None else 0,
            web_restarts=daemon.web_restarts,
            engine=daemon.engine,
            publisher=publisher_status(publisher) if publisher is not None else None,
            control=ControlStatus(
                endpoint=control.endpoint,
                connections=control.stats.connections,
                requests=control.stats.requests,
                refused=control.stats.refused,
                dropped=control.stats.dropped,
                denied=control.stats.denied,
                hung_up=control.stats.disconnected,
            )
            if control is not None
            else ControlStatus(endpoint=""),
            streams=streams,
        )

    def _change(
        self, request: AddStream | RemoveStream | PauseStream | ResumeStream | ForceKeyframe, local: bool
    ) -> Done:
        pipeline, name = self._pipeline(), request.stream
        if isinstance(request, AddStream):
            pipeline.streams.add({name: self._settings_of(request, local)})
            done = "added"
        elif isinstance(request, RemoveStream):
            pipeline.remove(name)
            done = "removed"
        elif isinstance(request, PauseStream):
            pipeline.streams.pause(name)
            done = "paused"
        elif isinstance(request, ResumeStream):
            pipeline.streams.resume(name)
            done = "resumed"
        else:
            pipeline.request_keyframe(name)
            return Done()
        log.info("%s: %s, as it was asked for", name, done)
        return Done()

    def _settings_of(self, request: AddStream, local: bool) -> StreamConfig:
        tree = {"streams": {request.stream: request.settings}}
        config = build_settings(Config, tree)
        if config.streams[request.stream].password_file and not local:  # it would be sent to any address
            raise ControlError(
                "bad settings",
                f"streams.{request.stream}.password_file: may only be set on the daemon's machine",
            )
        check_sources(config.streams)
        if len(self._pipeline().streams.configs()) >= MOST_STREAMS:
            raise ControlError("bad state", f"{request.stream}: there are {MOST_STREAMS} streams already")
        return config.streams[request.stream]

    def _snapshot(self, request: GetSnapshot) -> Snapshot:
        pipeline, publisher = self._pipeline(), self._daemon.publisher
        if request.stream not in pipeline.streams or publisher is None:
            raise ControlError("unknown stream", f"{request.stream}: there is no such stream")
        mask = publisher.last(request.stream, refined=request.refined)
        if mask is None:
            which = "refined mask" if request.refined else "mask"
            raise ControlError("no mask", f"{request.stream}: there has been no {which} yet")
        kind = "refined" if request.refined else "mask"
        encoding = self._daemon.config.publish.encoding
        message = encode_mask(mask, encoding, kind=kind)  # type: ignore[arg-type]
        return Snapshot(messages=[encode_labels(pipeline.label_set), message])

    def _reload(self) -> Reloaded:
        daemon, pipeline = self._daemon, self._pipeline()
        if daemon.path is None:
            raise ControlError("no file", "reload: this daemon was started without a configuration file")
        with daemon.service.reloading():
            try:
                new = load_config(daemon.path)
                check_sources(new.streams)
            except ConfigError as error:
                for problem in error.problems:
                    log.error("reload refused: %s", problem)
                log.error("reload refused: the configuration of before stays as it is")
                daemon.service.set_status(f"reload refused: {error.problems[0]}")
                raise
            change = plan_change(daemon.config, pipeline.streams.configs(), new)
            return self._apply(change, pipeline)

    def _apply(self, change: Change, pipeline: Pipeline) -> Reloaded:
        restarted = []
        for name in change.removed:
            pipeline.remove(name)
        for name, config in change.changed.items():
            if pipeline.streams.change(name, config):
                restarted.append(name)
        pipeline.streams.add(change.added)
        if any(key.startswith("refinement.") for key in change.applied):
            pipeline.refinement.apply(change.config.refinement)
        set_log_level(change.config.log.level)
        self._daemon.config = change.config
        live = [f"streams.{name}" for name in change.changed if name not in restarted]
        done = Reloaded(
            added=list(change.added),
            removed=change.removed,
            restarted=restarted,
            applied=[*live, *change.applied],
            needs_restart=change.needs_restart,
        )
        for line in reload_lines(done):
            log.log(logging.WARNING if "restart" in line else logging.INFO, "reload: %s", line)
        return done

    def _pipeline(self) -> Pipeline:
        pipeline = self._daemon.pipeline
        if pipeline is None or not self._daemon.ready.is_set():
            raise ControlError("starting", "the engine is still being loaded; try again later")
        return pipeline


def reload_lines(done: Reloaded) -> list[str]:
    """What a reload did, in words."""
    lines = [
        f"{what} {', '.join(names)}"
        for what, names in (
            ("added", done.added),
            ("removed", done.removed),
            ("opened anew:", done.restarted),
            ("applied", done.applied),
        )
        if names
    ]
    lines += [f"{key}: takes effect when the daemon is started again" for key in done.needs_restart]
    return lines or ["nothing has changed"]


def set_log_level(level: str) -> None:
    """Log our own messages from this severity on."""
    logging.getLogger("streamseg").setLevel(level.upper())


def log_level() -> LogLevel:
    level = logging.getLogger("streamseg").getEffectiveLevel()
    return next((name for name in LOG_LEVELS if level <= getattr(logging, name.upper())), "error")
