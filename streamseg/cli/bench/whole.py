"""streamseg bench pipeline | streams | console | refine | recorded: everything at once, as it is used."""

from __future__ import annotations

from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamseg.cli import start_logging
from streamseg.cli.settings import as_json, given, options_from
from streamseg.config import (
    Config,
    EngineConfig,
    Precision,
    PublishConfig,
    StreamConfig,
    build_settings,
)


@click.command()
@click.option("--source", "sources", multiple=True, required=True, help="A stream; may be repeated.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "backend", "precision", "input_size", "threads", "replicas")
@options_from(StreamConfig, "realtime", "max_fps", "mask_size")
@options_from(PublishConfig, "encoding")
@click.option("--refined", is_flag=True, help="Subscribe to refined masks, too, so that the CRF runs.")
@click.option("--fusion", is_flag=True, help="Fuse with refinements and with the frames before.")
@click.option("--seconds", type=click.FloatRange(1), default=15.0, help="How long to measure.")
@as_json
def pipeline(
    sources: tuple[str, ...], refined: bool, fusion: bool, seconds: float, as_json: bool, **options: Any
) -> None:
    """The whole daemon with a subscriber in another process: fps, latency, and the time of each stage."""
    from streamseg.bench.pipeline import bench_pipeline

    start_logging("warning")
    written = given(**options)

    def pick(kind: Any) -> dict[str, Any]:
        return {k: v for k, v in written.items() if k in kind.__struct_fields__}

    tree = {
        "streams": {
            f"s{i}": {"source": s, "loop": True, **pick(StreamConfig)} for i, s in enumerate(sources)
        },
        "engine": pick(EngineConfig),
        "publish": {"endpoint": "tcp://127.0.0.1:0", **pick(PublishConfig)},
        "fusion": {"enabled": fusion},
    }
    result = bench_pipeline(build_settings(Config, tree), seconds, refined=refined)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    table = Table(
        "",
        "p50 ms",
        "p95 ms",
        "p99 ms",
        title=f"{result.engine}, replicas {result.replicas}: {result.fps} masks/s",
    )
    for stage, times in {"decoded → subscriber": result.latency, **result.stages}.items():
        table.add_row(stage, f"{times.p50_ms:.2f}", f"{times.p95_ms:.2f}", f"{times.p99_ms:.2f}")
    Console().print(table)
    refinements = "" if result.refined is None else f", {result.refined} refined"
    click.echo(f"skipped {result.skipped}, lost {result.lost}{refinements}, {result.machine.processor}")


@click.command()
@click.option(
    "--source", default="demo:", help="A clip, at its own pace; one of --fps, else all else is decoded, too."
)
@click.option("--count", type=click.IntRange(1), default=24, help="How many live streams.")
@click.option("--fps", type=click.FloatRange(1), default=8.0, help="Frames a second of each.")
@click.option("--max-age-ms", type=click.FloatRange(1), default=250.0, help="No mask may be older.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "backend", "precision", "input_size", "threads", "replicas", "max_batch")
@click.option("--seconds", type=click.FloatRange(1), default=30.0, help="How long to measure.")
@as_json
def streams(
    source: str, count: int, fps: float, max_age_ms: float, seconds: float, as_json: bool, **options: Any
) -> None:
    """How many live streams this machine holds with masks no older than --max-age-ms."""
    from streamseg.bench.streams import HELD_SHARE, bench_streams

    start_logging("error")
    stream = {"source": source, "realtime": True, "loop": True, "max_fps": fps, "max_age_ms": max_age_ms}
    tree = {
        "streams": {f"s{i:02}": stream for i in range(count)},
        "engine": given(**options),
        "publish": {"endpoint": "tcp://127.0.0.1:0"},
    }
    result = bench_streams(build_settings(Config, tree), seconds, fps)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    click.echo(
        f"{result.held} of {result.streams} streams held: {HELD_SHARE:.0%} of {fps:g} fps or more, no mask "
        f"above {max_age_ms:g} ms; {result.masks_per_s:g} masks/s in all, enough for {result.capacity}; "
        f"{result.engine}, replicas {result.replicas}"
    )
    stages = ", ".join(f"{stage} {times.p50_ms:.1f} ms" for stage, times in result.stages.items())
    drops = ", ".join(f"{number} {cause}" for cause, number in sorted(result.drops.items()) if number)
    click.echo(f"{stages}; drops: {drops or 'none'}")
    click.echo(
        f"{result.cpu_ms_a_mask:g} ms of CPU a mask, {result.cpu_share:.0%} of {result.machine.cores} cores; "
        f"load {result.load:g}, {result.machine.processor}"
    )


@click.command()
@click.option("--tiles", type=click.IntRange(1, 64), default=9, help="Streams on the wall.")
@click.option("--fps", type=click.FloatRange(0.1), default=8.0, help="Frames a second of each.")
@click.option("--turns", type=click.IntRange(0), default=4, help="Turns of the second part.")
@options_from(EngineConfig, "precision", "input_size")
@click.option("--seconds", type=click.FloatRange(1), default=15.0, help="How long the wall is measured.")
@as_json
def console(
    tiles: int,
    fps: float,
    turns: int,
    seconds: float,
    precision: Precision,
    input_size: tuple[int, int] | None,
    as_json: bool,
) -> None:
    """The web console in headless Chromium: a wall of streams; and what one costs a busy daemon.

    A smaller --input-size makes the engine faster, and leaves the console with the same pictures and masks.
    """
    from streamseg.bench.console import bench_cost, bench_wall

    start_logging("warning")
    engine = EngineConfig(precision=precision, input_size=input_size)
    wall = bench_wall(tiles, fps, seconds, engine)
    cost = bench_cost(turns, seconds / 3, engine) if turns else None
    if as_json:
        click.echo(msgspec.json.encode({"wall": wall, "cost": cost}))
        return
    click.echo(
        f"{wall.tiles} tiles of {wall.fps:g} fps: {wall.published_fps} masks/s, {wall.shown_fps} shown/s "
        f"({wall.shown_share:.1%}, the least {wall.least_share:.1%}); age when drawn, ms: "
        f"p50 {wall.age.p50_ms:.0f}, p95 {wall.age.p95_ms:.0f}, p99 {wall.age.p99_ms:.0f}"
    )
    if cost is not None:
        click.echo(f"one stream as fast as it goes: {cost.closed_fps} masks/s with the console closed")
        for who, ratio in cost.ratio.items():
            click.echo(f"  {who}: {cost.open_fps[who]} masks/s ({ratio:.1%}), {cost.shown_fps[who]} shown/s")
    click.echo(wall.machine.processor)


@click.command()
@click.option("--source", default="demo:", help="A stream, played at its own pace.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "precision", "threads")
@click.option("--seconds", type=click.FloatRange(12), default=60.0, help="How long to measure.")
@as_json
def refine(source: str, seconds: float, as_json: bool, **options: Any) -> None:
    """Whether the CRF delays masks: latency while refined masks are wanted and while not, by turns."""
    from streamseg.bench.refine import bench_refine

    start_logging("warning")
    tree = {
        "streams": {"s0": {"source": source, "loop": True, "realtime": True}},
        "engine": given(**options),
        "publish": {"endpoint": "tcp://127.0.0.1:0"},
    }
    result = bench_refine(build_settings(Config, tree), seconds)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    table = Table("", "p50 ms", "p95 ms", "p99 ms", "masks")
    for what, times in {"without": result.without, "refined": result.refined}.items():
        cells = (f"{times.p50_ms:.2f}", f"{times.p95_ms:.2f}", f"{times.p99_ms:.2f}", str(times.count))
        table.add_row(what, *cells)
    Console().print(table)
    left_out = ", ".join(f"{count} {why}" for why, count in result.unrefined.items()) or "none left out"
    click.echo(f"p99 ratio {result.p99_ratio}; between turns without, which is noise: {result.noise_ratio}")
    click.echo(f"{result.refinements} refined in {result.crf_cpu_s} s of CPU time, {left_out}")


@click.command()
@click.option("--source", default="demo:", help="The video that is processed.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "precision", "threads")
@click.option("--part-frames", default=256, help="Frames of a part.")
@click.option("--on", metavar="ray[://HOST:PORT]", help="Measure the job on a Ray cluster, too.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="How often each form is measured.")
@as_json
def recorded(
    source: str, part_frames: int, on: str | None, rounds: int, as_json: bool, **engine: Any
) -> None:
    """`streamseg process` against its slowest step alone, all forms by turns in one run."""
    from streamseg.bench.recorded import bench_recorded

    config = build_settings(EngineConfig, given(**engine))
    result = bench_recorded(config, source, rounds, part_frames, on)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    title = f"{result.engine}, {result.frames} frames, {result.machine.cores} cores"
    table = Table("", "frames/s", "of infer, %", "CPU ms", "of infer, %", title=title)
    for row in result.forms:
        cpu_share = None if row.of_infer_cpu is None else 100 * row.of_infer_cpu
        table.add_row(
            row.form, f"{row.fps:.1f}", f"{100 * row.of_infer:.1f}", _or_dash(row.cpu_ms, ".2f"),
            _or_dash(cpu_share, ".1f"),
        )  # fmt: skip
    Console().print(table)


def _or_dash(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)
