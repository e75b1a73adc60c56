"""How many live streams this machine holds, what limits it and what would help: measured in seconds."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import msgspec

from streamseg.bench.helps import Help, possible_helps
from streamseg.bench.kinds import Kind, Measuring, written
from streamseg.bench.probe import free_cores, pieces_of
from streamseg.bench.stages import StageTimes
from streamseg.bench.summary import Machine, this_machine
from streamseg.config import Config, StreamConfig
from streamseg.config.engines import engine_settings
from streamseg.config.sharing import shared_with, sharing_problems
from streamseg.daemon.machine import memory_bytes
from streamseg.daemon.wanted import wanted_engines
from streamseg.errors import ConfigError, SourceError
from streamseg.inference.engine import Engine
from streamseg.live.capacity import Load, Room, held, load_of
from streamseg.runtime.cpus import memory_limit, usable_cores
from streamseg.types import Size
from streamseg.types.sizes import MaskSize

STAGE_S = 0.4  # that each stage is measured for, at least
WORTH = 1.05  # a setting that gives less is not named


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """Streams of one kind, and what one of them costs."""

    streams: list[str]
    count: int
    codec: str
    size: Size
    source_fps: float
    masks_fps: float
    mask_size: MaskSize
    engine: str
    times: StageTimes
    network_share: float  # of the masks; a gate keeps the others from it
    alone: float  # so many are held where there are no others
    gated: bool = False
    decodes: bool = True  # False: they take the pictures of others


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
    kinds: dict[tuple[object, ...], Kind] = {}
    for name, stream in config.streams.items():
        leader = shared_with(stream) or name
        if leader not in pieces:
            unreachable.setdefault(name, unreachable.get(leader, ""))
            continue
        piece, (_, engine) = pieces[leader], engine_settings(stream.engine, config.engine, config.engines)
        decodes = shared_with(stream) == ""
        alike = (piece.codec, piece.size, piece.fps, decodes, written(engine), *_alike(stream))
        kind = kinds.setdefault(alike, Kind(piece, stream, engine, decodes))
        kind.names.append(name)
        kind.count += (counts or {}).get(name, 1)
    measuring = Measuring(config, usable_cores(), STAGE_S)
    with ExitStack() as owned:
        owned.callback(measuring.close)
        for kind in kinds.values():
            measuring.measure(kind)
        return _result(list(kinds.values()), measuring, cores, beside, unreachable, begun_s)


def _alike(stream: StreamConfig) -> tuple[object, ...]:
    """What else streams of one kind have in common."""
    return stream.max_fps, stream.mask_size, stream.skip_frames, stream.gate, stream.gate_max_s


def _result(
    kinds: list[Kind],
    measuring: Measuring,
    cores: float,
    beside: str,
    unreachable: dict[str, str],
    begun_s: float,
) -> CapacityResult:
    room = room_for(measuring.engines(kinds[0].engine), cores)
    now = [(kind.cost(), kind.count) for kind in kinds]
    load, most = load_of(now, room), held(now, room)
    helps = [help for help in possible_helps(kinds, measuring, room) if help.streams >= WORTH * most]
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
                source_fps=kind.source_fps,
                masks_fps=kind.cost().masks_fps,
                mask_size=kind.stream.mask_size,
                engine=measuring.engines(kind.engine)[0].info.id,
                times=kind.measured,
                network_share=round(kind.network_share, 3),
                alone=round(held([(kind.cost(), 1)], room), 1),
                gated=kind.stream.gate != "none",
                decodes=kind.decodes,
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


def room_for(engines: Sequence[Engine], cores: float | None = None) -> Room:
    """What there is for streams on an engine with these replicas."""
    memory = free_memory()
    return Room(
        cores=usable_cores() if cores is None else cores,
        replicas=len(engines),
        threads=max(1, engines[0].info.threads or usable_cores()),
        memory_mb=None if memory is None else memory / 1e6,
    )


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
