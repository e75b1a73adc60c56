"""The networks of a daemon: loaded and checked before they serve, closed when no stream uses them."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from streamseg.config import EngineConfig, LabelsConfig, StreamConfig
from streamseg.config.engines import DEFAULT, engine_settings, shared_threads
from streamseg.daemon.arrangement import arranged, demands_of
from streamseg.daemon.loading import Loading
from streamseg.daemon.start_load import room_of
from streamseg.errors import ControlError, EngineError
from streamseg.inference.engine import EngineInfo
from streamseg.inference.plans.hot_swap import Upgrade
from streamseg.inference.plans.load import close_all
from streamseg.live.capacity import Room
from streamseg.live.engines import ServedEngine
from streamseg.live.pipeline import Pipeline
from streamseg.runtime.cpus import usable_cores
from streamseg.runtime.memory import give_back
from streamseg.types import EngineKey, LabelSet
from streamseg.wire.control import EngineState, EngineStatus

log = logging.getLogger(__name__)

ENDS_WITHIN_S = 10.0  # an engine that no stream uses any more: its last batch


@dataclass(slots=True, eq=False)
class Loaded:
    """An engine that has been loaded and has run."""

    config: EngineConfig  # as it is set
    shared: EngineConfig  # with its share of the cores, and its replicas
    served: ServedEngine
    upgrade: Upgrade | None
    status: EngineStatus
    call_s: float  # that one picture takes in the network, alone

    def close(self) -> None:
        if self.upgrade is not None:
            self.upgrade.stop()
        close_all(self.served.replicas)


class Engines:
    """Whoever changes which engines serve holds `changing`; whoever only asks needs nothing."""

    def __init__(self, default: EngineConfig, sections: Mapping[str, EngineConfig], stop: threading.Event):
        """stop: set when the daemon ends: what is being loaded is given up."""
        self.abandoned = False  # a library still works in a thread that cannot be ended
        self.changing = threading.RLock()
        self._default, self._sections = default, dict(sections)  # replaced whole
        self._stop = stop
        self.on_better: Callable[[], object] = lambda: None
        """Called from any thread when a better engine serves: settle() may have something to do."""
        self._alone_s: dict[bytes, float] = {}  # by the settings: a picture in one engine
        self._serving: dict[str, Loaded] = {}  # each operation on it is whole
        self._label_sets: dict[str, tuple[LabelSet, str]] = {}  # by id, with the engine that had it first
        self._loading = EngineStatus(
            id=default.name if default.precision == "auto" else f"{default.name}/{default.precision}"
        )

    def settings(self, name: str) -> tuple[str, EngineConfig]:
        """The name and the settings of what a stream's `engine` names."""
        return engine_settings(name, self._default, self._sections)

    def configure(self, default: EngineConfig, sections: Mapping[str, EngineConfig]) -> None:
        """Take other settings; what serves is changed by load() and serve()."""
        self._default, self._sections = default, dict(sections)

    def key(self, name: str) -> tuple[EngineKey, LabelsConfig]:
        """What the frames of a stream refer to whose `engine` is this."""
        known, settings = self.settings(name)
        return self._serving[known].served.key, settings.labels

    def serving(self, name: str) -> EngineKey:
        """What a frame refers to that is to run on this engine; raises ControlError where no stream does."""
        known, _ = self.settings(name)
        loaded = self._serving.get(known)
        if loaded is None:
            raise ControlError(
                "bad settings",
                f"picture: no stream runs on engine {name!r}; those that serve: {', '.join(self.statuses())}",
            )
        return loaded.served.key

    def load(
        self,
        wanted: Mapping[str, EngineConfig],
        streams: Mapping[str, StreamConfig],
        pipeline: Pipeline | None = None,
    ) -> dict[str, Loaded]:
        """Load those of these engines that do not serve yet as they are set, and run each once. Blocks.

        streams: those that will run on them.
        pipeline: learns what it needs of them. Raises EngineError, ConfigError for settings of the CRF, and
        ControlError when the daemon stops; then nothing has changed.
        """
        shared, demands = shared_threads(wanted, usable_cores()), demands_of(streams, wanted)
        made: dict[str, Loaded] = {}
        try:
            for name, config in wanted.items():
                known = self._serving.get(name)
                if known is None or not _same_network(known.config, config):
                    made[name] = self._load(name, config, shared[name], demands[name])
                    self._check_labels(made[name])
                    if pipeline is not None:
                        pipeline.prepare(made[name].served)
        except BaseException:
            for one in made.values():
                one.close()
            raise
        return made

    def serve(
        self,
        made: Mapping[str, Loaded],
        pipeline: Pipeline,
        changed: Mapping[str, StreamConfig] | None = None,
    ) -> None:
        """Have engines that load() gave serve, in the place of those of their names, whose streams follow.

        changed: streams that get other settings: their engine and labels fit these engines.
        """
        replaced = [self._serving[name] for name in made if name in self._serving]
        for loaded in made.values():
            pipeline.engines.add(loaded.served)
        self._serving.update(made)
        for loaded in made.values():
            if loaded.upgrade is not None:
                loaded.upgrade.start()
        pipeline.streams.take_engines(changed)
        for loaded in replaced:
            self._release(loaded, pipeline, "another one serves in its place")

    def settle(self, pipeline: Pipeline) -> None:
        """Close the engines that no stream uses, unless it is the last one, and share the cores anew."""
        with self.changing:
            used = pipeline.streams.take_engines()
            for name, loaded in list(self._serving.items()):
                if loaded.served.key not in used and len(self._serving) > 1:
                    del self._serving[name]
                    self._release(loaded, pipeline, "no stream uses it")
            self._share(pipeline)

    def statuses(self) -> dict[str, EngineStatus]:
        return {name: loaded.status for name, loaded in list(self._serving.items())}

    def status(self) -> EngineStatus:
        """Of [engine]; of the first engine that serves where no stream uses that; or what is loaded."""
        statuses = self.statuses()
        return statuses.get(DEFAULT) or next(iter(statuses.values()), self._loading)

    def log_shares(self) -> None:
        """Say how the cores are shared, where several networks share them."""
        shares = {name: one.status for name, one in self._serving.items() if _on_cpu(one)}
        if len(shares) < 2:
            return
        each = ", ".join(f"{name} {_threads(one.threads * one.replicas)}" for name, one in shares.items())
        cores, taken = usable_cores(), sum(one.threads * one.replicas for one in shares.values())
        if taken > cores:
            log.warning("engines: %d threads share %d cores, and slow one another: %s", taken, cores, each)
        else:
            log.info("engines: each network has an equal share of the %d cores: %s", cores, each)

    def network_of(self, name: str) -> tuple[float, Room] | None:
        """The CPU milliseconds that a picture takes of a stream's `engine`, and what there is for it.

        None of one that does not serve, or is still exchanged for a better one, or is not on the CPU.
        """
        known, _ = self.settings(name)
        loaded = self._serving.get(known)
        if loaded is None or loaded.status.state != "running" or not _on_cpu(loaded):
            return None
        if loaded.upgrade is not None:  # measured was the one before
            return None
        threads = max(1, loaded.status.threads)
        return 1000 * loaded.call_s * threads, room_of(len(loaded.served.replicas), threads)

    def close(self) -> None:
        """Close all; closing twice is fine."""
        for loaded in list(self._serving.values()):  # one may just be exchanged
            if loaded.upgrade is not None:
                self.abandoned = not loaded.upgrade.stop() or self.abandoned
            close_all(loaded.served.replicas)

    def _load(self, name: str, config: EngineConfig, shared: EngineConfig, demand_fps: float) -> Loaded:
        """Load an engine as it is arranged for its streams, again where that shows when it has run."""
        cores, speed = usable_cores(), _speed_key(shared)
        first, why = arranged(shared, cores, demand_fps, self._alone_s.get(speed))
        loaded = self._load_as(name, config, first, speed)
        better, why = arranged(shared, cores, demand_fps, self._alone_s.get(speed))
        if better != first:
            loaded.close()
            loaded = self._load_as(name, config, better, speed)
        if why:
            status = loaded.status
            count = "1 replica" if status.replicas == 1 else f"{status.replicas} replicas"
            log.info("engine %s: %s of %s, %s", status.id, count, _threads(status.threads), why)
        return loaded

    def _load_as(self, name: str, config: EngineConfig, shared: EngineConfig, speed: bytes) -> Loaded:
        loading = Loading(shared)
        engines = loading.wait(self._stop)
        self.abandoned = self.abandoned or loading.abandoned
        if not engines:
            raise ControlError("stopping", "the daemon is stopping")
        if len(engines) == 1 and not loading.to_build:
            self._alone_s[speed] = loading.call_s
        status = EngineStatus(id=config.name, name=name)
        # Of several, chosen for more masks, each takes one frame: a batch would be later, not faster.
        most = 1 if len(engines) > 1 and not config.replicas else config.max_batch
        served = ServedEngine(EngineKey(name), engines, most)
        loaded = Loaded(config, shared, served, None, status, loading.call_s)

        def on_change(state: EngineState, text: str, info: EngineInfo) -> None:
            loaded.status = EngineStatus(
                id=info.id,
                name=name,
                device=info.device,
                threads=info.threads,
                replicas=len(engines),
                state=state,
                text=text,
            )
            if loaded.upgrade is not None and loaded.upgrade.alone_s is not None:
                self._alone_s[speed] = loaded.upgrade.alone_s
                self.on_better()

        on_change("running", "", engines[0].info)
        if loading.to_build:
            loaded.upgrade = Upgrade(shared, loading.to_build, engines, on_change)
            loaded.served.replicas[:] = loaded.upgrade.engines
        return loaded

    def _check_labels(self, loaded: Loaded) -> None:
        """Raises EngineError where another engine of this run has given other classes the same name."""
        info = loaded.served.first.info
        known, first = self._label_sets.setdefault(info.labels.id, (info.labels, info.spec.name))
        if known != info.labels:
            raise EngineError(
                f"engine {info.spec.name}: its label_set {known.id!r} differs from that of {first} in "
                "this run; give it another label_set in its engine.toml, or restart the daemon"
            )

    def _release(self, loaded: Loaded, pipeline: Pipeline, why: str) -> None:
        """End an engine, which no stream's next frame refers to, and give its memory back."""
        pipeline.engines.end(loaded.served.key)
        if loaded.upgrade is not None:
            self.abandoned = not loaded.upgrade.stop() or self.abandoned
        if loaded.served.ended.wait(ENDS_WITHIN_S):
            log.info("engine %s is closed: %s", loaded.status.id, why)
            give_back()

    def _share(self, pipeline: Pipeline) -> None:
        """Load again those whose share of the cores has changed."""
        on_cpu = {name: one for name, one in self._serving.items() if _on_cpu(one)}
        cores, demands = usable_cores(), demands_of(pipeline.streams.configs(), self._serving)
        shares = shared_threads({name: one.config for name, one in on_cpu.items()}, cores)
        stale = {}
        for name, one in on_cpu.items():
            alone_s = self._alone_s.get(_speed_key(shares[name]))
            if not _same_network(one.shared, arranged(shares[name], cores, demands[name], alone_s).config):
                stale[name] = shares[name]
        if not stale:
            return
        try:
            for name, shared in stale.items():
                made = self._load(name, on_cpu[name].config, shared, demands[name])
                pipeline.prepare(made.served)  # was fine before
                self.serve({name: made}, pipeline)
        except (EngineError, ControlError) as error:
            if not self._stop.is_set():
                log.warning("engines: the cores are not shared anew: %s", error)
        self.log_shares()


def _same_network(one: EngineConfig, other: EngineConfig) -> bool:
    """Whether two settings differ at most in how labels are published."""
    return one == msgspec.structs.replace(other, labels=one.labels)


def _speed_key(config: EngineConfig) -> bytes:
    """What the speed of one engine depends on, of its settings."""
    return msgspec.json.encode(msgspec.structs.replace(config, labels=LabelsConfig(), replicas=1))


def _on_cpu(loaded: Loaded) -> bool:
    return loaded.status.device.startswith("cpu")


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"
