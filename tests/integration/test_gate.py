"""The motion gate in a real daemon: still pictures pass beside the network, in order; what moves does not."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg import Daemon
from streamseg.config import Config, EngineConfig, PublishConfig, StreamConfig
from streamseg.publish import Publisher
from streamseg.types import Mask
from tests.integration.daemons import in_thread
from tests.media import GREEN, picture, write_video
from tests.waiting import LIMIT_S

SIZE = (96, 128)
STILL, MOVING = 30, 10


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A red third, and nothing new for a while; then a green thing walks through the grey."""
    still = picture(SIZE, 0.3)
    pictures = [still] * STILL
    for i in range(MOVING):
        moved = still.copy()
        moved[40:72, 48 + 6 * i : 64 + 6 * i] = GREEN
        pictures.append(moved)
    path = tmp_path_factory.mktemp("clips") / "walk.mp4"
    write_video(path, pictures, options={"crf": "12"})
    return path


@contextmanager
def running(
    engine: Path, monkeypatch: pytest.MonkeyPatch, replicas: int = 1, **streams: StreamConfig
) -> Iterator[tuple[Daemon, list[Mask]]]:
    """A daemon in a thread of its own, and the masks that its publisher is given."""
    masks: list[Mask] = []
    put: Callable[..., None] = Publisher.put

    def keep(self: Publisher, mask: Any, timeout_s: float | None = None) -> None:
        if isinstance(mask, Mask):
            masks.append(mask)
        put(self, mask, timeout_s)

    monkeypatch.setattr(Publisher, "put", keep)
    config = Config(
        streams=streams,
        engine=EngineConfig(name=str(engine), threads=replicas, replicas=replicas, precision="fp32"),
        publish=PublishConfig(endpoint="tcp://127.0.0.1:0"),
    )
    daemon = Daemon(config)
    with in_thread(daemon) as (_, errors):
        assert daemon.ready.wait(LIMIT_S)
        yield daemon, masks
    assert errors == []


def wait_for(done: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not done():
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def gated(clip: Path, **more: Any) -> StreamConfig:
    return StreamConfig(source=str(clip), realtime=True, loop=True, gate="motion", **more)


@pytest.mark.parametrize("replicas", [1, 2])
def test_still_frames_pass_beside_the_network_in_order(
    replicas: int, clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["gate", "yard", "door"]
    with running(tiny_engine, monkeypatch, replicas, **{n: gated(clip) for n in names}) as (_, masks):
        wait_for(lambda: len(masks) > 3 * 2 * (STILL + MOVING))
    for name in names:
        of = [mask for mask in masks if mask.stream == name]
        order = [(mask.epoch, mask.seq) for mask in of]
        assert order == sorted(set(order))
        held: Mask | None = None
        for mask in of:
            if mask.same_as is None:
                held = mask
            else:
                assert held is not None
                assert (mask.epoch, mask.same_as) == (held.epoch, held.seq)
                assert mask.labels is held.labels
                assert "gate" in mask.stage_us
        same = [mask for mask in of if mask.same_as is not None]
        assert len(same) > len(of) / 2
        for mask in of:  # what moves is never more than a cell or two (of 8 pixels here) from its labels
            green = np.flatnonzero((mask.labels == 2).any(0))
            if mask.seq < STILL:
                assert green.size == 0
            else:
                assert abs(green[0] - (48 + 6 * (mask.seq - STILL))) <= 16


def test_the_counters_say_how_many_were_unchanged(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_engine, monkeypatch, gate=gated(clip), yard=gated(clip, gate_max_s=0.001)) as (
        daemon,
        masks,
    ):
        wait_for(lambda: len(masks) > 120)
        assert daemon.pipeline is not None
        stats = daemon.pipeline.stats.all()
    assert 0 < stats["gate"].unchanged < stats["gate"].published
    assert stats["yard"].unchanged == 0
    assert stats["gate"].unchanged == sum(m.same_as is not None for m in masks if m.stream == "gate")


def test_other_settings_another_size_and_a_reload_make_the_network_look(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_engine, monkeypatch, gate=gated(clip, gate_max_s=60.0)) as (daemon, masks):
        wait_for(lambda: any(mask.same_as is not None for mask in masks))
        assert daemon.pipeline is not None
        streams = daemon.pipeline.streams
        streams.change("gate", msgspec.structs.replace(streams.config("gate"), mask_size="input"))
        wait_for(lambda: masks[-1].size != SIZE)
        first = next(mask for mask in masks if mask.size != SIZE)
        assert first.same_as is None
        streams.change("gate", msgspec.structs.replace(streams.config("gate"), gate="none"))
        count = len(masks)
        wait_for(lambda: len(masks) > count + 20)
        assert all(mask.same_as is None for mask in masks[-15:])


def test_a_file_at_full_speed_is_never_gated_and_the_log_says_so(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    config = StreamConfig(source=str(clip), loop=True, gate="motion")
    with running(tiny_engine, monkeypatch, gate=config) as (_, masks):
        wait_for(lambda: len(masks) > 50)
    assert all(mask.same_as is None for mask in masks)
    assert (
        "gate: gate: not used, since every frame of a file without realtime gets its own mask" in caplog.text
    )


def test_a_mask_that_is_too_old_is_not_referred_to(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is too slow for max_age_ms now and then: what would refer to such a mask is dropped."""
    import streamseg.live.pipeline as pipeline

    original, calls = pipeline.infer, [0]

    def slow(engine: Any, frames: Any) -> Any:
        calls[0] += 1
        if calls[0] % 2 == 0:
            time.sleep(0.3)  # slower is what is tried here
        return original(engine, frames)

    monkeypatch.setattr(pipeline, "infer", slow)
    stream = gated(clip, max_age_ms=150.0, gate_max_s=0.4)
    with running(tiny_engine, monkeypatch, gate=stream) as (daemon, masks):
        assert daemon.pipeline is not None
        stats = daemon.pipeline.stats
        wait_for(lambda: stats.of("gate").drops["stale"] > 1 and len(masks) > 40)
    shown = {(mask.epoch, mask.seq) for mask in masks if mask.same_as is None}
    assert all((mask.epoch, mask.same_as) in shown for mask in masks if mask.same_as is not None)
    assert np.mean([mask.same_as is not None for mask in masks]) > 0.2
