"""The live streams, each in a thread of its own: add, remove, change, pause and resume them."""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from streamseg.config import StreamConfig
from streamseg.errors import ControlError, SourceError
from streamseg.runtime.counters import State, Stats, StreamStats
from streamseg.runtime.stage import Stage
from streamseg.sources import SourceEvent, is_live, resolve
from streamseg.sources.live import frames
from streamseg.types import Frame, FrameSettings

log = logging.getLogger(__name__)

# Taken by the next frame; for others the source is reopened.
LIVE_SETTINGS = ("max_age_ms", "mask_size", "zones", "events")
MAX_EPOCHS = 4096  # removed streams whose next epoch is remembered


@dataclass(slots=True, eq=False)
class _Playback:
    """One decode thread of a stream, from when its source is opened until it ends or is reopened."""

    stop: threading.Event = field(default_factory=threading.Event)
    running: threading.Event = field(
        default_factory=threading.Event
    )  # cleared: a paused file holds its place

    def end(self) -> None:
        self.stop.set()
        self.running.set()


@dataclass(slots=True, eq=False)
class _Stream:
    config: StreamConfig
    settings: FrameSettings  # replaced as a whole, so its decode thread reads it without the lock
    stats: StreamStats
    paused: bool = False
    ended: bool = False  # by itself: its file came to its end, or its source failed
    playback: _Playback = field(default_factory=_Playback)


