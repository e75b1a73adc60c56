"""The streams that play, each in a thread of its own; one begins, pauses or ends while the others go on."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streamseg.config import StreamConfig
from streamseg.errors import ControlError
from streamseg.runtime.counters import State, Stats, StreamStats
from streamseg.runtime.stage import Stage
from streamseg.sources import SourceEvent, resolve
from streamseg.sources.live import frames
from streamseg.types import Frame

log = logging.getLogger(__name__)

LIVE_SETTINGS = ("max_age_ms", "mask_size")  # are looked up for each frame; others need the source anew
EPOCHS_KNOWN = 4096  # streams whose next epoch is remembered after they were removed

Deliver = Callable[[Frame, StreamConfig], None]


@dataclass(slots=True, eq=False)
class _Playing:
    """One life of a stream's thread."""

    stop: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)  # cleared: held at its place
    stage: Stage | None = None

    def end(self) -> None:
        self.stop.set()
        self.go_on.set()


@dataclass(slots=True, eq=False)
class _Stream:
    config: StreamConfig
    stats: StreamStats
    paused: bool = False
    over: bool = False  # ended or failed by itself
    playing: _Playing = field(default_factory=_Playing)


class Streams:
    """What plays, by name. Any thread may call; decode-<stream> threads own the containers."""

    def __init__(self, stats: Stats, deliver: Deliver, on_all_over: Callable[[], None]) -> None:
        """deliver gets each frame in its stream's thread, and may wait. on_all_over is called when a stream
        has ended by itself and no other one plays or is paused; nothing can be added from then on.
        """
        self.failures: dict[str, BaseException] = {}  # of streams that cannot be had, by name
        self._stats = stats
        self._deliver = deliver
        self._on_all_over = on_all_over
        self._lock = threading.Lock()  # guards all below; not held while anything waits
        self._streams: dict[str, _Stream] = {}
        self._next_epoch: OrderedDict[str, int] = OrderedDict()
        self._stages: dict[str, Stage] = {}  # the last one of each stream, which may still be winding down
        self._closed = False

    def __contains__(self, name: str) -> bool:
        return name in self._streams

    def config_of(self, name: str) -> StreamConfig | None:
        """A stream's settings; None when it has been removed."""
        stream = self._streams.get(name)
        return stream.config if stream is not None else None

    def configs(self) -> dict[str, StreamConfig]:
        """The settings of all streams."""
        with self._lock:
            return {name: stream.config for name, stream in self._streams.items()}

    def states(self) -> dict[str, State]:
        """What each stream does now."""
        with self._lock:
            return {
                name: "paused" if stream.paused else stream.stats.state
                for name, stream in self._streams.items()
            }

    def add(self, streams: Mapping[str, StreamConfig]) -> None:
        """Begin streams; raises ControlError for a name that is taken, and once all are over."""
        with self._lock:
            self._check_open()
            for name in streams:
                if name in self._streams:
                    raise ControlError("stream exists", f"{name}: is there already; remove it first")
            stages = []
            for name, config in streams.items():
                stream = self._streams[name] = _Stream(config, self._stats.begin(name))
                stages.append(self._prepare(name, stream))
        for stage in stages:
            stage.start()

    def remove(self, name: str) -> None:
        """End a stream; its thread may still wind down when this returns. Raises ControlError."""
        with self._lock:
            stream = self._known(name)
            del self._streams[name]
            self.failures.pop(name, None)
            stream.playing.end()
            self._stats.forget(name)
            if not self._stages[name].is_alive():
                del self._stages[name]
            self._forget_old_epochs()

    def change(self, name: str, config: StreamConfig) -> bool:
        """Give a stream other settings; True when its source is opened anew for them. Raises ControlError."""
        with self._lock:
            self._check_open()
            stream = self._known(name)
            changed = [f for f in config.__struct_fields__ if getattr(config, f) != getattr(stream.config, f)]
            stream.config = config
            if set(changed) <= set(LIVE_SETTINGS):
                return False
            if stream.paused:
                stream.playing.end()  # what was held belongs to the old settings
                return True
            stage = self._begin_anew(name, stream)
        stage.start()
        return True

    def pause(self, name: str) -> None:
        """Close a camera or an address; hold a file at its place. Raises ControlError."""
        with self._lock:
            stream = self._known(name)
            if stream.paused or stream.over:
                raise ControlError("bad state", f"{name}: is {'paused' if stream.paused else 'over'} already")
            stream.paused = True
            if resolve(stream.config.source).kind == "file":
                stream.playing.go_on.clear()
            else:
                stream.playing.end()

    def resume(self, name: str) -> None:
        """Play on: a file from its place, a camera or an address opened anew. Raises ControlError.

        A stream that has ended or failed begins again.
        """
        with self._lock:
            self._check_open()
            stream = self._known(name)
            if not stream.paused and not stream.over:
                raise ControlError("bad state", f"{name}: is not paused")
            held = stream.paused and not stream.playing.stop.is_set()
            stream.paused = False
            if held and not stream.over:
                stream.playing.go_on.set()
                return
            stage = self._begin_anew(name, stream)
        stage.start()

    def stop(self) -> None:
        """End all streams; returns at once."""
        with self._lock:
            self._closed = True
            for stream in self._streams.values():
                stream.playing.end()

    def join(self, deadline_s: float) -> bool:
        """Wait for all threads until that monotonic time; True when they have ended."""
        with self._lock:
            stages = list(self._stages.values())
        for stage in stages:
            if stage.is_alive():
                stage.join(max(0.0, deadline_s - time.monotonic()))
        return not any(stage.is_alive() for stage in stages)

    def _begin_anew(self, name: str, stream: _Stream) -> Stage:
        """End what plays of a stream and make the thread that follows; the lock is held."""
        stream.playing.end()
        stream.playing = _Playing()
        stream.over = False
        stream.stats.state, stream.stats.error = "connecting", ""
        self.failures.pop(name, None)
        return self._prepare(name, stream)

    def _prepare(self, name: str, stream: _Stream) -> Stage:
        playing, config, before = stream.playing, stream.config, self._stages.get(name)
        playing.go_on.set()

        def on_event(event: SourceEvent) -> None:
            event.count(stream.stats)
            event.log(log, name)

        def work() -> None:
            # A camera can be opened once only, and masks must come in order: the thread before goes first.
            while before is not None and before.is_alive() and not playing.stop.is_set():
                before.join(0.1)
            first_epoch = self._next_epoch.get(name, 0)
            for frame in frames(config, name, playing.stop, on_event, first_epoch):
                self._next_epoch[name] = frame.epoch + 1
                playing.go_on.wait()
                if playing.stop.is_set():
                    return
                stream.stats.epoch = frame.epoch
                stream.stats.decoded += 1
                stream.stats.last_capture_unix_ns = frame.captured_unix_ns
                self._deliver(frame, stream.config)

        stage = Stage(f"decode-{name}", work, lambda stage: self._ended(name, stream, playing, stage))
        playing.stage = self._stages[name] = stage
        return stage

    def _ended(self, name: str, stream: _Stream, playing: _Playing, stage: Stage) -> None:
        """A stream's thread is over: it was told to, its file has ended, or its source cannot be had."""
        error = stage.error
        with self._lock:
            if self._streams.get(name) is not stream or stream.playing is not playing:
                if self._stages.get(name) is stage and name not in self._streams:
                    del self._stages[name]
                return
            if playing.stop.is_set() and error is None:
                return
            stream.over, stream.paused = True, False
            stream.stats.state = "ended" if error is None else "failed"
            if error is not None:
                self.failures[name] = error
                stream.stats.error = str(error)
            last = all(other.over for other in self._streams.values())
            self._closed = self._closed or last
        if error is not None and not last:  # else it is what the daemon ends with, and says
            log.error("%s: %s", name, error)
        if last:
            self._on_all_over()

    def _known(self, name: str) -> _Stream:
        if name not in self._streams:
            names = ", ".join(self._streams) or "none"
            raise ControlError("unknown stream", f"{name}: there is no such stream (there is {names})")
        return self._streams[name]

    def _check_open(self) -> None:
        if self._closed:
            raise ControlError("stopping", "the daemon is about to end")

    def _forget_old_epochs(self) -> None:
        while len(self._next_epoch) > EPOCHS_KNOWN + len(self._streams):
            oldest = next(name for name in self._next_epoch if name not in self._streams)
            del self._next_epoch[oldest]
