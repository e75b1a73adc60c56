"""The whole daemon on real files, with real sockets between it and its subscribers."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from streamseg.client import Subscription, subscribe
from streamseg.config import Config, EngineConfig, PublishConfig, StreamConfig
from streamseg.daemon import Daemon
from streamseg.errors import SourceError
from streamseg.inference.backends.onnx import OnnxEngine
from streamseg.inference.infer import infer
from streamseg.inference.plans.load import load_engine
from streamseg.inference.scaling import labels_from_logits
from streamseg.sources.live import frames
from streamseg.types import Mask, Size
from tests.integration.daemons import in_thread
from tests.media import draw_clip
from tests.waiting import LIMIT_S, until


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=30)


@contextmanager
def running(engine: Path, **streams: StreamConfig) -> Iterator[tuple[Daemon, list[BaseException]]]:
    """A daemon in a thread of its own, publishing; its error if it ends with one; stopped at the end."""
    config = Config(
        streams=streams,
        engine=EngineConfig(name=str(engine), threads=1),
        publish=PublishConfig(endpoint="tcp://127.0.0.1:0", queue=10000),
    )
    daemon = Daemon(config)
    with in_thread(daemon) as (_, errors):
        assert daemon.ready.wait(LIMIT_S)
        yield daemon, errors


def red_share(mask: Mask) -> float:
    return float(np.mean(mask.labels == 1))


def read(masks: Subscription, count: int) -> list[Mask]:
    return [masks.read(LIMIT_S) for _ in range(count)]


def test_a_looped_file_is_published_frame_by_frame_in_order(clip: Path, tiny_engine: Path) -> None:
    with (
        running(tiny_engine, gate=StreamConfig(source=str(clip), loop=True)) as (daemon, _),
        subscribe(daemon.endpoint, ["gate"], newest=False, queue=100_000) as masks,
    ):
        got = read(masks, 90)
    published = [m for m in got if m.n >= got[1].n]  # the first may be the snapshot
    assert [m.n for m in published] == list(range(published[0].n, published[0].n + len(published)))
    whole = [m for m in published if m.epoch == published[-31].epoch]
    assert [m.seq for m in whole] == list(range(whole[0].seq, whole[0].seq + len(whole)))
    for mask in published:
        assert mask.labels.shape == (48, 64)
        assert mask.pts_ns == mask.seq * 40_000_000
        assert abs(red_share(mask) - (mask.seq + 1) / 30) < 0.08
        assert set(mask.stage_us) >= {"decode", "wait", "preprocess", "infer", "fuse"}


def test_two_streams_share_the_engine_and_keep_their_own_counts(clip: Path, tiny_engine: Path) -> None:
    streams = {name: StreamConfig(source=str(clip), loop=True, realtime=True) for name in ("gate", "yard")}
    with running(tiny_engine, **streams) as (daemon, _), subscribe(daemon.endpoint) as masks:
        seen: dict[str, list[int]] = {"gate": [], "yard": []}
        while min(map(len, seen.values())) < 10:
            mask = masks.read(LIMIT_S)
            seen[mask.stream].append(mask.n)
    assert all(n == sorted(set(n)) for n in seen.values())


def test_the_label_set_and_the_engine_come_with_the_masks(clip: Path, tiny_engine: Path) -> None:
    with (
        running(tiny_engine, gate=StreamConfig(source=str(clip), loop=True, realtime=True)) as (daemon, _),
        subscribe(daemon.endpoint) as masks,
    ):
        mask = masks.read(LIMIT_S)
        assert masks.label_set(mask.label_set, LIMIT_S).names == ("other", "red", "green", "blue")
    assert mask.engine == "tiny/fp32/onnx"


def test_confidence_is_computed_for_those_who_ask(clip: Path, tiny_engine: Path) -> None:
    with (
        running(tiny_engine, gate=StreamConfig(source=str(clip), loop=True, realtime=True)) as (daemon, _),
        subscribe(daemon.endpoint, confidence=True, snapshot=False) as masks,
    ):
        mask = masks.read(LIMIT_S)
    assert mask.confidence is not None
    assert mask.confidence.shape == mask.labels.shape
    assert mask.confidence.min() >= 255 // 4


def test_masks_may_have_the_size_of_the_networks_input(clip: Path, tiny_engine: Path, tmp_path: Path) -> None:
    wide = draw_clip(tmp_path / "wide.mp4", frames=5, size=(96, 256))
    stream = StreamConfig(source=str(wide), loop=True, mask_size="input")
    with running(tiny_engine, gate=stream) as (daemon, _), subscribe(daemon.endpoint) as masks:
        assert masks.read(LIMIT_S).size == (32, 88)


def test_masks_may_have_a_size_of_their_own_which_changes_while_their_stream_plays(
    tmp_path: Path, tiny_engine: Path
) -> None:
    """Labels are exact at each size: as from the logits of the very frame, not from another mask."""
    wide = draw_clip(tmp_path / "wide.mp4", frames=5, size=(96, 256))
    engine = load_engine(EngineConfig(name=str(tiny_engine), threads=1))
    played = frames(StreamConfig(source=str(wide)), "alone", threading.Event(), lambda event: None)
    logits = [infer(engine, [frame])[0].array for frame in played]
    engine.close()
    stream = StreamConfig(source=str(wide), loop=True, realtime=True, mask_size=(61, 203))
    with running(tiny_engine, gate=stream) as (daemon, _), subscribe(daemon.endpoint) as masks:
        assert daemon.pipeline is not None
        sizes: dict[Any, Size] = {(61, 203): (61, 203), (1, 7): (1, 7), "input": (32, 88), "frame": (96, 256)}
        for wanted, size in sizes.items():
            changed = msgspec.structs.replace(stream, mask_size=wanted)
            assert not daemon.pipeline.streams.change("gate", changed), "its source stays open"
            while (mask := masks.read(LIMIT_S)).size != size:
                pass
            np.testing.assert_array_equal(mask.labels, labels_from_logits(logits[mask.seq % 5], size)[0])


def test_a_file_that_ends_ends_the_daemon_without_error(clip: Path, tiny_engine: Path) -> None:
    with running(tiny_engine, gate=StreamConfig(source=str(clip))) as (daemon, errors):
        assert daemon.pipeline is not None
        assert daemon.pipeline.over.wait(LIMIT_S)
        stats = daemon.pipeline.stats.of("gate")
    assert errors == []
    assert (stats.decoded, stats.published) == (30, 30)


def test_one_missing_file_of_two_costs_the_other_nothing(clip: Path, tiny_engine: Path) -> None:
    streams = {"gate": StreamConfig(source=str(clip)), "gone": StreamConfig(source="/nowhere/x.mp4")}
    with running(tiny_engine, **streams) as (daemon, errors):
        assert daemon.pipeline is not None
        assert daemon.pipeline.over.wait(LIMIT_S)
        assert daemon.pipeline.stats.of("gate").published == 30
    assert isinstance(errors[0], SourceError)


def fail_at(call: int, original: Callable[..., Any]) -> Callable[..., Any]:
    calls = iter(range(1_000_000))

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            raise RuntimeError("broken on purpose")
        return original(*args, **kwargs)

    return wrapped


@pytest.mark.parametrize("call", [0, 1, 7])
@pytest.mark.parametrize("stage", ["live.pipeline.infer", "live.pipeline.labels_of"])
def test_a_stage_that_fails_at_any_frame_ends_the_process_and_never_hangs(
    stage: str, call: int, clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    room, _, name = stage.rpartition(".")
    module = importlib.import_module(f"streamseg.{room}")
    monkeypatch.setattr(module, name, fail_at(call, getattr(module, name)))
    with running(tiny_engine, gate=StreamConfig(source=str(clip), loop=True)) as (daemon, errors):
        assert daemon.pipeline is not None
        assert daemon.pipeline.over.wait(LIMIT_S)
    assert "broken on purpose" in str(errors[0])


def test_an_engine_that_fails_is_named(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(tiny_engine, gate=StreamConfig(source=str(clip), loop=True)) as (daemon, errors):
        assert daemon.pipeline is not None
        monkeypatch.setattr(OnnxEngine, "__call__", fail_at(0, OnnxEngine.__call__))
        assert daemon.pipeline.over.wait(LIMIT_S)
    assert "infer" in str(errors[0]) or "broken on purpose" in str(errors[0])


def test_no_thread_is_left_behind(clip: Path, tiny_engine: Path) -> None:
    before = set(threading.enumerate())
    for _ in range(3):
        with (
            running(tiny_engine, gate=StreamConfig(source=str(clip), loop=True)) as (daemon, _),
            subscribe(daemon.endpoint) as masks,
        ):
            masks.read(LIMIT_S)
    assert {t.name for t in set(threading.enumerate()) - before} == set()


def test_a_mask_older_than_its_limit_is_counted_and_not_published(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import streamseg.live.pipeline as pipeline

    original = pipeline.infer
    slow = threading.Event()

    def infer(*args: Any) -> Any:
        scores = original(*args)
        slow.wait(0.08)  # longer than the limit
        return scores

    monkeypatch.setattr(pipeline, "infer", infer)
    stream = StreamConfig(source=str(clip), max_age_ms=50)
    with running(tiny_engine, gate=stream) as (daemon, _):
        assert daemon.pipeline is not None
        assert daemon.pipeline.over.wait(LIMIT_S)
        stats = daemon.pipeline.stats.of("gate")
    assert stats.published == 0
    assert stats.drops["stale"] == 30


def test_streams_that_are_too_many_are_said_once(
    clip: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("streamseg.daemon.start_load.STAGES_AFTER_S", 0.05)
    looked: list[tuple[object, ...]] = []

    def too_many(*given: object) -> str:
        looked.append(given)
        return "streams: 1 at 25 masks/s are more than this machine holds"

    monkeypatch.setattr("streamseg.daemon.start_load.too_many", too_many)
    with running(tiny_engine, gate=StreamConfig(source=str(clip), loop=True, realtime=True)) as (daemon, _):
        until(lambda: looked)
        network = daemon._engines.network_of("")
    assert network is not None
    assert 0 < network[0] < 5000  # CPU ms of a picture
    lines = [r.getMessage() for r in caplog.records if "more than this machine holds" in r.getMessage()]
    assert lines == ["streams: 1 at 25 masks/s are more than this machine holds"]
