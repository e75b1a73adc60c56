"""HD cameras: streamseg beside the loops that people write; same network, same labels, by turns."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import click
import msgspec

from benchmarks import or_dash, print_json, run_command
from benchmarks.hd_run import Order, Ran, run_apart
from benchmarks.usual import Network, frames_of, opened
from streamseg.bench.clips import drawn_clip
from streamseg.bench.kinds import for_many
from streamseg.bench.pieces import Piece
from streamseg.bench.probe import piece_from
from streamseg.bench.stages import StageTimes, frame_of, stage_times
from streamseg.bench.summary import Machine, this_machine
from streamseg.cli.bench import show_table
from streamseg.cli.settings import as_json, given, options_from
from streamseg.config import EngineConfig, Precision, build_settings
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer, input_size
from streamseg.inference.plans.load import close_all, load_engine
from streamseg.inference.scaling import labels_of
from streamseg.inference.spec import find_engine
from streamseg.runtime.cpus import usable_cores
from streamseg.sources.target import DEMO_CLIP
from streamseg.types import Size

FORMS = ("streamseg input", "streamseg frame", "plain", "threads")
SIZES: dict[str, Size] = {
    "480x360": (360, 480),
    "1080p": (1080, 1920),
    "2160p": (2160, 3840),
    "16MP": (3264, 4912),
}
ROWS = (
    ("480x360", "h264", 1), ("1080p", "h264", 1), ("1080p", "h264", 4), ("1080p", "h264", 8),
    ("1080p", "h264", 16), ("1080p", "hevc", 1), ("2160p", "h264", 1), ("2160p", "hevc", 4),
    ("16MP", "h264", 1), ("16MP", "hevc", 1),
)  # fmt: skip
WARM_UP_S = 1.5
STAGE_S = 0.5
COMPARED = 5  # pictures whose labels are compared


class HdRow(msgspec.Struct, frozen=True, kw_only=True):
    """One size, codec and number of streams: medians over the rounds."""

    picture: str
    codec: str
    streams: int
    fps: dict[str, float]  # by form; of all streams
    cpu_ms: dict[str, float]  # of a frame
    steps_ms: dict[str, float]  # of the plain loop
    stages: StageTimes  # of streamseg
    over_plain: float  # streamseg's frames/s, masks of the frame's size, over the plain loop's: median
    agreement: float  # of labels with the plain loop's, in per cent


class HdResult(msgspec.Struct, frozen=True, kw_only=True):
    """The table of `python -m benchmarks.hd`."""

    engine: str
    graph: str
    seconds: float
    rounds: int
    rows: list[HdRow]
    machine: Machine


def bench_hd(
    config: EngineConfig,
    rows: Sequence[tuple[str, str, int]] = ROWS,
    forms: Sequence[str] = FORMS,
    seconds: float = 4.0,
    rounds: int = 2,
) -> HdResult:
    """Run each form of each row by turns; draws the clips first. Raises StreamsegError."""
    sources = {(name, codec): _clip(name, codec) for name, codec, _ in rows}
    many = for_many(config)
    engines = [load_engine(many) for _ in range(many.replicas)]
    try:
        info = engines[0].info
        folder, spec = find_engine(config.name)
        precision: Precision = (
            "int8" if info.precision == "int8" else "fp32"
        )  # what ONNX Runtime has on a CPU
        graph = str(folder / spec.weights_of(precision).file)
        done = list(_rows(rows, sources, engines, config, graph, forms, seconds, rounds))
    finally:
        close_all(engines)
    return HdResult(
        engine=info.id,
        graph=f"{spec.name}/{precision} by ONNX Runtime",
        seconds=seconds,
        rounds=rounds,
        rows=done,
        machine=this_machine("onnxruntime", "av", "opencv-python-headless"),
    )


def _clip(name: str, codec: str) -> str:
    return str(DEMO_CLIP if name == "480x360" else drawn_clip(SIZES[name], codec))


def _rows(
    rows: Sequence[tuple[str, str, int]],
    sources: dict[tuple[str, str], str],
    engines: list[Engine],
    config: EngineConfig,
    graph: str,
    forms: Sequence[str],
    seconds: float,
    rounds: int,
) -> Iterator[HdRow]:
    measured: dict[tuple[str, str], tuple[StageTimes, float]] = {}
    for name, codec, streams in rows:
        source, size = sources[name, codec], input_size(engines[0], SIZES[name])
        if (name, codec) not in measured:
            piece = piece_from(source)
            times = stage_times(piece, engines, threads=usable_cores(), seconds=STAGE_S)
            measured[name, codec] = times, _agreement(piece, source, engines[0], Network(graph, size))
        ran: dict[str, list[Ran]] = {form: [] for form in forms}
        for _, form in itertools.product(range(rounds), forms):
            order = Order(
                form=form,
                source=source,
                streams=streams,
                seconds=seconds,
                warm_up_s=WARM_UP_S,
                engine=config,
                graph=graph,
                size=size,
            )
            ran[form].append(run_apart(order))
        ratios = [a.fps / b.fps for a, b in zip(ran.get(FORMS[1], []), ran.get("plain", []), strict=False)]
        plain = ran.get("plain", [])
        times, agreement = measured[name, codec]
        yield HdRow(
            picture=name,
            codec=codec,
            streams=streams,
            fps={form: round(statistics.median(r.fps for r in runs), 2) for form, runs in ran.items()},
            cpu_ms={form: round(statistics.median(r.cpu_ms for r in runs), 2) for form, runs in ran.items()},
            steps_ms={
                step: round(statistics.median(r.steps_ms[step] for r in plain), 2)
                for step in (plain[0].steps_ms if plain else ())
            },
            stages=times,
            over_plain=round(statistics.median(ratios), 2) if ratios else 0.0,
            agreement=round(agreement, 3),
        )


def _agreement(piece: Piece, source: str, engine: Engine, network: Network) -> float:
    """Pixels that get the same label from both, in per cent, over some pictures of a clip."""
    same = pixels = 0
    for image, bgr in itertools.islice(
        zip(piece.decoded(), frames_of(opened(source)), strict=False), COMPARED
    ):
        frame = frame_of(image)
        (logits,) = infer(engine, [frame])
        ours, _ = labels_of(logits, frame.size)
        theirs = network.labels(network.logits(network.prepared(bgr)[None])[0], frame.size)
        same += int((ours == theirs).sum())
        pixels += ours.size
    return 100 * same / pixels


@click.command()
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "backend", "precision", "replicas", "threads")
@click.option("--picture", "pictures", multiple=True, type=click.Choice(tuple(SIZES)), help="Only these.")
@click.option("--codec", "codecs", multiple=True, type=click.Choice(("h264", "hevc")), help="Only these.")
@click.option("--streams", multiple=True, type=click.IntRange(1), help="Only so many streams.")
@click.option("--form", "forms", multiple=True, type=click.Choice(FORMS), help="Only these.")
@click.option("--seconds", type=click.FloatRange(0.5), default=4.0, help="Of each run.")
@click.option("--rounds", type=click.IntRange(1), default=2, help="How often each form is run.")
@as_json
def command(
    pictures: tuple[str, ...],
    codecs: tuple[str, ...],
    streams: tuple[int, ...],
    forms: tuple[str, ...],
    seconds: float,
    rounds: int,
    as_json: bool,
    **engine: Any,
) -> None:
    """1080p, 2160p and 16 megapixels, H.264 and HEVC: masks a second, and CPU time of each stage."""
    rows = [row for row in ROWS if _taken(row, pictures, codecs, streams)]
    if pictures and codecs and streams:
        rows = list(itertools.product(pictures, codecs, streams))
    config = build_settings(EngineConfig, given(**engine))
    result = bench_hd(config, rows, forms or FORMS, seconds, rounds)
    if as_json:
        return print_json(result)
    click.echo(f"{result.engine}; the loops: {result.graph}; {result.machine.cores} cores")
    used = forms or FORMS
    show_table(
        ("frames/s", *used, "× plain", "labels as plain"),
        (
            (
                _named(row), *(or_dash(row.fps.get(form), ".1f") for form in used),
                f"{row.over_plain:.2f}", f"{row.agreement:.2f} %",
            )
            for row in result.rows
        ),
    )  # fmt: skip
    show_table(
        ("CPU ms of a frame", *used),
        ((_named(row), *(or_dash(row.cpu_ms.get(form), ".1f") for form in used)) for row in result.rows),
    )
    show_table(
        (
            "CPU ms by stage", "decode", "scale", "network", "labels", "pack", "all but the network",
            "the same with masks of input size",
        ),
        (
            (
                f"{row.picture} {row.codec}",
                *(f"{ms:.2f}" for ms in (
                    row.stages.decode, row.stages.scale, row.stages.network, row.stages.labels,
                    row.stages.pack, row.stages.beside, row.stages.beside_input,
                )),
            )
            for row in {(row.picture, row.codec): row for row in result.rows}.values()
        ),
    )  # fmt: skip
    steps = ("read", "resize", "network", "labels")
    show_table(
        ("plain, CPU ms", *steps),
        ((_named(row), *(or_dash(row.steps_ms.get(step), ".2f") for step in steps)) for row in result.rows),
    )


def _taken(
    row: tuple[str, str, int], pictures: Sequence[str], codecs: Sequence[str], streams: Sequence[int]
) -> bool:
    return all(
        not wanted or one in wanted for one, wanted in zip(row, (pictures, codecs, streams), strict=True)
    )


def _named(row: HdRow) -> str:
    return f"{row.picture} {row.codec} × {row.streams}"


if __name__ == "__main__":
    run_command(command)
