"""streamseg bench pipeline | streams | recorded | console | refine | fusion | engine | transport | crf"""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.console import Console
from rich.table import Table

from streamseg.cli import start_logging
from streamseg.cli.settings import given, options_from
from streamseg.config import (
    BackendName,
    Config,
    EngineConfig,
    Precision,
    PublishConfig,
    StreamConfig,
    build_settings,
)

as_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def command() -> None:
    """Measure the pipeline, engines and transport. Close other programs first: they share the cores."""


@command.command()
@click.option("--source", "sources", multiple=True, required=True, help="A stream; may be repeated.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "backend", "precision", "input_size", "threads")
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
    table = Table("", "p50 ms", "p95 ms", "p99 ms", title=f"{result.engine}: {result.fps} masks/s")
    for stage, times in {"decoded → subscriber": result.latency, **result.stages}.items():
        table.add_row(stage, f"{times.p50_ms:.2f}", f"{times.p95_ms:.2f}", f"{times.p99_ms:.2f}")
    Console().print(table)
    refinements = "" if result.refined is None else f", {result.refined} refined"
    click.echo(f"skipped {result.skipped}, lost {result.lost}{refinements}, {result.machine.processor}")


@command.command()
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


@command.command()
@click.option(
    "--source", default="demo:", help="A clip, at its own pace; one of --fps, else all else is decoded, too."
)
@click.option("--count", type=click.IntRange(1), default=24, help="How many live streams.")
@click.option("--fps", type=click.FloatRange(1), default=8.0, help="Frames a second of each.")
@click.option("--max-age-ms", type=click.FloatRange(1), default=250.0, help="No mask may be older.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "backend", "precision", "input_size", "threads", "max_batch")
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
        f"{result.engine}"
    )
    stages = ", ".join(f"{stage} {times.p50_ms:.1f} ms" for stage, times in result.stages.items())
    drops = ", ".join(f"{number} {cause}" for cause, number in sorted(result.drops.items()) if number)
    click.echo(f"{stages}; drops: {drops or 'none'}")
    click.echo(
        f"{result.cpu_ms_a_mask:g} ms of CPU a mask, {result.cpu_share:.0%} of {result.machine.cores} cores; "
        f"load {result.load:g}, {result.machine.processor}"
    )


@command.command()
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


@command.command()
@click.option("--source", default="demo:", help="Where the frames come from.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@click.option("--frames", type=click.IntRange(10), default=60, help="How many frames.")
@as_json
def fusion(source: str, name: str, frames: int, as_json: bool) -> None:
    """What fusion costs a frame: CPU time of one thread from scores to labels, with it and without."""
    from streamseg.bench.fusion import bench_fusion

    result = bench_fusion(EngineConfig(name=name), source, frames)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    for what, times in {"plain": result.plain, "fused": result.fused}.items():
        click.echo(f"{what:6} p50 {times.p50_ms:.2f} ms   p95 {times.p95_ms:.2f} ms of CPU time")
    click.echo(f"fusion costs {result.costs_ms:.2f} ms a frame")


@command.command()
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


@command.command()
@click.argument("names", nargs=-1)
@click.option("--source", default="demo:", help="Where the frames come from.")
@click.option(
    "--backend",
    "backends",
    multiple=True,
    type=click.Choice(get_args(BackendName)[1:]),
    help="May be repeated; unset: every one that runs here.",
)
@click.option(
    "--precision",
    "precisions",
    multiple=True,
    type=click.Choice(get_args(Precision)),
    help="May be repeated; unset: every one that runs here.",
)
@click.option(
    "--input-size",
    "sizes",
    multiple=True,
    type=int,
    nargs=2,
    help="(height, width); may be repeated; unset: each engine's own.",
)
@click.option(
    "--batch", "batches", multiple=True, type=int, default=(1,), help="Batch size; may be repeated."
)
@options_from(EngineConfig, "threads")
@click.option("--repeats", type=click.IntRange(5), default=50, help="Calls of each form.")
@as_json
def engine(names: tuple[str, ...], source: str, as_json: bool, **options: Any) -> None:
    """Every backend and precision of the engines NAMES (unset: all) on real frames, beside fp32.

    What a backend needs is built first, which may take minutes.
    """
    from streamseg.bench.engine import bench_engines
    from streamseg.engine import list_engines

    start_logging("warning")
    chosen = names or tuple(spec.name for _, spec in list_engines())
    result = bench_engines(chosen, source, **options)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    columns = ("engine", "batch", "input", "p50 ms", "p99 ms", "frames/s", "argmax %", "max |Δ|")
    table = Table(*columns, title=result.gpu or f"{result.machine.processor}, {result.machine.cores} cores")
    for row in result.rows:
        height, width = row.input_size
        table.add_row(
            row.engine, str(row.batch), f"{width}x{height}", f"{row.time.p50_ms:.2f}",
            f"{row.time.p99_ms:.2f}", f"{row.fps:.1f}", f"{row.agreement:.2f}", f"{row.max_difference:.2g}",
        )  # fmt: skip
    Console(width=max(110, Console().width)).print(table)
    for form, why in result.left_out.items():
        click.echo(f"not run: {form}: {why}")


@command.command()
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="A folder of label maps (PNG); unset: those of the demo clip.",
)
@as_json
def transport(labels: Path | None, as_json: bool) -> None:
    """Encodings against each other, and the way from publishing to a reader in another process."""
    from streamseg.bench.transport import bench_transport

    result = bench_transport(labels)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    table = Table(
        "encoding", "size", "bytes", "encode p50 ms", "decode p50 ms", title=f"label maps: {result.labels}"
    )
    for row in result.encodings:
        table.add_row(
            row.encoding if row.ours else f"({row.encoding})", f"{row.size[1]}x{row.size[0]}",
            f"{row.bytes:,}", f"{row.encode.p50_ms:.2f}", f"{row.decode.p50_ms:.2f}",
        )  # fmt: skip
    Console().print(table)
    table = Table("transport", "encoding", "size", "bytes", "p50 ms", "p95 ms", "p99 ms")
    for way in result.latencies:
        table.add_row(
            way.transport, way.encoding, f"{way.size[1]}x{way.size[0]}", f"{way.bytes:,}",
            f"{way.latency.p50_ms:.2f}", f"{way.latency.p95_ms:.2f}", f"{way.latency.p99_ms:.2f}",
        )  # fmt: skip
    Console().print(table)


@command.command()
@click.option("--engine", "name", default=EngineConfig().name, help="The engine whose logits are refined.")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="A folder with images/ and labels/."
)
@click.option("--pictures", type=click.IntRange(1), default=4, help="How many of its images.")
@click.option("--size", type=int, nargs=2, help="Scale the images to this (height, width).")
@click.option("--threads", type=int, multiple=True, default=(1, 2), help="CPU threads; may be repeated.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Runs of each form; the fastest counts.")
@as_json
def crf(
    name: str,
    data: Path,
    pictures: int,
    size: tuple[int, int] | None,
    threads: tuple[int, ...],
    repeats: int,
    as_json: bool,
) -> None:
    """Every quality of the dense CRF beside pydensecrf, where that is installed, in one run."""
    from streamseg.bench.crf import bench_crf, crf_pictures

    logits, images, labels = crf_pictures(name, data, pictures, size)
    result = bench_crf(logits, images, threads=threads, repeats=repeats, labels=labels)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    height, width = result.size
    title = (
        f"{width}x{height}, {result.classes} classes, {result.pictures} pictures, {result.machine.processor}"
    )
    table = Table(
        "preset", "quality", "threads", "ms", "factor", "in CPU time", "agreement %", "mean |ΔQ|", "mIoU",
        title=title,
    )  # fmt: skip
    for row in result.rows:
        table.add_row(
            row.preset, row.quality, str(row.threads), f"{row.ms:.1f}", _or_dash(row.factor, ".1f"),
            _or_dash(row.cpu_factor, ".1f"), _or_dash(row.agreement, ".3f"),
            _or_dash(row.mean_difference, ".1e"), _or_dash(row.miou, ".2f"),
        )  # fmt: skip
    Console().print(table)


def _or_dash(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)
