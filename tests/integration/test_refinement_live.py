"""The daemon with the CRF beside its route: refined masks, fusion, and a CRF that dies."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import pytest

from streamseg.client import Subscription, subscribe
from streamseg.config import Config, EngineConfig, PublishConfig, RefinementConfig, StreamConfig
from streamseg.daemon import Daemon
from streamseg.runtime.backoff import Backoff
from streamseg.types import Mask
from tests.integration.daemons import in_thread
from tests.media import draw_clip
from tests.waiting import LIMIT_S


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Backoff, "FIRST_S", 0.01)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=30)


@contextmanager
def running(clip: Path, engine: Path, fusion: bool = False) -> Iterator[Daemon]:
    """A daemon that plays the clip over and over like a camera."""
    config = Config(
        streams={"gate": StreamConfig(source=str(clip), realtime=True, loop=True)},
        engine=EngineConfig(name=str(engine), threads=1),
        publish=PublishConfig(endpoint="tcp://127.0.0.1:0", queue=10_000),
        refinement=RefinementConfig(
            level="live" if fusion else "off", priority="normal", max_age_s=60, timeout_s=60
        ),
    )
    daemon = Daemon(config)
    with in_thread(daemon) as (_, errors):
        assert daemon.ready.wait(LIMIT_S)
        yield daemon
    assert errors == []
    assert children() == []


def children() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended meanwhile
            if "streamseg.refinement.crf_worker" in process.cmdline():
                found.append(process)
    return found


def read_until(masks: Subscription, enough: Callable[[Mask], bool]) -> list[Mask]:
    got: list[Mask] = []
    deadline = time.monotonic() + LIMIT_S
    while not got or not enough(got[-1]):
        assert time.monotonic() < deadline
        got.append(masks.read(LIMIT_S))
    return got


def test_a_refined_mask_is_revision_1_of_a_keyframe_that_came_before(clip: Path, tiny_engine: Path) -> None:
    with (
        running(clip, tiny_engine) as daemon,
        subscribe(daemon.endpoint, ["gate"], refined=True, newest=False, queue=100_000) as masks,
    ):
        got = read_until(masks, lambda mask: mask.revision == 1)
        got += read_until(masks, lambda mask: mask.revision == 1)
    first = {(m.epoch, m.seq): m for m in got if m.revision == 0}
    refined = [m for m in got if m.revision == 1]
    assert len(refined) == 2
    for mask in refined:
        assert mask.refined_seq == mask.seq
        assert mask.labels.shape == (48, 64)
        assert mask.stage_us["refine"] > 0
        before = first.get((mask.epoch, mask.seq))
        if before is not None:  # the first may have been published before we subscribed
            assert (before.n, before.run, before.pts) == (mask.n, mask.run, mask.pts)
            assert np.mean(before.labels == mask.labels) > 0.85
    assert all(m.refined_seq is None for m in first.values())


def test_nobody_asking_for_refined_masks_costs_nothing(clip: Path, tiny_engine: Path) -> None:
    with running(clip, tiny_engine) as daemon, subscribe(daemon.endpoint, ["gate"]) as masks:
        for _ in range(8):
            masks.read(LIMIT_S)
        assert children() == []
        assert daemon.pipeline is not None
        stats = daemon.pipeline.stats.of("gate")
        assert (stats.refined, sum(stats.unrefined.values())) == (0, 0)


def test_fusion_tells_which_keyframe_went_into_a_mask(clip: Path, tiny_engine: Path) -> None:
    with (
        running(clip, tiny_engine, fusion=True) as daemon,
        subscribe(daemon.endpoint, ["gate"], newest=False, queue=100_000) as masks,
    ):
        mask = read_until(masks, lambda mask: mask.refined_seq is not None)[-1]
    assert mask.revision == 0
    assert mask.refined_seq is not None
    assert mask.refined_seq < mask.seq
    assert abs(np.mean(mask.labels == 1) - (mask.seq + 1) / 30) < 0.15


def test_a_crf_that_dies_costs_refinements_and_no_masks(clip: Path, tiny_engine: Path) -> None:
    with (
        running(clip, tiny_engine) as daemon,
        subscribe(daemon.endpoint, ["gate"], refined=True, newest=False, queue=100_000) as masks,
    ):
        assert daemon.pipeline is not None
        read_until(masks, lambda mask: mask.revision == 1)
        (process,) = children()
        os.kill(process.pid, signal.SIGKILL)
        stats = daemon.pipeline.stats
        got = read_until(masks, lambda mask: stats.crf_restarts == 1)
        refined = stats.of("gate").refined
        got += read_until(masks, lambda mask: stats.of("gate").refined > refined)
        assert stats.of("gate").unrefined["lost"] == 1
        assert daemon.pipeline.errors == []
    numbers = [m.n for m in got if m.revision == 0]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
