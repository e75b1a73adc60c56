"""The loops that streamseg is compared with are whole ones: they read, run the network, give its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.hd import bench_hd
from benchmarks.hd_run import Order, run
from benchmarks.usual import Network, frames_of, opened
from streamseg.bench.probe import piece_from
from streamseg.bench.stages import frame_of
from streamseg.config import EngineConfig
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_of
from streamseg.inference.spec import find_engine
from tests.engines import tiny_engine
from tests.media import draw_clip

__all__ = ["tiny_engine"]


def _graph(engine: Path) -> str:
    folder, spec = find_engine(str(engine))
    return str(folder / spec.weights_of("fp32").file)


@pytest.mark.parametrize("form", ["plain", "threads"])
def test_a_loop_counts_its_frames_and_their_cpu_time(form: str, tmp_path: Path, tiny_engine: Path) -> None:
    order = Order(
        form=form,
        source=str(draw_clip(tmp_path / "street.mp4")),
        streams=2,
        seconds=0.05,
        warm_up_s=0.0,
        engine=EngineConfig(name=str(tiny_engine)),
        graph=_graph(tiny_engine),
        size=(48, 64),
    )
    ran = run(order)
    assert ran.fps > 0
    assert ran.cpu_ms > 0
    if form == "plain":
        assert set(ran.steps_ms) == {"read", "resize", "network", "labels"}


def test_a_loop_gives_the_labels_of_the_network(tmp_path: Path, tiny_engine: Path) -> None:
    clip = str(draw_clip(tmp_path / "street.mp4"))
    network = Network(_graph(tiny_engine), (48, 64))
    bgr = next(frames_of(opened(clip)))
    theirs = network.labels(network.logits(network.prepared(bgr)[None])[0], (48, 64))
    engine = load_engine(EngineConfig(name=str(tiny_engine), backend="onnx"))
    try:
        (logits,) = infer(engine, [frame_of(next(piece_from(clip).decoded()))])
    finally:
        engine.close()
    ours, _ = labels_of(logits, (48, 64))
    assert (ours == theirs).mean() > 0.99
    assert len(np.unique(ours)) > 1


@pytest.mark.slow  # four forms, each in processes of its own
def test_all_forms_are_run_by_turns(tiny_engine: Path) -> None:
    result = bench_hd(EngineConfig(name=str(tiny_engine)), [("480x360", "h264", 2)], seconds=0.5, rounds=1)
    (row,) = result.rows
    assert set(row.fps) == {"streamseg input", "streamseg frame", "plain", "threads"}
    assert min(row.fps.values()) > 0
    assert row.agreement > 95
