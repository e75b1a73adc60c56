"""What fusion costs a frame: CPU time of one thread, beside that of a mask without it, on the same frames."""

from __future__ import annotations

import itertools
import time
from threading import Event

import msgspec

from streamseg.bench.summary import Machine, Spread, spread_of, this_machine
from streamseg.config import CrfConfig, EngineConfig, StreamConfig
from streamseg.errors import StreamsegError
from streamseg.inference.infer import infer
from streamseg.inference.preprocess import scale_picture
from streamseg.inference.select import load_engine
from streamseg.refinement.crf_step import crf_setup, refine_picture
from streamseg.refinement.flow import one_thread
from streamseg.refinement.fusion import Fusion, labels_from_logits
from streamseg.sources.live import frames

WARM_UP = 5  # frames left out
EVERY, DELAY = 5, 2  # a keyframe each so many frames, refined so many frames later


class FusionResult(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds of CPU time from scores to labels."""

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
            (scores,) = infer(engine, [frame])
            keyframe = index % EVERY == 0
            if keyframe:
                picture = scale_picture(frame.rgb, scores.geometry.input_size)
                posterior = refine_picture(setup, scores.array, picture)
                answers[index + DELAY] = (frame, posterior.log_probabilities)
            begun = time.thread_time()
            labels_from_logits(scores.array, frame.size)
            between = time.thread_time()
            if index in answers:
                of, refined = answers.pop(index)
                assert refined is not None
                fusion.refine(of.epoch, of.seq, refined)
            fusion.step(scores, keyframe=keyframe).labels(frame.size)
            plain_ms.append(1000 * (between - begun))
            fused_ms.append(1000 * (time.thread_time() - between))
    finally:
        engine.close()
    if len(fused_ms) <= WARM_UP:
        raise StreamsegError(f"bench: {source} gave {len(fused_ms)} frames, which are too few")
    plain, fused = spread_of(plain_ms[WARM_UP:]), spread_of(fused_ms[WARM_UP:])
    return FusionResult(
        engine=engine.info.id,
        plain=plain,
        fused=fused,
        costs_ms=round(fused.p50_ms - plain.p50_ms, 3),
        machine=this_machine("numpy", "opencv-python-headless"),
    )
