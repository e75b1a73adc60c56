"""How many live streams this machine holds, what limits it and what would help: measured in seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from streamseg.bench.clips import ENCODERS
from streamseg.bench.probe import drawn_piece, free_cores, pieces_of
from streamseg.bench.stages import Piece, StageTimes, decoding, stage_times
from streamseg.bench.summary import Machine, this_machine
from streamseg.config import Config, EngineConfig, Precision, StreamConfig
from streamseg.config.engines import engine_settings
from streamseg.config.sharing import shared_with, sharing_problems
from streamseg.daemon.engines import wanted_engines
from streamseg.daemon.machine import memory_bytes
from streamseg.errors import ConfigError, EngineError, SourceError
from streamseg.inference.engine import Engine
from streamseg.inference.plans.load import close_all, load_engine
from streamseg.live.capacity import Load, Room, StreamCost, fitting_fps, held, load_of
from streamseg.runtime.cpus import memory_limit, usable_cores
from streamseg.types import Size
from streamseg.types.sizes import MaskSize

STAGE_S = 0.4  # that each stage is measured for, at least
USUAL_FPS = 25.0  # of a source that does not say
SMALL: Size = (360, 640)  # of a camera's second stream
HELD_PICTURES = 10  # of a stream at once, in its decoder and on the way
WORTH = 1.03  # a setting that gives less is not named


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Streams of one kind, and what one of them costs."""

    streams: list[str]
    count: int
    codec: str
    size: Size
    decoded_fps: float
    masks_fps: float
    mask_size: MaskSize
    engine: str
    times: StageTimes
    alone: float  # so many are held where there are no others


class Help(msgspec.Struct, frozen=True, kw_only=True):
    """A setting, and how many streams would be held with it."""

    setting: str
    streams: float
    note: str = ""


class CapacityResult(msgspec.Struct, frozen=True, kw_only=True):
    """What `streamseg capacity` says."""

    streams: int  # that were asked about, without those that could not be opened
    held: float  # such streams, in these proportions, with parts of one
    limit: str
    load: Load  # of the streams asked about
    groups: list[Group]
    helps: list[Help]
    unreachable: dict[str, str]  # stream → why
    cores: float  # that there are for streams
    beside: str  # what else runs, where that matters
    took_s: float
    machine: Machine


@dataclass(slots=True, eq=False)
class _Kind:
    """A group while it is measured."""

    piece: Piece
    stream: StreamConfig
    engine: EngineConfig
    decodes: bool  # False: takes another stream's frames
    names: list[str] = field(default_factory=list)
    count: int = 0
    times: StageTimes | None = None

    @property
    def measured(self) -> StageTimes:
        assert self.times is not None, "measured before"
        return self.times

    @property
    def decoded_fps(self) -> float:
        return self.piece.fps or USUAL_FPS

    def cost(self, **changes: float) -> StreamCost:
        """changes: other times, by the names of StageTimes; max_fps."""
        times = msgspec.structs.replace(self.measured, **{k: v for k, v in changes.items() if k != "max_fps"})
        limit = changes.get("max_fps", self.stream.max_fps) or self.decoded_fps
        height, width = self.piece.size
        return StreamCost(
            decoded_fps=self.decoded_fps,
            masks_fps=min(self.decoded_fps, limit),
            decode_ms=times.decode if self.decodes else 0.0,
            scale_ms=times.scale,
            network_ms=times.network,
            labels_ms=times.labels,
            pack_ms=times.pack,
            network_wall_ms=times.network_wall if times.on_device else 0.0,
            memory_mb=HELD_PICTURES * 1.5 * height * width / 1e6 if self.decodes else 0.0,
        )


