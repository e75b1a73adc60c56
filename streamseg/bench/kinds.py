"""Streams of one kind while they are measured, on engines that are loaded when they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice

import msgspec

from streamseg.bench.pieces import USUAL_FPS, Piece, decoding
from streamseg.bench.stages import (
    Motions,
    StageTimes,
    frame_of,
    network_time,
    small_frame,
    stage_times,
)
from streamseg.config import Config, EngineConfig, StreamConfig
from streamseg.daemon.arrangement import arranged
from streamseg.inference.engine import Engine
from streamseg.inference.infer import input_size
from streamseg.inference.plans.load import close_all, load_engine
from streamseg.live.capacity import StreamCost
from streamseg.live.motion import cells_of
from streamseg.runtime.cpus import usable_cores
from streamseg.sources.events import SkipFrames
from streamseg.sources.live import Thinning

HELD_PICTURES = 10  # of a stream at once, in its decoder and on the way


@dataclass(slots=True, eq=False)
class Kind:
    """A group while it is measured."""

    piece: Piece
    stream: StreamConfig
    engine: EngineConfig
    decodes: bool  # False: takes another stream's frames
    names: list[str] = field(default_factory=list)
    count: int = 0
    times: StageTimes | None = None
    network_share: float = 1.0  # of the masks; a gate keeps the others from the network

    @property
    def measured(self) -> StageTimes:
        assert self.times is not None, "measured before"
        return self.times

    @property
    def source_fps(self) -> float:
        return self.piece.fps or USUAL_FPS

    def cost(self, **changes: float) -> StreamCost:
        """changes: other times, by the names of StageTimes; max_fps; network_share."""
        other = {name: value for name, value in changes.items() if name in StageTimes.__struct_fields__}
        times = msgspec.structs.replace(self.measured, **other)
        limit = changes.get("max_fps", self.stream.max_fps) or self.source_fps
        gated = self.stream.gate != "none" or "network_share" in changes
        height, width = self.piece.size
        return StreamCost(
            source_fps=self.source_fps,
            masks_fps=min(self.source_fps, limit),
            decode_ms=times.decode if self.decodes else 0.0,
            gate_ms=times.gate if gated else 0.0,
            scale_ms=times.scale,
            network_ms=times.network,
            labels_ms=times.labels,
            pack_ms=times.pack,
            network_share=changes.get("network_share", self.network_share),
            network_wall_ms=times.network_wall if times.on_device else 0.0,
            memory_mb=HELD_PICTURES * 1.5 * height * width / 1e6 if self.decodes else 0.0,
        )

    @property
    def still_share(self) -> float:
        """Of the masks, how many a gate has the network make where nothing moves."""
        return min(1.0, 1 / self.stream.gate_max_s / self.cost().masks_fps)


class Measuring:
    """Loads engines when they are needed, keeps them, and measures streams on them."""

    def __init__(
        self,
        config: Config,
        threads: int,
        stage_s: float,
        load: Callable[[EngineConfig], Engine] = load_engine,
    ) -> None:
        """stage_s: for which each stage is measured, at least. load: loads a replica of an engine."""
        self._config = config
        self._threads, self._stage_s, self._load = threads, stage_s, load
        self._engines: dict[bytes, list[Engine]] = {}  # by their settings

    def engines(self, config: EngineConfig) -> list[Engine]:
        """All replicas of an engine, chosen for as many streams as there can be; raises EngineError."""
        config = for_many(config)
        made = self._engines.setdefault(written(config), [])
        while len(made) < config.replicas:
            made.append(self._load(config))
        return made

    def measure(self, kind: Kind) -> None:
        """All of a kind."""
        kind.times = self.times(kind.piece, kind.engine, kind.stream)
        if kind.stream.gate != "none":
            kind.network_share = self._new_share(kind)

    def times(self, piece: Piece, config: EngineConfig, stream: StreamConfig) -> StageTimes:
        """Raises SourceError, EngineError."""
        engines = self.engines(config)
        return stage_times(
            piece,
            engines,
            stream.mask_size,
            threads=self._threads,
            skip_frames=stream.skip_frames,
            max_fps=stream.max_fps,
            encoding=self._config.publish.encoding,
            refinement=self._config.refinement,
            batch=_batch(config, engines),
            seconds=self._stage_s,
        )

    def network_ms(self, piece: Piece, config: EngineConfig) -> float:
        """The network's CPU time alone."""
        engines = self.engines(config)
        size = input_size(engines[0], piece.size)
        frames = [small_frame(image, size) for image in islice(piece.decoded(), 2)]
        return network_time(engines, frames, _batch(config, engines), self._stage_s).cpu_ms

    def decode_ms(self, piece: Piece, mode: SkipFrames, max_fps: float | None) -> float:
        return decoding(piece, self._threads, self._stage_s, mode, max_fps).cpu_ms

    def _new_share(self, kind: Kind) -> float:
        """Of a piece's masks, how many show anything new to a gate."""
        cells = cells_of(input_size(self.engines(kind.engine)[0], kind.piece.size))
        motions, thinning, looked = Motions(), Thinning(kind.stream.max_fps), []
        for i, image in enumerate(islice(kind.piece.decoded(), len(kind.piece.packets))):
            if thinning.takes(i / kind.source_fps):
                looked.append(motions.look(frame_of(image).luma(cells), i / kind.source_fps))
        first = 1 if len(looked) > 1 else 0  # which always is new
        return max(kind.still_share, sum(looked[first:]) / max(1, len(looked) - first))

    def close(self) -> None:
        for engines in self._engines.values():
            close_all(engines)


def for_many(config: EngineConfig) -> EngineConfig:
    """The settings with the replicas that a daemon chooses for as many streams as there can be."""
    return arranged(config, usable_cores(), math.inf, None).config


def _batch(config: EngineConfig, engines: list[Engine]) -> int:
    """On a CPU a larger batch saves nothing."""
    return config.max_batch if engines[0].info.tensors == "cuda" else 1


def written(config: EngineConfig) -> bytes:
    """The settings of an engine as something that can be compared and be a key."""
    return msgspec.json.encode(config, order="sorted")
