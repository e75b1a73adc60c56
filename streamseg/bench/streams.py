"""How many live streams this machine can serve at a given frame rate and age of masks."""

from __future__ import annotations

import os
import time

import msgspec

from streamseg.bench.capacity import STAGE_S, room_for
from streamseg.bench.kinds import Kind, Measuring
from streamseg.bench.pipeline import running_daemon
from streamseg.bench.probe import piece_from
from streamseg.bench.stages import StageTimes
from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.config import Config
from streamseg.config.engines import engine_settings
from streamseg.live.capacity import held
from streamseg.runtime.counters import StreamStats
from streamseg.runtime.cpus import usable_cores

HELD_SHARE = 0.9
"""A stream is held when this share of its frames became masks that were young enough."""


class StreamHeld(msgspec.Struct, frozen=True, kw_only=True):
    """One stream over the time that was measured."""

    name: str
    fps: float  # masks published a second; none is older than max_age_ms
    share: float  # of the frames due
    held: bool


class StreamsResult(msgspec.Struct, frozen=True, kw_only=True):
    """How many of the streams were held, and where the time of a frame went."""

    streams: int
    held: int
    fps_asked: float  # of each stream
    max_age_ms: float
    engine: str
    replicas: int
    seconds: float
    masks_per_s: float  # of all streams
    capacity: int  # streams of that rate that as many masks would serve in full
    estimate: float  # of that number, by the stage times alone
    stage_cpu: StageTimes  # of which it is made
    cpu_ms_a_mask: float | None  # of all threads; null without a mask; depends little on other programs
    cpu_share: float  # of the cores available to this process
    unchanged: float | None  # share of the masks, where there is a gate
    drops: dict[str, int]  # by cause
    stages: dict[str, Spread]  # over the streams: the median of each
    streams_held: list[StreamHeld]
    load: float  # the system's load average over one minute
    machine: Machine


def bench_streams(config: Config, seconds: float, fps: float, warm_up_s: float = 5.0) -> StreamsResult:
    """Run live streams with max_age_ms for so many seconds after a warm-up; raises StreamsegError.

    What `streamseg capacity` says is measured first, of the first stream.
    """
    estimate, times = estimated(config)
    with running_daemon(config) as daemon:
        assert daemon.pipeline is not None
        stats = daemon.pipeline.stats
        time.sleep(warm_up_s)
        unchanged_before = _unchanged(stats.all())
        before, begun_s, begun_cpu_s = _counts(stats.all()), time.monotonic(), time.process_time()
        time.sleep(seconds)
        after, took_s = _counts(stats.all()), time.monotonic() - begun_s
        cpu_s = time.process_time() - begun_cpu_s
        unchanged = _unchanged(stats.all()) - unchanged_before
        medians = {name: stream.stage_medians_us() for name, stream in stats.all().items()}
        load = os.getloadavg()[0]
    streams = []
    drops: dict[str, int] = {}
    for name, (published, dropped) in after.items():
        masks = published - before[name][0]
        share = masks / took_s / fps
        streams.append(
            StreamHeld(
                name=name, fps=round(masks / took_s, 2), share=round(share, 3), held=share >= HELD_SHARE
            )
        )
        for cause, count in dropped.items():
            drops[cause] = drops.get(cause, 0) + count - before[name][1].get(cause, 0)
    masks_per_s = sum(s.fps for s in streams)
    stages = sorted({stage for times in medians.values() for stage in times})
    limit = next(iter(config.streams.values())).max_age_ms
    gated = any(stream.gate != "none" for stream in config.streams.values())
    assert limit is not None
    return StreamsResult(
        streams=len(streams),
        held=sum(s.held for s in streams),
        fps_asked=fps,
        max_age_ms=limit,
        engine=daemon.engine.id,
        replicas=daemon.engine.replicas,
        seconds=seconds,
        masks_per_s=round(masks_per_s, 1),
        capacity=int(masks_per_s / fps),
        estimate=round(estimate, 1),
        stage_cpu=times,
        cpu_ms_a_mask=round(1000 * cpu_s / (masks_per_s * took_s), 2) if masks_per_s else None,
        cpu_share=round(cpu_s / took_s / len(os.sched_getaffinity(0)), 3),
        unchanged=round(unchanged / (masks_per_s * took_s), 3) if gated and masks_per_s else None,
        drops=drops,
        stages={
            stage: spread_of([t[stage] / 1000 for t in medians.values() if stage in t]) for stage in stages
        },
        streams_held=streams,
        load=round(load, 1),
        machine=this_machine("onnxruntime", "av", "numpy"),
    )


def estimated(config: Config) -> tuple[float, StageTimes]:
    """How many streams like the first one are held, by `streamseg capacity`, and the stages' CPU times."""
    stream = next(iter(config.streams.values()))
    engine = engine_settings(stream.engine, config.engine, config.engines)[1]
    measuring = Measuring(config, usable_cores(), STAGE_S)
    try:
        kind = Kind(piece_from(stream.source), stream, engine, decodes=True, count=1)
        measuring.measure(kind)
        return held([(kind.cost(), 1)], room_for(measuring.engines(engine))), kind.measured
    finally:
        measuring.close()


def _unchanged(streams: dict[str, StreamStats]) -> int:
    return sum(stream.unchanged for stream in streams.values())


def _counts(streams: dict[str, StreamStats]) -> dict[str, tuple[int, dict[str, int]]]:
    """Of each stream: the masks published, and the drops by cause."""
    return {name: (stream.published, dict(stream.drops)) for name, stream in streams.items()}