class _Measuring:
    """Loads engines when they are needed, keeps them, and measures streams on them."""

    def __init__(self, config: Config, threads: int) -> None:
        self._config = config
        self._threads = threads
        self._engines: dict[bytes, list[Engine]] = {}  # by their settings

    def engines(self, config: EngineConfig) -> list[Engine]:
        """All replicas of an engine; raises EngineError."""
        made = self._engines.setdefault(written(config), [])
        while len(made) < config.replicas:
            made.append(load_engine(config))
        return made

    def times(self, piece: Piece, config: EngineConfig, stream: StreamConfig) -> StageTimes:
        engines = self.engines(config)
        on_device = engines[0].info.tensors == "cuda"
        return stage_times(
            piece,
            engines,
            stream.mask_size,
            threads=self._threads,
            encoding=self._config.publish.encoding,
            refinement=self._config.refinement,
            batch=config.max_batch if on_device else 1,
            seconds=STAGE_S,
        )

    def decode_ms(self, piece: Piece) -> float:
        return decoding(piece, self._threads, STAGE_S).cpu_ms

    def close(self) -> None:
        for engines in self._engines.values():
            close_all(engines)


def measure_capacity(config: Config, counts: Mapping[str, int] | None = None) -> CapacityResult:
    """Measure the streams of `config`; blocks for seconds. Each source is opened once, for two of them.

    counts: how many there are to be of a stream; unset one. Builds engines that have to be built first.
    Raises ConfigError, EngineError, OutputError, and SourceError where no source at all can be opened.
    """
    begun_s = time.monotonic()
    if problems := list(sharing_problems(config.streams)):
        raise ConfigError(*problems)
    wanted_engines(config.streams, config.engine, config.engines)  # raises for unknown ones
    cores, beside = free_cores()
    pieces, unreachable = pieces_of(config.streams)
    if not pieces:
        raise SourceError("\n".join(dict.fromkeys(unreachable.values())) or "streams: there is none")
    kinds: dict[tuple[object, ...], _Kind] = {}
    for name, stream in config.streams.items():
        leader = shared_with(stream) or name
        if leader not in pieces:
            unreachable.setdefault(name, unreachable.get(leader, ""))
            continue
        piece, (_, engine) = pieces[leader], engine_settings(stream.engine, config.engine, config.engines)
        key = (
            piece.codec,
            piece.size,
            piece.fps,
            stream.max_fps,
            stream.mask_size,
            written(engine),
            leader == name,
        )
        kind = kinds.setdefault(key, _Kind(piece, stream, engine, leader == name))
        kind.names.append(name)
        kind.count += (counts or {}).get(name, 1)
    measuring = _Measuring(config, usable_cores())
    with ExitStack() as owned:
        owned.callback(measuring.close)
        for kind in kinds.values():
            kind.times = measuring.times(kind.piece, kind.engine, kind.stream)
        return _result(list(kinds.values()), measuring, cores, beside, unreachable, begun_s)


def _result(
    kinds: list[_Kind],
    measuring: _Measuring,
    cores: float,
    beside: str,
    unreachable: dict[str, str],
    begun_s: float,
) -> CapacityResult:
    room = _room(kinds[0], measuring, cores)
    now = [(kind.cost(), kind.count) for kind in kinds]
    load, most = load_of(now, room), held(now, room)
    helps = [help for help in _helps(kinds, measuring, room) if help.streams >= WORTH * most]
    return CapacityResult(
        streams=sum(kind.count for kind in kinds),
        held=round(most, 1),
        limit=load.limit,
        load=load,
        groups=[
            Group(
                streams=kind.names,
                count=kind.count,
                codec=kind.piece.codec,
                size=kind.piece.size,
                decoded_fps=kind.decoded_fps,
                masks_fps=kind.cost().masks_fps,
                mask_size=kind.stream.mask_size,
                engine=measuring.engines(kind.engine)[0].info.id,
                times=kind.measured,
                alone=round(held([(kind.cost(), 1)], room), 1),
            )
            for kind in kinds
        ],
        helps=sorted(helps, key=lambda help: -help.streams),
        unreachable=unreachable,
        cores=round(cores, 2),
        beside=beside,
        took_s=round(time.monotonic() - begun_s, 1),
        machine=this_machine("onnxruntime", "av", "numpy"),
    )


