"""A line on what this machine holds, from a second of measuring: for `streamseg doctor`."""

from __future__ import annotations

from contextlib import ExitStack

from streamseg.bench.kinds import Kind, Measuring
from streamseg.bench.probe import piece_from
from streamseg.config import Config, EngineConfig, StreamConfig
from streamseg.inference.engine import Engine
from streamseg.inference.plans.hot_swap import start_engines
from streamseg.inference.plans.load import close_all
from streamseg.live.capacity import Room, held
from streamseg.runtime.cpus import usable_cores
from streamseg.sources.target import DEMO

FPS = 8.0
STAGE_S = 0.1


def rough_capacity() -> str:
    """How many streams like the embedded clip the default engine holds; raises EngineError."""
    stream = StreamConfig(source=DEMO, realtime=True, max_fps=FPS)
    kind = Kind(piece_from(DEMO), stream, EngineConfig(), decodes=True, count=1)
    cores = usable_cores()
    with ExitStack() as owned:
        measuring = Measuring(Config(), cores, STAGE_S, _ready)
        owned.callback(measuring.close)
        measuring.measure(kind)
        info = measuring.engines(kind.engine)[0].info
    height, width = kind.piece.size
    most = int(held([(kind.cost(), 1)], Room(cores=cores, replicas=cores, threads=1)))
    return f"about {most} streams of {width}x{height} at {FPS:g} fps ({info.id}, {cores} cores)"


def _ready(config: EngineConfig) -> Engine:
    """The best form that needs no building first."""
    (first, *others), _ = start_engines(config, wait_s=0.0)
    close_all(others)
    return first
