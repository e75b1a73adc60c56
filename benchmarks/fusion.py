"""What fusion costs a frame: CPU time of one thread with and without it, on the same frames."""

from __future__ import annotations

import itertools
import time
from threading import Event

import click
import msgspec

from benchmarks import print_json, run_command
from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.cli.settings import as_json
from streamseg.config import CrfConfig, EngineConfig, StreamConfig
from streamseg.errors import StreamsegError
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits
from streamseg.refinement.crf_step import crf_setup, refine_picture
from streamseg.refinement.flow import one_thread
from streamseg.refinement.fusion import Fusion
from streamseg.sources.live import frames
from streamseg.types.picture import scale_picture

WARM_UP = 5  # frames left out
EVERY, DELAY = 5, 2  # a keyframe each so many frames, refined so many frames later


class FusionResult(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of CPU time from logits to labels."""

    engine: str
    plain: Spread
    fused: Spread
    costs_ms: float  # fused − plain, medians
    machine: Machine


def bench_fusion(config: EngineConfig, source: str, count: int = 60) -> FusionResult:
    """Measure on the first frames of a source; raises StreamsegError."""
    one_thread()
    engine = load_engine(config)
    try:
        setup = crf_setup(CrfConfig(), engine.info.spec)
        fusion = Fusion(setup.thin)
        plain_ms, fused_ms = [], []
        answers = {}
        played = frames(StreamConfig(source=source, loop=True), "bench", Event(), lambda event: None)
        for index, frame in enumerate(itertools.islice(played, count)):
            (logits,) = infer(engine, [frame])
            keyframe = index % EVERY == 0
            if keyframe:
                picture = scale_picture(frame.rgb, logits.geometry.input_size)
                posterior = refine_picture(setup, logits.array, picture)
                answers[index + DELAY] = (frame, posterior.log_probabilities)
            begun = time.thread_time()
            labels_from_logits(logits.array, frame.size)
            between = time.thread_time()
            if index in answers:
                of, refined = answers.pop(index)
                assert refined is not None
                fusion.refine(of.epoch, of.seq, refined)
            fusion.step(logits, keyframe=keyframe).labels(frame.size)
            plain_ms.append(1000 * (between - begun))
            fused_ms.append(1000 * (time.thread_time() - between))
    finally:
        engine.close()
    if len(fused_ms) <= WARM_UP:
        raise StreamsegError(f"{source}: {len(fused_ms)} frames are too few; must be more than {WARM_UP}")
    plain, fused = spread_of(plain_ms[WARM_UP:]), spread_of(fused_ms[WARM_UP:])
    return FusionResult(
        engine=engine.info.id,
        plain=plain,
        fused=fused,
        costs_ms=round(fused.p50_ms - plain.p50_ms, 3),
        machine=this_machine("numpy", "opencv-python-headless"),
    )


@click.command()
@click.option("--source", default="demo:", help="Where the frames come from.")
@click.option("--engine", "name", default=EngineConfig().name, help="An engine's name or its folder.")
@click.option("--frames", type=click.IntRange(10), default=60, help="How many frames.")
@as_json
def command(source: str, name: str, frames: int, as_json: bool) -> None:
    """What fusion costs a frame: CPU time of one thread from logits to labels, with it and without."""
    result = bench_fusion(EngineConfig(name=name), source, frames)
    if as_json:
        return print_json(result)
    for what, times in {"plain": result.plain, "fused": result.fused}.items():
        click.echo(f"{what:6} p50 {times.p50_ms:.2f} ms   p95 {times.p95_ms:.2f} ms of CPU time")
    click.echo(f"fusion costs {result.costs_ms:.2f} ms a frame")


if __name__ == "__main__":
    run_command(command)
