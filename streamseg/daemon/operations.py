"""What a running daemon does on request: change its streams, reload its file, hand out a mask."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np

from streamseg.config import Config, StreamConfig, build_settings, load_config
from streamseg.config.sharing import shared_with
from streamseg.config.tables import checked_tables, tables_of
from streamseg.daemon.engines import Engines, Loaded
from streamseg.daemon.kept_zones import KeptZones
from streamseg.daemon.reload import Change, check_sources, plan_change
from streamseg.daemon.remote import check_remote, check_remote_engine
from streamseg.daemon.systemd import Service
from streamseg.daemon.wanted import wanted_engines
from streamseg.errors import ConfigError, ControlError, EngineError
from streamseg.inference.label_view import view_of
from streamseg.inference.scaling import labels_of
from streamseg.live.pipeline import Pipeline
from streamseg.publish import Publisher
from streamseg.types import Mask
from streamseg.wire import Kind, encode_labels, encode_mask
from streamseg.wire.codec import check_size
from streamseg.wire.control import (
    LOG_LEVELS,
    AddStream,
    AnyReply,
    AnyRequest,
    Done,
    ForceKeyframe,
    GetDetail,
    GetSnapshot,
    GetStatus,
    LogLevel,
    PauseStream,
    Reload,
    Reloaded,
    RemoveStream,
    ResumeStream,
    SegmentPicture,
    SetEngine,
    SetLogLevel,
    SetZones,
    Snapshot,
    Zones,
)

log = logging.getLogger(__name__)

MAX_STREAMS = 1024
PICTURE_WITHIN_S = 10.0  # that the network answers

StreamRequest = AddStream | RemoveStream | PauseStream | ResumeStream | ForceKeyframe | SetEngine


class Operations:
    """Changes a running pipeline, one change at a time; any thread may call.

    Owns the configuration that is in force: what was loaded at the start, with what reloads have changed.
    """

    def __init__(
        self,
        config: Config,
        path: Path | None,
        pipeline: Pipeline,
        publisher: Publisher,
        service: Service,
        kept: KeptZones,
        engines: Engines,
    ) -> None:
        """path: of the file that reload() reads; None where there is none."""
        self._config = config
        self._path = path
        self._pipeline = pipeline
        self._publisher = publisher
        self._service = service
        self._kept = kept
        self._engines = engines
        self._changing = threading.Lock()  # guards _config and _kept, and that changes do not mix

    def answer(self, request: AnyRequest, local: bool) -> AnyReply:
        """Do what is asked; local: as of change(). Raises StreamsegError."""
        if isinstance(request, GetSnapshot):
            return self.snapshot(request)
        if isinstance(request, SetZones):
            return self.zones(request)
        if isinstance(request, SegmentPicture):
            return self.picture(request, local)
        if isinstance(request, GetDetail):
            return self._pipeline.details.picture(request.stream)
        if isinstance(request, Reload):
            return self.reload()
        assert not isinstance(request, GetStatus | SetLogLevel), "answered by the daemon"
        self.change(request, local)
        return Done()

    def change(self, request: StreamRequest, local: bool) -> None:
        """Do what a request asks of a stream; local: it came from the daemon's own user on this machine.

        Raises StreamsegError.
        """
        name = request.stream
        if isinstance(request, AddStream | SetEngine):
            self._change_engine(request, local)
            return
        with self._changing:
            if isinstance(request, RemoveStream):
                self._check_removable(name)
                self._pipeline.remove(name)
                self._kept.forget(name)
                done = "removed"
            elif isinstance(request, PauseStream):
                self._pipeline.streams.pause(name)
                done = "paused"
            elif isinstance(request, ResumeStream):
                self._pipeline.streams.resume(name)
                done = "resumed"
            else:
                self._pipeline.request_keyframe(name)
                return
        log.info("%s: %s on request", name, done)

    def zones(self, request: SetZones) -> Zones:
        """Replace a stream's zones and events, where some are given; returns those that it has then.

        The stream's next frame has them. Raises StreamsegError, and nothing has changed then.
        """
        name = request.stream
        with self._changing:
            configs = self._pipeline.streams.configs()
            if name not in configs:
                raise ControlError(
                    "unknown stream", f"{name}: unknown stream (streams: {', '.join(configs) or 'none'})"
                )
            config = configs[name]
            now = tables_of(config)
            zones = now.zones if isinstance(request.zones, msgspec.UnsetType) else request.zones
            events = now.events if isinstance(request.events, msgspec.UnsetType) else request.events
            made_zones, made_events = checked_tables(name, zones, events)
            wanted = msgspec.structs.replace(config, zones=made_zones, events=made_events)
            tables = tables_of(wanted)
            if tables.revision != now.revision:
                self._kept.keep(name, tables)
                self._pipeline.streams.change(name, wanted)
                log.info(
                    "%s: %d zones and %d events set on request", name, len(tables.zones), len(tables.events)
                )
            return Zones(
                stream=name, revision=tables.revision, zones=tables.zones, events=tables.events,
                kept=self._kept.kept(name),
            )  # fmt: skip

    def reload(self) -> Reloaded:
        """Apply what the file says now; raises with every reason why not, and changes nothing then."""
        if self._path is None:
            raise ControlError("no file", "reload: this daemon was started without a configuration file")
        with self._engines.changing, self._service.reloading():
            try:
                new = load_config(self._path)
                check_sources(new.streams)
                wanted = wanted_engines(new.streams, new.engine, new.engines)
                made = self._engines.load(wanted, new.streams, self._pipeline)
            except (ConfigError, EngineError) as error:
                problems = error.problems if isinstance(error, ConfigError) else (str(error),)
                for problem in problems:
                    log.error("reload refused: %s", problem)
                log.error("reload refused: the previous configuration stays in force")
                self._service.set_status(f"reload refused: {problems[0]}")
                raise ConfigError(*problems) from error
            with self._changing:
                new = msgspec.structs.replace(new, streams=self._kept.over(new.streams))
                change = plan_change(self._config, self._pipeline.streams.configs(), new)
                done = self._apply(change, made)
            self._engines.settle(self._pipeline)
        return done

    @property
    def engine_names(self) -> list[str]:
        """What a stream's `engine` may be beside the name of an engine that is installed."""
        return ["default", *self._config.engines]

    def settle(self) -> None:
        """After a stream was removed: close what no stream uses any more."""
        self._engines.settle(self._pipeline)

    def snapshot(self, request: GetSnapshot) -> Snapshot:
        """The last mask of a stream; raises ControlError where there is none."""
        name = request.stream
        if name not in self._pipeline.streams:
            raise ControlError("unknown stream", f"{name}: unknown stream")
        mask = self._publisher.last(name, refined=request.refined)
        if mask is None:
            which = "refined mask" if request.refined else "mask"
            raise ControlError("no mask", f"{name}: no {which} has been published yet")
        message = encode_mask(
            mask, self._config.publish.encoding, kind="refined" if request.refined else "mask"
        )
        label_set = self._publisher.label_set(mask.label_set)
        return Snapshot(messages=[*([encode_labels(label_set)] if label_set else []), message])

    def picture(self, request: SegmentPicture, local: bool) -> Snapshot:
        """Labels of a single picture, beside the streams; raises ControlError."""
        if not local:
            raise ControlError("bad settings", "picture: only the daemon's own user may have one segmented")
        height, width = check_size(*request.size)
        try:
            pixels = np.fromfile(request.file, np.uint8, height * width * 3)
        except OSError as error:
            raise ControlError("failed", f"picture: cannot be read ({error.strerror})") from error
        if pixels.size != height * width * 3:
            raise ControlError("failed", f"picture: must have {height * width * 3} bytes; has {pixels.size}")
        rgb, named = pixels.reshape(height, width, 3), request.engine
        key = (lambda: self._engines.serving(named)) if named else None
        logits = self._pipeline.pictures.segment(rgb, PICTURE_WITHIN_S, key)
        _, engine = self._engines.settings(logits.frame.settings.engine.name)
        view = view_of(logits.label_set, engine.labels, logits.kind)
        labels, confidence = labels_of(logits, request.size, True, view)
        stamp = replace(logits.frame.stamp, stream="picture", run=self._publisher.run)
        mask = Mask(
            stamp, labels, view.label_set.id, logits.engine, confidence=confidence, stage_us=logits.stage_us
        )
        kind: Kind = "mask" if confidence is None else "mask+confidence"
        return Snapshot(messages=[encode_labels(view.label_set), encode_mask(mask, "zstd", kind=kind)])

    def _change_engine(self, request: AddStream | SetEngine, local: bool) -> None:
        """Add a stream, or run one on another engine, which is loaded first while the others go on."""
        name, streams = request.stream, self._pipeline.streams
        with self._engines.changing:
            with self._changing:
                config, own = self._settings_of(request, local), self._config
                present = {**streams.configs(), name: config}
                wanted = wanted_engines(present, own.engine, own.engines)
            try:
                made = self._engines.load(wanted, present, self._pipeline)
            except EngineError as error:
                log.warning("%s: nothing has changed: %s", name, error)
                raise ControlError("bad settings", str(error)) from error
            try:
                with self._changing:
                    self._engines.serve(made, self._pipeline)
                    if isinstance(request, AddStream):
                        streams.add(self._kept.over({name: config}))
                    else:
                        now = streams.config(name)  # its zones may have been set meanwhile
                        streams.change(name, msgspec.structs.replace(now, engine=request.engine))
            finally:
                self._engines.settle(self._pipeline)
        if isinstance(request, AddStream):
            log.info("%s: added on request", name)
        else:
            log.info("%s: runs on engine %s on request", name, request.engine)

    def _check_removable(self, name: str) -> None:
        takers = [other for other, c in self._pipeline.streams.configs().items() if shared_with(c) == name]
        if takers:
            others = ", ".join(takers)
            raise ControlError("bad state", f"{name}: its frames go to {others}, too; remove {others} first")

    def _settings_of(self, request: AddStream | SetEngine, local: bool) -> StreamConfig:
        """The settings that a stream is to have."""
        name, streams = request.stream, self._pipeline.streams
        if isinstance(request, SetEngine):
            settings = streams.config(name)
            if not local:
                check_remote_engine(name, request.engine, self._config.engines)
            return msgspec.structs.replace(settings, engine=request.engine)
        if name in streams:
            raise ControlError("stream exists", f"{name}: exists already; remove it first")
        tree = {"streams": {request.stream: request.settings}}
        config = build_settings(Config, tree)
        if not local:
            wanted = config.streams[request.stream]
            check_remote(request.stream, wanted, self._config.streams.values())
            check_remote_engine(request.stream, wanted.engine, self._config.engines)
        check_sources(config.streams, streams.configs())
        if len(self._pipeline.streams.configs()) >= MAX_STREAMS:
            raise ControlError("bad state", f"{request.stream}: there are {MAX_STREAMS} streams already")
        return config.streams[request.stream]

    def _apply(self, change: Change, made: Mapping[str, Loaded]) -> Reloaded:
        pipeline, restarted = self._pipeline, []
        if any(key.startswith("refinement.") for key in change.applied):
            try:
                pipeline.refinement.apply(change.config.refinement)  # first: it may refuse
            except ConfigError:
                for loaded in made.values():
                    loaded.close()
                raise
            pipeline.gate.must_look()
        self._engines.configure(change.config.engine, change.config.engines)
        self._engines.serve(made, pipeline, change.changed)
        for name in change.removed:
            pipeline.remove(name)
        for name, config in change.changed.items():
            if pipeline.streams.change(name, config):
                restarted.append(name)
        pipeline.streams.add(change.added)
        set_log_level(change.config.log.level)
        self._config = change.config
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


def reload_lines(done: Reloaded) -> list[str]:
    """What a reload did, as lines for the log."""
    lines = [
        f"{what} {', '.join(names)}"
        for what, names in (
            ("added", done.added),
            ("removed", done.removed),
            ("reopened", done.restarted),
            ("applied", done.applied),
        )
        if names
    ]
    lines += [f"{key}: takes effect when the daemon is restarted" for key in done.needs_restart]
    return lines or ["nothing has changed"]


def set_log_level(level: str) -> None:
    """Log the package's messages of this severity and above."""
    logging.getLogger("streamseg").setLevel(level.upper())


def log_level() -> LogLevel:
    level = logging.getLogger("streamseg").getEffectiveLevel()
    return next((name for name in LOG_LEVELS if level <= getattr(logging, name.upper())), "error")
