"""The motion gate in a real daemon: still pictures pass beside the network, in order; what moves does not."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import streamseg.live.pipeline as pipeline
from streamseg import Daemon, Subscription, subscribe
from streamseg.client.control import ControlClient
from streamseg.config import Config, EngineConfig, PublishConfig, RefinementConfig, StreamConfig, load_config
from streamseg.publish import Publisher
from streamseg.types import Mask
from tests.engines import write_constant_engine
from tests.integration.daemons import in_thread
from tests.media import GREEN, picture, write_video
from tests.waiting import LIMIT_S

pytestmark = pytest.mark.usefixtures("own_runtime")
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
        put(self, mask, timeout_s)
        if isinstance(mask, Mask):  # behind it: one that comes while it closes is not counted
            masks.append(mask)

    monkeypatch.setattr(Publisher, "put", keep)
    config = Config(
        streams=streams,
        engine=EngineConfig(name=str(engine), threads=replicas, replicas=replicas, precision="fp32"),
        publish=PublishConfig(endpoint="tcp://127.0.0.1:0"),
        refinement=RefinementConfig(priority="normal", max_age_s=60, timeout_s=60),  # others work, too
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
            elif mask.epoch == of[0].epoch:  # later it walks where it has just walked: that is habitual
                assert abs(green[0] - (48 + 6 * (mask.seq - STILL))) <= 16


def test_the_counters_say_how_many_were_unchanged(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(
        tiny_engine,
        monkeypatch,
        gate=gated(clip),
        yard=StreamConfig(source=str(clip), realtime=True, loop=True),
    ) as (
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


def test_a_mask_that_was_too_old_itself_holds_for_the_frames_that_follow(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network is slower than max_age_ms: the first young frame that refers to a mask carries it."""
    original = pipeline.infer

    def slow(engine: Any, frames: Any) -> Any:
        time.sleep(0.3)  # slower is what is tried here
        return original(engine, frames)

    monkeypatch.setattr(pipeline, "infer", slow)
    with (
        running(tiny_engine, monkeypatch, gate=gated(clip, max_age_ms=150.0)) as (daemon, _),
        subscribe(daemon.endpoint, newest=False) as masks,
    ):
        got = [masks.read(LIMIT_S) for _ in range(20)]
        assert daemon.pipeline is not None
        assert daemon.pipeline.stats.of("gate").drops["stale"] > 0
    assert got[0].same_as is None
    assert any(mask.same_as is not None for mask in got)
    assert all(mask.labels.any() for mask in got)  # its red part


SITE = """
[publish]
endpoint = "tcp://127.0.0.1:0"
queue = 10000
[engine]
name = "{folder}/two"
backend = "onnx"
precision = "fp32"
[engines.many]
name = "{folder}/many"
backend = "onnx"
precision = "fp32"
[streams.gate]
source = "{clip}"
realtime = true
loop = true
gate = "motion"
gate_max_s = {max_s}
"""


def test_subscribers_follow_an_exchange_of_networks_and_a_reload(clip: Path, tmp_path: Path) -> None:
    """Every frame in order, with the only label that the network of its mask gives."""
    last = {"of-2": 1, "of-21": 20}
    write_constant_engine(tmp_path / "two", 2)
    write_constant_engine(tmp_path / "many", 21)
    path = tmp_path / "site.toml"
    path.write_text(SITE.format(folder=tmp_path, clip=clip, max_s=5.0))
    daemon = Daemon(load_config(path), path)
    got: list[Mask] = []

    def read_until(done: Callable[[], bool], masks: Subscription) -> None:
        while not done():
            got.append(masks.read(LIMIT_S))

    with in_thread(daemon) as (_, errors):
        assert daemon.ready.wait(LIMIT_S), errors
        with (
            ControlClient(daemon.private_endpoint, timeout_s=LIMIT_S) as client,
            subscribe(daemon.endpoint, newest=False, queue=10_000) as masks,
        ):
            for step in (lambda: client.engine("gate", "many"), lambda: client.engine("gate", "default")):
                count = len(got)
                read_until(lambda count=count: len(got) > count + 20 and got[-1].same_as is not None, masks)
                step()
            read_until(lambda: got[-1].label_set == "of-2" and got[-1].same_as is not None, masks)
            path.write_text(SITE.format(folder=tmp_path, clip=clip, max_s=1e-9))
            assert client.reload().applied == ["streams.gate"]
            count = len(got)
            read_until(lambda: len(got) > count + 40, masks)
            assert sum(mask.same_as is not None for mask in got[-20:]) < 10  # each is older than gate_max_s
            share = client.status().streams["gate"].unchanged_share
    assert errors == []
    assert isinstance(share, float)
    order = [(mask.epoch, mask.seq) for mask in got]
    assert order == sorted(set(order))
    assert [key for key, _ in itertools.groupby(mask.label_set for mask in got)] == ["of-2", "of-21", "of-2"]
    assert all((mask.labels == last[mask.label_set]).all() for mask in got)
    real = {(mask.epoch, mask.seq, mask.label_set) for mask in got if mask.same_as is None}
    assert all((mask.epoch, mask.same_as, mask.label_set) in real for mask in got if mask.same_as is not None)


def test_a_late_subscriber_has_the_labels_at_once_and_one_that_wants_confidence_gets_it(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_engine, monkeypatch, gate=gated(clip, gate_max_s=60.0)) as (daemon, masks):
        wait_for(lambda: bool(masks) and masks[-1].same_as is not None)
        with subscribe(daemon.endpoint) as plain:
            assert plain.read(LIMIT_S).labels.any()
        with subscribe(daemon.endpoint, confidence=True) as confident:
            assert confident.read(LIMIT_S).confidence is not None


def test_a_still_camera_has_a_refined_mask_for_who_asks_for_it(
    tiny_engine: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The frame that the following ones refer to becomes a keyframe."""
    still = tmp_path / "still.mp4"
    write_video(still, [picture(SIZE, 0.3)] * 200, options={"crf": "12"})
    with (
        running(tiny_engine, monkeypatch, gate=gated(still, gate_max_s=60.0)) as (daemon, _),
        subscribe(daemon.endpoint, refined=True, newest=False) as masks,
    ):
        read: list[Mask] = []
        while not (read and read[-1].same_as is not None and any(m.revision == 1 for m in read)):
            read.append(masks.read(LIMIT_S))
    refined = next(mask for mask in read if mask.revision == 1)
    assert refined.epoch * 200 + refined.seq < read[0].epoch * 200 + read[0].seq + 60  # not an interval later
