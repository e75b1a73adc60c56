"""A recorded job beside its slowest step alone: what share of that speed a whole job reaches."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from threading import Event
from typing import Any

import click
import msgspec

from benchmarks import or_dash, print_json, run_command
from streamseg.bench.summary import Machine, this_machine
from streamseg.cli.bench import show_table
from streamseg.cli.settings import as_json, given, options_from
from streamseg.config import EngineConfig, build_settings
from streamseg.errors import UsageError
from streamseg.inference.engine import Engine
from streamseg.inference.infer import infer
from streamseg.recorded import ProcessConfig
from streamseg.recorded.cluster import Cluster
from streamseg.recorded.file_job import FileJob
from streamseg.recorded.inputs import Input, find_inputs
from streamseg.recorded.job import load_engines
from streamseg.recorded.opening import probe
from streamseg.recorded.results import ResultFolder
from streamseg.recorded.route import Route, SegmentEnd
from streamseg.runtime.ordered import Prefetcher, map_ordered
from streamseg.types import Frame

MAX_FRAMES = 300  # kept in memory for the network alone


class RecordedForm(msgspec.Struct, frozen=True, kw_only=True):
    """One form of work: medians over the rounds."""

    form: str
    fps: float
    cpu_ms: float | None  # CPU time of this process for a frame; None where others work too
    of_infer: float  # fps over that of the network alone, in the same round
    of_infer_cpu: float | None  # the network's CPU time over this form's


class RecordedResult(msgspec.Struct, frozen=True, kw_only=True):
    """decode, infer: that step alone. decode+infer: both at once. labels, overlay: whole jobs, files and all.

    Engines are loaded before, but for the cluster, whose workers do it in the round that warms up.
    """

    source: str
    frames: int
    engine: str
    rounds: int
    forms: list[RecordedForm]
    machine: Machine


@dataclass(frozen=True, slots=True)
class _Round:
    fps: float
    cpu_ms: float


def bench_recorded(
    engine: EngineConfig, source: str, rounds: int = 3, segment_frames: int = 256, on: str | None = None
) -> RecordedResult:
    """Measure all forms by turns; `on` adds "cluster": the overlay's job there. Raises StreamsegError."""
    found = find_inputs([source])
    if len(found) != 1:
        raise UsageError(f"{source}: holds {len(found)} videos; name one of them")
    one = found[0]
    labels = ProcessConfig(engine=engine, overlay=False, segment_frames=segment_frames)
    both = ProcessConfig(engine=engine, segment_frames=segment_frames)
    with load_engines(labels) as engines:
        frames = list(islice(_frames(one, labels, engines), MAX_FRAMES))
        forms: dict[str, Callable[[], int]] = {
            "infer": partial(_infer, engines, frames),
            "decode": lambda: sum(1 for _ in _frames(one, labels, engines)),
            "decode+infer": partial(_decode_and_infer, one, labels, engines),
            "labels": partial(_job, one, labels, engines),
            "overlay": partial(_job, one, both, engines),
        }
        cluster = None if on is None else Cluster(on)
        if cluster is not None:
            forms["cluster"] = partial(_job, one, both, engines, cluster)
        try:
            taken: dict[str, list[_Round]] = {form: [] for form in forms}
            for work in forms.values():
                work()  # warms up
            for _ in range(rounds):
                for form, work in forms.items():
                    taken[form].append(_timed(work))
        finally:
            if cluster is not None:
                cluster.close()
        info = engines[0].info
    return RecordedResult(
        source=one.shown,
        frames=len(frames),
        engine=info.id,
        rounds=rounds,
        forms=[_form(form, rows, taken["infer"], form != "cluster") for form, rows in taken.items()],
        machine=this_machine("onnxruntime", "av", "opencv-python-headless"),
    )


def _form(form: str, rows: list[_Round], infer_rows: list[_Round], own: bool) -> RecordedForm:
    cpu_ms = statistics.median(row.cpu_ms for row in rows)
    return RecordedForm(
        form=form,
        fps=round(statistics.median(row.fps for row in rows), 1),
        cpu_ms=round(cpu_ms, 2) if own else None,
        of_infer=round(statistics.median(a.fps / b.fps for a, b in zip(rows, infer_rows, strict=True)), 3),
        of_infer_cpu=round(statistics.median(row.cpu_ms for row in infer_rows) / cpu_ms, 3) if own else None,
    )


def _timed(work: Callable[[], int]) -> _Round:
    begun, cpu = time.monotonic(), time.process_time()
    count = work()
    return _Round(count / (time.monotonic() - begun), 1000 * (time.process_time() - cpu) / count)


def _frames(one: Input, config: ProcessConfig, engines: list[Engine]) -> Iterator[Frame]:
    return (f for f in Route(probe(one, config, engines)).frames() if not isinstance(f, SegmentEnd))


def _infer(engines: list[Engine], frames: list[Frame]) -> int:
    works = [lambda frame, engine=engine: infer(engine, [frame]) for engine in engines]
    return sum(1 for _ in map_ordered("infer", iter(frames), works))


def _decode_and_infer(one: Input, config: ProcessConfig, engines: list[Engine]) -> int:
    route = Route(probe(one, config, engines))
    with closing(Prefetcher("decode", route.frames())) as frames:
        return sum(1 for item in route.scores(iter(frames)) if not isinstance(item, SegmentEnd))


def _job(one: Input, config: ProcessConfig, engines: list[Engine], cluster: Cluster | None = None) -> int:
    with tempfile.TemporaryDirectory(prefix="streamseg-") as out:
        results = ResultFolder(Path(out), one.stem)
        job = FileJob(one, results, config, engines, lambda event: None, False, Event(), cluster)
        finished = job.run()
    assert finished is not None, "nothing stops it"
    return finished.manifest.masks


@click.command()
@click.option("--source", default="demo:", help="The video to process.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@options_from(EngineConfig, "precision", "threads")
@click.option("--segment-frames", default=256, help="Frames of a segment.")
@click.option("--on", metavar="ray[://HOST:PORT]", help="Also measure the job on a Ray cluster.")
@click.option("--rounds", type=click.IntRange(1), default=3, help="How often each form is measured.")
@as_json
def command(
    source: str, segment_frames: int, on: str | None, rounds: int, as_json: bool, **engine: Any
) -> None:
    """`streamseg process` beside its slowest step alone, all forms by turns in one run."""
    config = build_settings(EngineConfig, given(**engine))
    result = bench_recorded(config, source, rounds, segment_frames, on)
    if as_json:
        return print_json(result)
    click.echo(f"{result.engine}, {result.frames} frames, {result.machine.cores} cores")
    show_table(
        ("", "frames/s", "of infer, %", "CPU ms", "of infer, %"),
        (
            (
                row.form, f"{row.fps:.1f}", f"{100 * row.of_infer:.1f}", or_dash(row.cpu_ms, ".2f"),
                or_dash(None if row.of_infer_cpu is None else 100 * row.of_infer_cpu, ".1f"),
            )
            for row in result.forms
        ),
    )  # fmt: skip


if __name__ == "__main__":
    run_command(command)
