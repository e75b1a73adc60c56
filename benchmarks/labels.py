"""What it costs to publish labels as [labels] says: CPU time from logits to labels, beside the plain pass.

The plain pass fills cells whose pixels it need not look at, so percentages of it say little of a threshold,
which looks into more of them: compare its milliseconds.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator
from threading import Event

import click
import msgspec

from benchmarks import print_json, run_command
from streamseg.bench.summary import Machine, this_machine
from streamseg.cli.settings import as_json
from streamseg.config import EngineConfig, LabelsConfig, StreamConfig
from streamseg.errors import StreamsegError
from streamseg.inference.infer import infer
from streamseg.inference.label_view import LabelView, view_of
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.sources.live import frames
from streamseg.types import Logits, Size

SIZES: tuple[Size, ...] = ((360, 480), (1080, 1920))
RUNS = 5  # of each kind, in turn, for each frame


class LabelsResult(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of CPU time from logits to labels (medians), and how they compare with the plain pass."""

    engine: str
    size: Size
    ms: dict[str, float]
    costs_percent: dict[str, float]  # median of the ratios within each turn, less 100
    machine: Machine


def bench_labels(config: EngineConfig, source: str, count: int = 40) -> Iterator[LabelsResult]:
    """Measure on frames of a source, a second apart; raises StreamsegError."""
    engine = load_engine(config)
    try:
        played = frames(StreamConfig(source=source, loop=True), "bench", Event(), lambda event: None)
        taken = itertools.islice(played, 0, count * 7, 7)
        answers = [logits for frame in taken for logits in infer(engine, [frame])]
        classes, kind = engine.info.labels, engine.info.kind
    finally:
        engine.close()
    if kind == "labels":
        raise StreamsegError(f"{engine.info.id}: gives class ids, which are not scaled by this pass")
    first, second = classes.names[-1:], classes.names[-3:-1]
    merge = {"merged": first + second[:1], "other": second[1:] + classes.names[:1]}
    kinds = {
        "plain": LabelsConfig(),
        "merge": LabelsConfig(merge=merge),
        "min_confidence 0.6": LabelsConfig(min_confidence=0.6),
        "min_confidence 0.9": LabelsConfig(min_confidence=0.9),
        "merge, min_confidence 0.6": LabelsConfig(merge=merge, min_confidence=0.6),
        "merge, only, 0.6": LabelsConfig(merge=merge, only=("merged", "other"), min_confidence=0.6),
        "min_region 64": LabelsConfig(min_region=64),
    }
    views = {name: view_of(classes, given) for name, given in kinds.items()}
    for size in SIZES:
        times: dict[str, list[float]] = {name: [] for name in [*kinds, "with the confidence"]}
        for logits in [*answers[:3], *answers]:  # the first ones to warm up
            for _ in range(RUNS):
                for name, view in views.items():
                    times[name].append(_cpu_ms(logits, size, view))
                times["with the confidence"].append(_cpu_ms(logits, size, views["plain"], True))
        kept = {name: values[3 * RUNS :] for name, values in times.items()}
        yield LabelsResult(
            engine=engine.info.id,
            size=size,
            ms={name: round(statistics.median(values), 3) for name, values in kept.items()},
            costs_percent={
                name: round(
                    100 * statistics.median(a / b for a, b in zip(values, kept["plain"], strict=True)) - 100,
                    1,
                )
                for name, values in kept.items()
            },
            machine=this_machine("numpy", "opencv-python-headless"),
        )


def _cpu_ms(logits: Logits, size: Size, view: LabelView, confidence: bool = False) -> float:
    begun = time.thread_time()
    labels_of(logits, size, confidence, view)
    return 1000 * (time.thread_time() - begun)


@click.command()
@click.option("--source", default="demo:", help="Where the frames come from.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@click.option("--frames", type=click.IntRange(1), default=40, help="How many frames.")
@as_json
def command(source: str, name: str, frames: int, as_json: bool) -> None:
    """What it costs to merge, choose and drop labels: CPU time of one thread from logits to labels."""
    for result in bench_labels(EngineConfig(name=name), source, frames):
        if as_json:
            print_json(result)
            continue
        click.echo(f"{result.size[1]}x{result.size[0]}, {result.engine}")
        for kind, ms in result.ms.items():
            click.echo(f"  {kind:26} {ms:7.3f} ms  {result.costs_percent[kind]:+6.1f} %")


if __name__ == "__main__":
    run_command(command)
