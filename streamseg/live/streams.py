"""The live streams, each in a thread of its own: add, remove, change, pause and resume them.

A stream whose source is stream:NAME has no thread: it gets the frames of that one, in that one's thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial

import msgspec

from streamseg.config import LabelsConfig, StreamConfig
from streamseg.config.sharing import shared_with, sharing_problems
from streamseg.errors import ControlError
from streamseg.live.stream import LIVE_SETTINGS, EngineOf, LiveStream, NeededOf, Playback
from streamseg.runtime.counters import State, Stats
from streamseg.runtime.stage import Stage
from streamseg.sources import SourceEvent, resolve
from streamseg.sources.live import frames
from streamseg.types import DEFAULT_ENGINE, EngineKey, Frame, FrameSettings

log = logging.getLogger(__name__)

MAX_EPOCHS = 4096  # removed streams whose next epoch is remembered


class Streams:
    """The streams by name. Any thread may call; each decode-<stream> thread owns its container."""

    def __init__(
        self,
        stats: Stats,
        on_frame: Callable[[Frame], None],
        on_all_ended: Callable[[], None],
        on_settings: Callable[[str, FrameSettings | None], None] = lambda stream, settings: None,
        engine_of: EngineOf = lambda _: (DEFAULT_ENGINE, LabelsConfig()),
        needed: NeededOf = lambda *_: None,
    ) -> None:
        """on_frame gets each frame in its stream's thread, and may wait. on_all_ended is called when a stream
        has ended by itself and no other one plays or is paused; nothing can be added from then on.
        on_settings gets the settings of a stream that is added or changed, before a frame with them, and None
        when it is removed; it must not wait. needed: the least size of a stream's picture that is enough.
        """
        self.failures: dict[str, BaseException] = {}  # of streams whose source failed, by name
        self._stats = stats
        self._on_frame = on_frame
        self._on_all_ended = on_all_ended
        self._on_settings = on_settings
        self._engine_of = engine_of
        self._needed = needed
        self._lock = threading.Lock()  # guards all below; not held while anything waits
        self._streams: dict[str, LiveStream] = {}
        self._next_epoch: OrderedDict[str, int] = OrderedDict()
        self._stages: dict[str, Stage] = {}  # the last one of each stream, which may not have ended yet
        self._closed = False

    def __contains__(self, name: str) -> bool:
        # Without the lock: one look into a dictionary is atomic, and the answer may be old in any case.
        return name in self._streams

    def configs(self) -> dict[str, StreamConfig]:
        """The settings of all streams."""
        with self._lock:
            return self._configs()

    def config(self, name: str) -> StreamConfig:
        """The settings of a stream; raises ControlError."""
        with self._lock:
            return self._known(name).config

    def states(self) -> dict[str, State]:
        """What each stream does now."""
        with self._lock:
            paused = {name for name, stream in self._streams.items() if stream.paused}
            return {
                name: "paused" if paused & {name, shared_with(stream.config)} else stream.stats.state
                for name, stream in self._streams.items()
            }

    def settings(self, name: str) -> FrameSettings:
        """What the next frame of a stream refers to; raises ControlError."""
        with self._lock:
            return self._known(name).settings

    def take_engines(self, changed: Mapping[str, StreamConfig] | None = None) -> set[EngineKey]:
        """Have each stream's next frame refer to the engine that serves for it now; those that are in use.

        changed: streams that get other settings: their engine and labels are taken now, at once.
        """
        with self._lock:
            for name, stream in self._streams.items():
                own = (changed or {}).get(name, stream.config)
                stream.config = msgspec.structs.replace(stream.config, engine=own.engine, labels=own.labels)
                key, labels = self._engine_of(own.engine)
                self._renew(
                    stream, replace(stream.settings, engine=key, labels=own.labels.over(labels).or_none())
                )
            return {stream.settings.engine for stream in self._streams.values()}

    def add(self, streams: Mapping[str, StreamConfig]) -> None:
        """Start streams; raises ControlError for a name that exists, and once all have ended."""
        with self._lock:
            self._check_open()
            for name in streams:
                if name in self._streams:
                    raise ControlError("stream exists", f"{name}: exists already; remove it first")
            if problems := list(sharing_problems(streams, self._configs())):
                raise ControlError("bad settings", *problems)
            added = []
            for name, config in streams.items():
                settings = FrameSettings(removed=threading.Event())
                stream = self._streams[name] = LiveStream(name, config, settings, self._stats.begin(name))
                added.append(stream)
            self._link(streams)
            stages = [self._prepare(one.name, one) for one in added if not shared_with(one.config)]
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
            if name in self._stages and not self._stages[name].is_alive():
                del self._stages[name]
            self._forget_old_epochs()
            self._link()

    def change(self, name: str, config: StreamConfig) -> bool:
        """Give a stream other settings; True when its source is reopened for them. Raises ControlError."""
        with self._lock:
            self._check_open()
            stream = self._known(name)
            changed = [f for f in config.__struct_fields__ if getattr(config, f) != getattr(stream.config, f)]
            before, stream.config = stream.config, config
            self._link()
            if LIVE_SETTINGS.issuperset(changed):
                return False
            if shared_with(config):
                stream.ahead = None
                if not shared_with(before):
                    stream.playback.end()
                    self.failures.pop(name, None)
                return True
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
            if shared_with(stream.config):
                return
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
            if of := shared_with(stream.config):
                if stream.ended:
                    raise ControlError("bad state", f"{name}: the frames of {of} have ended; resume {of}")
                stream.paused = False
                return
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

    def _restart(self, name: str, stream: LiveStream) -> Stage:
        """End a stream's playback and make the thread that follows it; the lock is held."""
        stream.playback.end()
        stream.playback = Playback()
        for one in (stream, *stream.followers):
            one.ended = False
            one.stats.state, one.stats.error = "connecting", ""
        self.failures.pop(name, None)
        return self._prepare(name, stream)

    def _prepare(self, name: str, stream: LiveStream) -> Stage:
        """Make the decode thread of a stream; the lock is held."""
        playback, config, previous = stream.playback, stream.config, self._stages.get(name)
        playback.running.set()

        def on_event(event: SourceEvent) -> None:
            for one in (stream, *stream.followers):
                event.count(one.stats)
            event.log(log, name)

        def work() -> None:
            # A camera can be opened once only, and masks must come in order: the thread before ends first.
            while previous is not None and previous.is_alive() and not playback.stop.is_set():
                previous.join(0.1)
            with self._lock:
                epoch = self._next_epoch.get(name, 0)
            # stream.settings is read without the lock: a change takes effect one frame later at the most.
            settings, current, threads = (
                lambda: stream.settings,
                lambda: stream.config,
                lambda: len(self._stages),
            )
            asked = settings, current, threads, partial(stream.needed, self._needed)
            for frame in frames(config, name, playback.stop, on_event, epoch, *asked):
                if frame.epoch >= epoch:
                    epoch = frame.epoch + 1
                    with self._lock:
                        self._next_epoch[name] = epoch
                playback.running.wait()
                if playback.stop.is_set():
                    return
                stream.count(frame)
                self._on_frame(frame)
                for follower in stream.followers:
                    self._hand_on(frame, follower)

        stage = Stage(f"decode-{name}", work, lambda stage: self._stage_ended(name, stream, playback, stage))
        self._stages[name] = stage
        return stage

    def _hand_on(self, frame: Frame, to: LiveStream) -> None:
        """Give a frame to a stream that shares its decoding; in the thread that decodes."""
        if to.paused:
            return
        taken = to.taken(frame, self._next_epoch.get(to.name, 0))
        if to.stats.epoch >= self._next_epoch.get(to.name, 0):
            with self._lock:
                self._next_epoch[to.name] = to.stats.epoch + 1
        if taken is not None:
            self._on_frame(taken)

    def _link(self, added: Collection[str] = ()) -> None:
        """Make each stream's settings and followers anew, and have new followers play; the lock is held."""
        followers: dict[str, list[LiveStream]] = {}
        for stream in self._streams.values():
            if of := shared_with(stream.config):
                followers.setdefault(of, []).append(stream)
        for name, stream in self._streams.items():
            leader = self._streams.get(shared_with(stream.config), stream)
            engine = self._engine_of(stream.config.engine)
            settings = stream.settings_for(leader.config, *engine)
            self._renew(stream, settings, new=name in added)
            found = tuple(followers.get(name, ()))
            for one in set(found) - set(stream.followers):
                one.follow(stream)
            stream.followers = found

    def _stage_ended(self, name: str, stream: LiveStream, playback: Playback, stage: Stage) -> None:
        """A stream's thread has ended: it was asked to, its file came to its end, or its source failed."""
        error = stage.error
        with self._lock:
            if self._streams.get(name) is not stream or stream.playback is not playback:
                if self._stages.get(name) is stage and name not in self._streams:
                    del self._stages[name]
                return
            if playback.stop.is_set() and error is None:
                return
            for one in (stream, *stream.followers):
                one.ended, one.paused = True, False
                one.stats.state = "ended" if error is None else "failed"
                if error is not None:
                    one.stats.error = str(error)
            if error is not None:
                self.failures[name] = error
            last = all(other.ended for other in self._streams.values())
            self._closed = self._closed or last
        if error is not None and not last:  # of the last stream the daemon reports it when it ends
            log.error("%s: %s", name, error)
        if last:
            self._on_all_ended()

    def _renew(self, stream: LiveStream, settings: FrameSettings, *, new: bool = False) -> None:
        """Have the next frame refer to other settings; the same ones stay the same object."""
        if stream.has(settings) and not new:
            return
        self._on_settings(stream.name, settings)
        if stream.config.gate != settings.gate:
            log.info(
                "%s: gate: not used, since every frame of a file without realtime gets its own mask",
                stream.name,
            )
        stream.settings = settings

    def _configs(self) -> dict[str, StreamConfig]:
        return {name: stream.config for name, stream in self._streams.items()}

    def _known(self, name: str) -> LiveStream:
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
