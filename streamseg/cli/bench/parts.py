"""streamseg bench engine | crf | fusion | transport: one part beside what it is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from rich.console import Console
from rich.table import Column, Table

from streamseg.cli import start_logging
from streamseg.cli.settings import as_json, options_from
from streamseg.config import (
    BackendName,
    EngineConfig,
    Precision,
)


@click.command()
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
@click.option("--zoo", is_flag=True, help="All networks of the zoo, too.")
@click.option("--repeats", type=click.IntRange(3), default=50, help="Calls of each form.")
@as_json
def engine(names: tuple[str, ...], source: str, zoo: bool, as_json: bool, **options: Any) -> None:
    """Every backend and precision of the engines NAMES (unset: all) on real frames, beside fp32.

    A NAME may be a network's (streamseg model list): without an engine of that name it gets random weights,
    which times do not depend on, and int8 if that is asked for by --precision. What a backend needs is built
    first, which may take minutes.
    """
    from streamseg.bench.engine import bench_engines
    from streamseg.inference.spec import list_engines
    from streamseg.models.zoo import NETWORKS

    start_logging("warning")
    at_hand = tuple(spec.name for _, spec in list_engines())
    chosen = dict.fromkeys((*(names or at_hand), *(NETWORKS if zoo else ())))
    result = bench_engines(tuple(chosen), source, **options)
    if as_json:
        click.echo(msgspec.json.encode(result))
        return
    columns = (
        Column("engine", no_wrap=True),
        "batch",
        "input",
        "p50 ms",
        "p99 ms",
        "frames/s",
        "argmax %",
        "max |Δ|",
    )
    table = Table(*columns, title=result.gpu or f"{result.machine.processor}, {result.machine.cores} cores")
    for row in result.rows:
        height, width = row.input_size
        table.add_row(
            row.engine + " *" * row.random_weights, str(row.batch), f"{width}x{height}",
            f"{row.time.p50_ms:.2f}", f"{row.time.p99_ms:.2f}", f"{row.fps:.1f}", f"{row.agreement:.2f}",
            f"{row.max_difference:.2g}",
        )  # fmt: skip
    Console(width=max(120, Console().width)).print(table)
    if any(row.random_weights for row in result.rows):
        click.echo("* random weights: times are those of any weights, agreement is not")
    for form, why in result.left_out.items():
        click.echo(f"not run: {form}: {why}")


@click.command()
@click.option("--engine", "name", default=EngineConfig().name, help="The engine whose logits are refined.")
@click.option(
    "--data", type=click.Path(path_type=Path), required=True, help="A folder with images/ and labels/."
)
@click.option("--pictures", type=click.IntRange(1), default=4, help="How many of its images.")
@click.option("--size", type=int, nargs=2, help="Scale the images to this (height, width).")
@click.option(
    "--classes", type=click.IntRange(1, 256), help="Add random ones to the engine's, up to so many."
)
@click.option("--threads", type=int, multiple=True, default=(1, 2), help="CPU threads; may be repeated.")
@click.option("--repeats", type=click.IntRange(1), default=5, help="Runs of each form; the fastest counts.")
@as_json
def crf(
    name: str,
    data: Path,
    pictures: int,
    size: tuple[int, int] | None,
    classes: int | None,
    threads: tuple[int, ...],
    repeats: int,
    as_json: bool,
) -> None:
    """Every quality of the dense CRF beside pydensecrf, where that is installed, in one run."""
    from streamseg.bench.crf import bench_crf, crf_pictures

    logits, images, labels = crf_pictures(name, data, pictures, size, classes)
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


@click.command()
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


@click.command()
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


def _or_dash(value: float | None, how: str) -> str:
    return "–" if value is None else format(value, how)
