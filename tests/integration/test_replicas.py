"""Several engines side by side in a real daemon: every frame, in order; one that fails ends it."""

from __future__ import annotations

import importlib.util
import itertools
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import streamseg.live.pipeline as pipeline
from streamseg import Daemon, Mask, subscribe
from streamseg.config import BackendName, Config, EngineConfig, PublishConfig, StreamConfig
from streamseg.inference.backends.onnx import OnnxEngine
from streamseg.inference.backends.protocol import threads_of_replica
from tests.integration.daemons import in_thread
from tests.media import draw_clip
from tests.waiting import LIMIT_S

FRAMES = 90


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=FRAMES)


@contextmanager
def running(
    engine: Path, replicas: int, *, backend: BackendName = "onnx", **streams: StreamConfig
) -> Iterator[tuple[Daemon, list[BaseException]]]:
    """A daemon in a thread of its own, publishing; its error if it ends with one; stopped at the end."""
    config = Config(
        streams=streams,
        engine=EngineConfig(
            name=str(engine), backend=backend, threads=replicas, replicas=replicas, max_batch=1
        ),
        publish=PublishConfig(endpoint="tcp://127.0.0.1:0", queue=10_000),
    )
    daemon = Daemon(config)
    with in_thread(daemon) as (_, errors):
        assert daemon.ready.wait(LIMIT_S)
        yield daemon, errors


def limp(monkeypatch: pytest.MonkeyPatch) -> set[int]:
    """Have every other call of the network take longer; gives the engines that were called, by their id()."""
    calls = itertools.count()
    seen: set[int] = set()
    original = pipeline.infer

    def infer(engine: Any, frames: Any) -> Any:
        seen.add(id(engine))
        time.sleep(0.004 * (next(calls) % 2))  # slower is what is tried here
        return original(engine, frames)

    monkeypatch.setattr(pipeline, "infer", infer)
    return seen


def masks_of(endpoint: str, count: int) -> list[Mask]:
    with subscribe(endpoint, newest=False, snapshot=False, queue=100_000) as masks:
        return [masks.read(LIMIT_S) for _ in range(count)]


@pytest.mark.parametrize("replicas", [2, 3])
def test_lanes_of_unequal_speed_publish_every_frame_of_a_file_in_order(
    replicas: int, clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engines = limp(monkeypatch)
    with running(tiny_engine, replicas, gate=StreamConfig(source=str(clip), loop=True)) as (daemon, _):
        got = masks_of(daemon.endpoint, 2 * FRAMES)
    assert len(engines) == replicas
    assert [m.n for m in got] == list(range(got[0].n, got[0].n + len(got)))
    order = [(m.epoch, m.seq) for m in got]
    assert order == sorted(order)
    assert [seq for _, seq in order] == [(got[0].seq + i) % FRAMES for i in range(len(got))]


def test_a_file_that_ends_ends_the_daemon_with_all_of_its_masks(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limp(monkeypatch)
    streams = {name: StreamConfig(source=str(clip)) for name in ("gate", "yard")}
    with running(tiny_engine, 3, **streams) as (daemon, errors):
        assert daemon.pipeline is not None
        assert daemon.pipeline.over.wait(LIMIT_S)
        stats = daemon.pipeline.stats.all()
    assert errors == []
    assert {name: s.published for name, s in stats.items()} == {"gate": FRAMES, "yard": FRAMES}


@pytest.mark.parametrize("call", [0, 1, 2, 7])
def test_a_lane_that_fails_ends_the_daemon_with_the_reason(
    call: int, clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_engine, 2, gate=StreamConfig(source=str(clip), loop=True)) as (daemon, errors):
        calls, original = itertools.count(), OnnxEngine.__call__

        def run(engine: OnnxEngine, batch: Any) -> Any:
            if next(calls) == call:
                raise RuntimeError("broken on purpose")
            return original(engine, batch)

        monkeypatch.setattr(OnnxEngine, "__call__", run)
        assert daemon.pipeline is not None
        assert daemon.pipeline.over.wait(LIMIT_S)
    assert "broken on purpose" in str(errors[0])


@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs the extra openvino")
def test_every_lane_goes_over_to_the_built_engine_and_no_mask_is_lost(clip: Path, tiny_engine: Path) -> None:
    gate = StreamConfig(source=str(clip), loop=True, realtime=True)
    with (
        running(tiny_engine, 2, backend="openvino", gate=gate) as (daemon, _),
        subscribe(daemon.endpoint, newest=False, snapshot=False, timeout_s=LIMIT_S) as masks,
    ):
        got: list[Mask] = []
        while len(got) < 30 or any(not m.engine.endswith("openvino") for m in got[-30:]):
            got.append(masks.read(LIMIT_S))
        assert daemon.engine.state == "running"
        assert daemon.engine.id == "tiny/fp32/openvino"
    assert [m.n for m in got] == list(range(got[0].n, got[0].n + len(got)))


def test_lanes_share_the_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    shares = {
        (threads, replicas): threads_of_replica(EngineConfig(threads=threads, replicas=replicas))
        for threads, replicas in ((0, 1), (3, 1), (0, 2), (0, 3), (6, 2), (2, 4))
    }
    assert shares == {(0, 1): 0, (3, 1): 3, (0, 2): 4, (0, 3): 2, (6, 2): 3, (2, 4): 1}
