"""Whether the streams are more than this machine holds: said once, some seconds after the start."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from streamseg.config import StreamConfig
from streamseg.config.sharing import shared_with
from streamseg.live.capacity import Room, StreamCost, fitting_fps, held, load_of
from streamseg.live.pipeline import Pipeline
from streamseg.runtime.counters import StreamStats
from streamseg.runtime.cpus import cpu_quota, usable_cores
from streamseg.runtime.stage import Stage
from streamseg.sources import is_live
from streamseg.sources.live import POLLS_PER_S

log = logging.getLogger(__name__)

KNOWN_WITHIN_S = 10.0  # that sources are open and their rates known
STAGES_AFTER_S = 3.0  # by then there are stage times
MARGIN = 1.1  # stage times of a machine that just started are too high rather than too low


NetworkOf = Callable[[str], tuple[float, Room] | None]
"""CPU milliseconds of one picture by a stream's setting `engine`, and what there is for it; None: unknown."""


def watch_start(pipeline: Pipeline, network_of: NetworkOf, path: Path | None, stop: threading.Event) -> Stage:
    """Look in a thread of its own, so that nothing waits for it. stop: set when the daemon ends."""
    stage = Stage("start-load", partial(_watch, pipeline, network_of, path, stop), lambda stage: None)
    stage.start()
    return stage


def _watch(pipeline: Pipeline, network_of: NetworkOf, path: Path | None, stop: threading.Event) -> None:
    deadline_s = time.monotonic() + KNOWN_WITHIN_S
    while time.monotonic() < deadline_s and not stop.is_set():
        states = [stats.state for stats in pipeline.stats.all().values()]
        if states and "connecting" not in states:
            break
        stop.wait(0.1)
    if stop.wait(STAGES_AFTER_S):
        return
    if line := too_many(pipeline.streams.configs(), pipeline.stats.all(), network_of, path):
        log.warning("%s", line)


def too_many(
    streams: Mapping[str, StreamConfig],
    counted: Mapping[str, StreamStats],
    network_of: NetworkOf,
    path: Path | None = None,
) -> str:
    """One line where these streams are more than this machine holds at their rates; else empty.

    By the network's time, the streams' rates, and the stage times of the masks so far; and only where frames
    have been dropped already. Streams that are not live or not connected are left out; of those with a gate
    nothing is taken to move.
    """
    costs: list[tuple[StreamCost, int]] = []
    room: Room | None = None
    late = 0
    for name, config in streams.items():
        stats = counted.get(name)
        found = network_of(config.engine)
        if stats is None or found is None or stats.state != "playing" or not _is_live(config, streams):
            continue
        network_ms, room = found
        costs.append((_cost(config, stats, network_ms), 1))
        late += stats.drops["slow engine"] + stats.drops["stale"]
    if room is None or not late or load_of(costs, room).most <= MARGIN:
        return ""
    most, fps = math.floor(held(costs, room)), fitting_fps(costs, room)
    rates = sorted({cost.masks_fps for cost, _ in costs})
    rate = f"{rates[0]:.4g}" if len(rates) == 1 else f"{rates[0]:.4g} to {rates[-1]:.4g}"
    fits = f"max_fps = {fps:g} fits" if fps else "fewer fit"
    return (
        f"streams: {len(costs)} at {rate} masks/s {'is' if len(costs) == 1 else 'are'} more than this "
        f"machine holds, {f'about {most}' if most else 'not one in full'} "
        f"({load_of(costs, room).limit}); {fits}, and for what else helps: "
        f"streamseg capacity {path.name if path else '--source …'}"
    )


def room_of(replicas: int, threads: int) -> Room:
    """What there is for an engine of so many replicas, each of so many threads."""
    cores, quota = float(usable_cores()), cpu_quota()
    return Room(cores=cores if quota is None else min(quota, cores), replicas=replicas, threads=threads)


def _cost(config: StreamConfig, stats: StreamStats, network_ms: float) -> StreamCost:
    source_fps = stats.source_fps or config.max_fps or POLLS_PER_S
    times = {stage: us / 1000 for stage, us in stats.stage_quartiles_us().items()}
    masks_fps = min(source_fps, config.max_fps or source_fps)
    return StreamCost(
        source_fps=0.0 if shared_with(config) else source_fps,
        masks_fps=masks_fps if config.gate == "none" else min(masks_fps, 1 / config.gate_max_s),
        decode_ms=times.get("decode", 0.0),
        scale_ms=times.get("preprocess", 0.0),
        network_ms=network_ms,
        labels_ms=times.get("fuse", 0.0),
        pack_ms=0.0,
    )


def _is_live(config: StreamConfig, streams: Mapping[str, StreamConfig]) -> bool:
    leader = streams.get(shared_with(config), config)
    return is_live(leader)
