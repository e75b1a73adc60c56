"""What it costs to count a mask: CPU time of the counting of zones, and the time of rasterising them once."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Iterator
from threading import Event

import click
import msgspec

from benchmarks import print_json, run_command
from streamseg.analytics.counting import count
from streamseg.analytics.raster import rasterise
from streamseg.analytics.zones import zones_of
from streamseg.bench.summary import Machine, this_machine
from streamseg.cli.settings import as_json
from streamseg.config import EngineConfig, StreamConfig, ZoneConfig
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.sources.live import frames
from streamseg.types import Mask, Size

SIZES: tuple[Size, ...] = ((360, 480), (1080, 1920))
GROUND = ((0.3, 0.5), (0.7, 0.5), (1.0, 1.0), (0.0, 1.0))
RUNS = 5  # of each kind, in turn, for each mask


class ZonesResult(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds a mask (medians, and the 95th percentile of the first kind)."""

    engine: str
    size: Size
    rasterise_ms: float  # of 8 zones, once
    cpu_ms: dict[str, float]
    cpu_p95_ms: float  # of "8 zones"
    machine: Machine


def polygons(count: int) -> dict[str, ZoneConfig]:
    """Zones of eight corners in two rows, each over a third of the picture's height, that overlap."""
    zones = {}
    for i in range(count):
        x, y = (i % 4 + 0.5) / 4, 0.35 if i < 4 else 0.65
        turns = [2 * math.pi * k / 8 for k in range(8)]
        ring = ((x + 0.2 * math.cos(t), y + 0.2 * math.sin(t)) for t in turns)
        zones[f"zone{i}"] = ZoneConfig(
            polygon=tuple((min(max(a, 0.0), 1.0), min(max(b, 0.0), 1.0)) for a, b in ring)
        )
    return zones


def bench_zones(config: EngineConfig, source: str, masks: int = 40) -> Iterator[ZonesResult]:
    """Measure on masks of a source, of pictures a quarter of a second apart; raises StreamsegError."""
    engine = load_engine(config)
    try:
        played = frames(StreamConfig(source=source, loop=True), "bench", Event(), lambda event: None)
        taken = itertools.islice(played, 0, masks * 7, 7)
        answers = [logits for frame in taken for logits in infer(engine, [frame])]
        classes = engine.info.labels
    finally:
        engine.close()
    eight = polygons(8)
    on_ground = {
        name: ZoneConfig(polygon=zone.polygon, ground=GROUND, ground_size_m=(8.0, 25.0))
        for name, zone in eight.items()
    }
    for size in SIZES:
        begun_s = time.perf_counter()
        raster = rasterise(eight, size)
        rasterise_ms = 1e3 * (time.perf_counter() - begun_s)
        kinds = {
            "8 zones": (raster, False, True),
            "8 zones, with confidence": (raster, True, True),
            "8 zones in square metres": (rasterise(on_ground, size), False, True),
            "the whole picture": (rasterise({}, size), False, True),
            "8 zones, without a compiler": (raster, False, False),
        }
        times: dict[str, list[float]] = {name: [] for name in [*kinds, "its document"]}
        for logits in [*answers[:3], *answers]:  # the first ones to warm up
            labels, confidence = labels_of(logits, size, True)
            plain = Mask(logits.frame.stamp, labels, classes.id, logits.engine)
            sure = Mask(logits.frame.stamp, labels, classes.id, logits.engine, confidence=confidence)
            for _ in range(RUNS):
                for name, (zones, confident, compiled) in kinds.items():
                    begun_ns = time.thread_time_ns()
                    counts = count(sure if confident else plain, classes, zones, compiled=compiled)
                    times[name].append((time.thread_time_ns() - begun_ns) / 1e6)
                    if name == "8 zones":
                        begun_ns = time.thread_time_ns()
                        msgspec.json.encode(zones_of(counts))
                        times["its document"].append((time.thread_time_ns() - begun_ns) / 1e6)
        kept = {name: values[3 * RUNS :] for name, values in times.items()}
        yield ZonesResult(
            engine=engine.info.id,
            size=size,
            rasterise_ms=round(rasterise_ms, 2),
            cpu_ms={name: round(statistics.median(values), 3) for name, values in kept.items()},
            cpu_p95_ms=round(statistics.quantiles(kept["8 zones"], n=20)[-1], 3),
            machine=this_machine("numpy"),
        )


@click.command()
@click.option("--source", default="demo:", help="Where the frames come from.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@click.option("--frames", type=click.IntRange(1), default=40, help="How many frames.")
@as_json
def command(source: str, name: str, frames: int, as_json: bool) -> None:
    """What it costs to count the classes of a mask in zones: CPU time of one thread."""
    for result in bench_zones(EngineConfig(name=name), source, frames):
        if as_json:
            print_json(result)
            continue
        click.echo(f"{result.size[1]}x{result.size[0]}, {result.engine}; once: {result.rasterise_ms} ms")
        for kind, ms in result.cpu_ms.items():
            p95 = f", p95 {result.cpu_p95_ms:.3f}" if kind == "8 zones" else ""
            click.echo(f"  {kind:26} {ms:7.3f} ms{p95}")


if __name__ == "__main__":
    run_command(command)
