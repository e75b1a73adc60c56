"""streamseg bench pipeline | engine | streams: measure on this machine."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, get_args

import click
import msgspec

from streamseg.cli.fetching import fetch_missing
from streamseg.cli.settings import as_json, engine_option, given, options_from
from streamseg.config import (
    BackendName,
    Config,
    EngineConfig,
    Precision,
    PublishConfig,
    StreamConfig,
    build_settings,
)
from streamseg.runtime.log import start_logging
from streamseg.runtime.terminal import echo, echo_document

if TYPE_CHECKING:
    from streamseg.bench.engine import EngineResult
    from streamseg.bench.pipeline import PipelineResult
    from streamseg.bench.streams import StreamsResult


@click.group()
def command() -> None:
    """Measure the pipeline, engines and live streams. Close other programs first: they share the cores."""


@command.command()
@click.option("--source", "sources", multiple=True, required=True, help="A stream; may be repeated.")
@engine_option
@click.option(
    "--also", multiple=True, help="Another engine, beside the first, on the same sources; may be repeated."
)
@options_from(EngineConfig, "backend", "precision", "input_size", "threads", "replicas")
@options_from(StreamConfig, "realtime", "max_fps", "mask_size", "gate")
@options_from(PublishConfig, "encoding")
@click.option("--refined", is_flag=True, help="Also subscribe to refined masks, so that the CRF runs.")
@click.option("--fusion", is_flag=True, help="Run at refinement.level live: fuse with the frames before.")
@click.option("--seconds", type=click.FloatRange(1), default=15.0, help="How long to measure.")
@as_json
def pipeline(
    sources: tuple[str, ...],
    also: tuple[str, ...],
    refined: bool,
    fusion: bool,
    seconds: float,
    as_json: bool,
    **options: Any,
) -> None:
    """The whole daemon with a subscriber in another process: fps, latency, and the time of each stage."""
    from streamseg.bench.pipeline import bench_pipeline

    start_logging("warning")
    written = given(**options)

    def pick(kind: Any) -> dict[str, Any]:
        return {k: v for k, v in written.items() if k in kind.__struct_fields__}

    engines = {f"e{i}": pick(EngineConfig) | {"name": name} for i, name in enumerate(also, 1)}
    played = {f"s{i}": {"source": s, "loop": True, **pick(StreamConfig)} for i, s in enumerate(sources)}
    more = {f"{s}-{e}": config | {"engine": e} for e in engines for s, config in played.items()}
    tree = {
        "streams": played | more,
        "engine": pick(EngineConfig),
        "engines": engines,
        "publish": {"endpoint": "tcp://127.0.0.1:0", **pick(PublishConfig)},
        "refinement": {"level": "live" if fusion else "off"},
    }
    config = build_settings(Config, tree)
    fetch_missing(config.engine.name, *also)
    result = bench_pipeline(config, seconds, refined=refined)
    _show(result, as_json, show_pipeline)


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
@click.option("--zoo", is_flag=True, help="Also all networks of the zoo.")
@click.option("--repeats", type=click.IntRange(3), default=50, help="Calls of each form.")
@as_json
def engine(names: tuple[str, ...], source: str, zoo: bool, as_json: bool, **options: Any) -> None:
    """Every backend and precision of the engines NAMES (unset: all) on real frames, beside fp32.

    A NAME may be a network of the zoo (streamseg model list). If no engine has that name, one is made with
    random weights; times do not depend on weights. Engines are built first, which may take minutes.
    """
    from streamseg.bench.engine import bench_engines
    from streamseg.inference.spec import list_engines
    from streamseg.models.zoo import NETWORKS

    start_logging("warning")
    if not names:
        found = list_engines(lambda error: echo(f"left out: {error}", err=True))
        names = tuple(folder.name for folder, _ in found)
    chosen = dict.fromkeys((*names, *(NETWORKS if zoo else ())))
    _show(bench_engines(tuple(chosen), source, **options), as_json, show_engines)


@command.command()
@click.option(
    "--source", default="demo:", help="A clip, played at its own rate; use one of --fps to save decoding."
)
@click.option("--count", type=click.IntRange(1), default=24, help="How many live streams.")
@click.option("--fps", type=click.FloatRange(1), default=8.0, help="Frames a second of each.")
@click.option("--max-age-ms", type=click.FloatRange(1), default=250.0, help="No mask may be older.")
@engine_option
@options_from(EngineConfig, "backend", "precision", "input_size", "threads", "replicas", "max_batch")
@options_from(StreamConfig, "mask_size", "gate", "gate_min_s")
@click.option("--seconds", type=click.FloatRange(1), default=30.0, help="How long to measure.")
@as_json
def streams(
    source: str, count: int, fps: float, max_age_ms: float, seconds: float, as_json: bool, **options: Any
) -> None:
    """How many live streams this machine can serve with masks no older than --max-age-ms."""
    from streamseg.bench.streams import bench_streams

    start_logging("error")
    of_stream = {key: options.pop(key) for key in ("mask_size", "gate", "gate_min_s")}
    stream = {"source": source, "realtime": True, "loop": True, "max_fps": fps, "max_age_ms": max_age_ms}
    stream |= given(**of_stream)
    build_settings(StreamConfig, stream)  # says once what is wrong with all of them
    tree = {
        "streams": {f"s{i:02}": stream for i in range(count)},
        "engine": given(**options),
        "publish": {"endpoint": "tcp://127.0.0.1:0"},
    }
    config = build_settings(Config, tree)
    fetch_missing(config.engine.name)
    _show(bench_streams(config, seconds, fps), as_json, show_streams)


def show_pipeline(result: PipelineResult) -> None:
    """Print the result for people, in lines of 80 columns at most, as the others do."""
    echo(f"{result.engine}, replicas {result.replicas}: {result.fps} masks/s")
    if len(result.fps_of_stream) > 1:
        echo("of each stream: " + ", ".join(f"{name} {fps}" for name, fps in result.fps_of_stream.items()))
    stages = {"decoded → subscriber": result.latency, **result.stages}
    show_table(
        ("", "p50 ms", "p95 ms", "p99 ms"),
        ((stage, f"{t.p50_ms:.2f}", f"{t.p95_ms:.2f}", f"{t.p99_ms:.2f}") for stage, t in stages.items()),
    )
    if result.unchanged is not None:
        echo(f"{result.unchanged:.0%} of the masks unchanged, by the gate")
    refinements = "" if result.refined is None else f", {result.refined} refined"
    echo(f"skipped {result.skipped}, lost {result.lost}{refinements}")
    echo(result.machine.processor)


def show_engines(result: EngineResult) -> None:
    """A table for each engine and input size; a row for each precision, backend and batch."""
    echo(result.gpu or f"{result.machine.processor}, {result.machine.cores} cores")
    for (name, (height, width), random), rows in itertools.groupby(
        result.rows, key=lambda row: (row.engine.partition("/")[0], row.input_size, row.random_weights)
    ):
        echo("", f"{name}, {width}x{height}{', random weights' if random else ''}")
        show_table(
            ("", "batch", "p50 ms", "p99 ms", "frames/s", "argmax %", "max |Δ|"),
            (
                (
                    " ".join(reversed(row.engine.split("/")[1:])), str(row.batch), f"{row.time.p50_ms:.2f}",
                    f"{row.time.p99_ms:.2f}", f"{row.fps:.1f}", f"{row.agreement:.2f}",
                    f"{row.max_difference:.2g}",
                )
                for row in rows
            ),
        )  # fmt: skip
    if any(row.random_weights for row in result.rows):
        echo("", "With random weights the times are valid, the agreement with fp32 is not.")
    for form, why in result.left_out.items():
        echo(f"not run: {form}: {why}")


def show_streams(result: StreamsResult) -> None:
    """How many streams were held, and why not more."""
    from streamseg.bench.streams import HELD_SHARE

    cost = "–" if result.cpu_ms_a_mask is None else f"{result.cpu_ms_a_mask:g}"
    drops = ", ".join(f"{number} {cause}" for cause, number in sorted(result.drops.items()) if number)
    echo(
        f"{result.held} of {result.streams} streams held: at least {HELD_SHARE:.0%} of "
        f"{result.fps_asked:g} fps, no mask above {result.max_age_ms:g} ms",
        *(
            []
            if result.unchanged is None
            else [f"{result.unchanged:.0%} of the masks unchanged, by the gate"]
        ),
        f"{result.masks_per_s:g} masks/s in all, enough for {result.capacity} streams; "
        f"by stage times {result.estimate:.1f}",
        f"{result.engine}, replicas {result.replicas}",
        f"drops: {drops or 'none'}",
        f"{cost} ms of CPU a mask, {result.cpu_share:.0%} of {result.machine.cores} cores, "
        f"load {result.load:g}",
    )
    show_table(
        ("stage", "p50 ms"), ((stage, f"{times.p50_ms:.1f}") for stage, times in result.stages.items())
    )
    echo(result.machine.processor)


def show_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Print aligned columns, the first to the left, the others to the right; cuts nothing."""
    table = [columns, *rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(columns))]
    for row in table:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        echo("  ".join(cells).rstrip())


def _show(result: Any, as_json: bool, show: Any) -> None:
    if as_json:
        echo_document(msgspec.json.encode(result))
    else:
        show(result)