def _room(kind: _Kind, measuring: _Measuring, cores: float) -> Room:
    """What there is; the threads are those of the first engine."""
    engines = measuring.engines(kind.engine)
    memory = free_memory()
    return Room(
        cores=cores,
        replicas=len(engines),
        threads=max(1, engines[0].info.threads or usable_cores()),
        memory_mb=None if memory is None else memory / 1e6,
    )


def _helps(kinds: list[_Kind], measuring: _Measuring, room: Room) -> Iterator[Help]:
    """Each setting that is not set yet, with what it would give."""

    def with_times(change: Callable[[_Kind], dict[str, float]], room: Room = room) -> float:
        return round(held([(kind.cost(**change(kind)), kind.count) for kind in kinds], room), 1)

    if any(kind.stream.mask_size != "input" for kind in kinds):
        yield Help(
            setting='mask_size = "input"',
            streams=with_times(
                lambda kind: {"labels": kind.measured.labels_input, "pack": kind.measured.pack_input}
            ),
            note="masks of the network's size",
        )
    yield from _faster_networks(kinds, measuring, with_times)
    if room.replicas < usable_cores() and room.threads > 1:
        more = msgspec.structs.replace(room, replicas=usable_cores(), threads=1)
        yield Help(setting=f"replicas = {usable_cores()}", streams=with_times(lambda kind: {}, more))
    if any(_larger(kind.piece.size) for kind in kinds):
        yield from _second_streams(kinds, measuring, with_times)
    fps = fitting_fps([(kind.cost(), kind.count) for kind in kinds], room)
    if fps is not None and fps < max(kind.cost().masks_fps for kind in kinds):
        yield Help(
            setting=f"max_fps = {fps:g}",
            streams=with_times(lambda kind: {"max_fps": min(fps, kind.cost().masks_fps)}),
        )


def _faster_networks(
    kinds: list[_Kind], measuring: _Measuring, with_times: Callable[..., float]
) -> Iterator[Help]:
    """Other precisions of the network, where all streams are run on one."""
    if len({written(kind.engine) for kind in kinds}) > 1:
        return
    config = kinds[0].engine
    info = measuring.engines(config)[0].info
    precisions: tuple[Precision, ...] = ("int8", "bf16")
    for precision in precisions:
        if precision == info.precision or info.tensors == "cuda":
            continue
        other = msgspec.structs.replace(config, precision=precision)
        try:
            times = {id(kind): measuring.times(kind.piece, other, kind.stream) for kind in kinds}
        except EngineError:
            continue
        yield Help(
            setting=f'precision = "{precision}"',
            streams=with_times(lambda kind, times=times: {"network": times[id(kind)].network}),
        )


def _second_streams(
    kinds: list[_Kind], measuring: _Measuring, with_times: Callable[..., float]
) -> Iterator[Help]:
    """The second stream that most cameras have, by a clip of its size that is drawn."""
    small: dict[str, StageTimes] = {}
    for kind in kinds:
        codec = kind.piece.codec if kind.piece.codec in ENCODERS else "h264"
        if _larger(kind.piece.size) and codec not in small:
            clip = drawn_piece(SMALL, codec, kind.piece.fps)
            small[codec] = measuring.times(clip, kind.engine, kind.stream)

    def change(kind: _Kind) -> dict[str, float]:
        if not _larger(kind.piece.size):
            return {}
        times = small[kind.piece.codec if kind.piece.codec in ENCODERS else "h264"]
        return {name: getattr(times, name) for name in ("decode", "scale", "labels", "pack")}

    height, width = SMALL
    yield Help(
        setting=f"source: a second stream of {width}x{height}",
        streams=with_times(change),
        note="most cameras have one; masks of that size",
    )


def written(config: EngineConfig) -> bytes:
    """The settings of an engine as something that can be compared and be a key."""
    return msgspec.json.encode(config, order="sorted")


def _larger(size: Size) -> bool:
    return size[0] * size[1] > 2 * SMALL[0] * SMALL[1]


def free_memory() -> int | None:
    """Bytes that this process may still take, of the machine's and of its cgroups; None where unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    free = next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)
    limit = memory_limit()
    if free is None or limit is None:
        return free
    return min(free, max(0, limit - memory_bytes()))