class Streams:
    """The streams by name. Any thread may call; each decode-<stream> thread owns its container."""

    def __init__(
        self,
        stats: Stats,
        on_frame: Callable[[Frame], None],
        on_all_ended: Callable[[], None],
        on_settings: Callable[[str, FrameSettings | None], None] = lambda stream, settings: None,
    ) -> None:
        """on_frame gets each frame in its stream's thread, and may wait. on_all_ended is called when a stream
        has ended by itself and no other one plays or is paused; nothing can be added from then on.
        on_settings gets the settings of a stream that is added or changed, before a frame with them, and None
        when it is removed; it must not wait.
        """
        self.failures: dict[str, BaseException] = {}  # of streams whose source failed, by name
        self._stats = stats
        self._on_frame = on_frame
        self._on_all_ended = on_all_ended
        self._on_settings = on_settings
        self._lock = threading.Lock()  # guards all below; not held while anything waits
        self._streams: dict[str, _Stream] = {}
        self._next_epoch: OrderedDict[str, int] = OrderedDict()
        self._stages: dict[str, Stage] = {}  # the last one of each stream, which may not have ended yet
        self._closed = False

    def __contains__(self, name: str) -> bool:
        # Without the lock: one look into a dictionary is atomic, and the answer may be old in any case.
        return name in self._streams

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
        """Start streams; raises ControlError for a name that exists, and once all have ended."""
        with self._lock:
            self._check_open()
            for name in streams:
                if name in self._streams:
                    raise ControlError("stream exists", f"{name}: exists already; remove it first")
            stages = []
            for name, config in streams.items():
                settings = _frame_settings(config, threading.Event())
                stream = self._streams[name] = _Stream(config, settings, self._stats.begin(name))
                self._on_settings(name, settings)
                stages.append(self._prepare(name, stream))
        for stage in stages:
            stage.start()

    def remove(self, name: str) -> None:
        """End a stream; its thread may not have ended yet when this returns. Raises ControlError."""
        with self._lock:
            stream = self._known(name)
            del self._streams[name]
            self.failures.pop(name, None)
            stream.settings.removed.set()
            stream.playback.end()
            self._on_settings(name, None)
            self._stats.forget(name)
            if not self._stages[name].is_alive():
                del self._stages[name]
            self._forget_old_epochs()

    def change(self, name: str, config: StreamConfig) -> bool:
        """Give a stream other settings; True when its source is reopened for them. Raises ControlError."""
        with self._lock:
            self._check_open()
            stream = self._known(name)
            changed = [f for f in config.__struct_fields__ if getattr(config, f) != getattr(stream.config, f)]
            stream.config = config
            settings = _frame_settings(config, stream.settings.removed)
            self._on_settings(name, settings)
            stream.settings = settings
            if set(changed) <= set(LIVE_SETTINGS):
                return False
            if stream.paused:
                stream.playback.end()  # its place in the file belongs to the old settings
                return True
            stage = self._restart(name, stream)
        stage.start()
        return True

    def pause(self, name: str) -> None:
        """Close a camera or an address; hold a file at its place. Raises ControlError."""
        with self._lock:
            stream = self._known(name)
            if stream.paused or stream.ended:
                raise ControlError(
                    "bad state", f"{name}: {'is paused' if stream.paused else 'has ended'} already"
                )
            stream.paused = True
            if resolve(stream.config.source).kind == "file":
                stream.playback.running.clear()
            else:
                stream.playback.end()

    def resume(self, name: str) -> None:
        """Continue: a file from its place, a camera or an address opened again. Raises ControlError.

        A stream that has ended or failed starts from the beginning.
        """
        with self._lock:
            self._check_open()
            stream = self._known(name)
            if not stream.paused and not stream.ended:
                raise ControlError("bad state", f"{name}: is not paused")
            held = stream.paused and not stream.playback.stop.is_set()
            stream.paused = False
            if held and not stream.ended:
                stream.playback.running.set()
                return
            stage = self._restart(name, stream)
        stage.start()

    def stop(self) -> None:
        """End all streams; returns at once."""
        with self._lock:
            self._closed = True
            for stream in self._streams.values():
                stream.playback.end()

    def join(self, deadline_s: float) -> bool:
        """Wait for all threads until that monotonic time; True when they have ended."""
        with self._lock:
            stages = list(self._stages.values())
        for stage in stages:
            if stage.is_alive():
                stage.join(max(0.0, deadline_s - time.monotonic()))
        return not any(stage.is_alive() for stage in stages)

    def _restart(self, name: str, stream: _Stream) -> Stage:
        """End a stream's playback and make the thread that follows it; the lock is held."""
        stream.playback.end()
        stream.playback = _Playback()
        stream.ended = False
        stream.stats.state, stream.stats.error = "connecting", ""
        self.failures.pop(name, None)
        return self._prepare(name, stream)

    def _prepare(self, name: str, stream: _Stream) -> Stage:
        """Make the decode thread of a stream; the lock is held."""
        playback, config, previous = stream.playback, stream.config, self._stages.get(name)
        playback.running.set()

        def on_event(event: SourceEvent) -> None:
            event.count(stream.stats)
            event.log(log, name)

        def work() -> None:
            # A camera can be opened once only, and masks must come in order: the thread before ends first.
            while previous is not None and previous.is_alive() and not playback.stop.is_set():
                previous.join(0.1)
            with self._lock:
                epoch = self._next_epoch.get(name, 0)
            # stream.settings is read without the lock: a change takes effect one frame later at the most.
            for frame in frames(config, name, playback.stop, on_event, epoch, lambda: stream.settings):
                if frame.epoch >= epoch:
                    epoch = frame.epoch + 1
                    with self._lock:
                        self._next_epoch[name] = epoch
                playback.running.wait()
                if playback.stop.is_set():
                    return
                stream.stats.epoch = frame.epoch
                stream.stats.decoded += 1
                stream.stats.last_capture_unix_ns = frame.captured_unix_ns
                self._on_frame(frame)

        stage = Stage(f"decode-{name}", work, lambda stage: self._stage_ended(name, stream, playback, stage))
        self._stages[name] = stage
        return stage

    def _stage_ended(self, name: str, stream: _Stream, playback: _Playback, stage: Stage) -> None:
        """A stream's thread has ended: it was asked to, its file came to its end, or its source failed."""
        error = stage.error
        with self._lock:
            if self._streams.get(name) is not stream or stream.playback is not playback:
                if self._stages.get(name) is stage and name not in self._streams:
                    del self._stages[name]
                return
            if playback.stop.is_set() and error is None:
                return
            stream.ended, stream.paused = True, False
            stream.stats.state = "ended" if error is None else "failed"
            if error is not None:
                self.failures[name] = error
                stream.stats.error = str(error)
            last = all(other.ended for other in self._streams.values())
            self._closed = self._closed or last
        if error is not None and not last:  # of the last stream the daemon reports it when it ends
            log.error("%s: %s", name, error)
        if last:
            self._on_all_ended()

    def _known(self, name: str) -> _Stream:
        if name not in self._streams:
            names = ", ".join(self._streams) or "none"
            raise ControlError("unknown stream", f"{name}: unknown stream (streams: {names})")
        return self._streams[name]

    def _check_open(self) -> None:
        if self._closed:
            raise ControlError("stopping", "the daemon is stopping")

    def _forget_old_epochs(self) -> None:
        while len(self._next_epoch) > MAX_EPOCHS + len(self._streams):
            oldest = next(name for name in self._next_epoch if name not in self._streams)
            del self._next_epoch[oldest]


def _frame_settings(config: StreamConfig, removed: threading.Event) -> FrameSettings:
    """What the frames of a stream refer to."""
    try:
        live = is_live(config)
    except SourceError:  # an address that cannot work: the stream's own thread reports it
        live = True
    return FrameSettings(
        live, config.max_age_ms, config.mask_size, config.hwaccel, config.zones, config.events, removed
    )
