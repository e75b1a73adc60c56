"""Any stage failing at any frame: the process ends, or goes on as designed, and never hangs."""

from __future__ import annotations

import importlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from streamseg.client import subscribe
from streamseg.client.control import ControlClient
from streamseg.config import Config, EngineConfig, PublishConfig, RefinementConfig, StreamConfig
from streamseg.daemon import Daemon
from streamseg.errors import ControlError, StreamsegError
from tests.integration.daemons import in_thread
from tests.media import draw_clip
from tests.waiting import LIMIT_S, until


@dataclass(frozen=True)
class Broken:
    """A function of a stage, and what its failure must lead to."""

    place: str
    ends: bool  # the process; else the stage goes on
    refined: bool = False  # it is only called where masks are refined

    def __str__(self) -> str:
        return self.place


ENDS = [
    Broken("streamseg.live.pipeline:infer", True),
    Broken("streamseg.inference.backends.onnx:OnnxEngine.__call__", True),
    Broken("streamseg.live.pipeline:labels_of", True),
    Broken("streamseg.refinement.streams:Fusion.step", True, refined=True),
    Broken("streamseg.refinement.crf_step:Keyframe.request", True, refined=True),
    Broken("streamseg.publish.topics:encode_payload", True),
    Broken("streamseg.publish.topics:LastValueCache.remember", True),
    Broken("streamseg.net.server:Server._read", True),
    Broken("streamseg.outputs.previews:preview_of", True),
    Broken("streamseg.daemon.control:ControlServer._handle", True),
    Broken("streamseg.daemon.control:parse_request", False),
    Broken("streamseg.daemon:Daemon.status", False),
]
CALLS = [2, pytest.param(0, marks=pytest.mark.slow)]  # amid others; the very first


def fail_at(call: int, original: Callable[..., Any], failed: threading.Event) -> Callable[..., Any]:
    calls = itertools.count()

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if next(calls) == call:
            failed.set()
            raise RuntimeError("broken on purpose")
        return original(*args, **kwargs)

    return wrapped


def break_at(monkeypatch: pytest.MonkeyPatch, place: str, call: int) -> threading.Event:
    """Have the function fail at its call of this number; set when it did."""
    module, _, name = place.partition(":")
    holder: Any = importlib.import_module(module)
    *above, name = name.split(".")
    for part in above:
        holder = getattr(holder, part)
    failed = threading.Event()
    monkeypatch.setattr(holder, name, fail_at(call, getattr(holder, name), failed))
    return failed


@contextmanager
def running(config: Config) -> Iterator[tuple[Daemon, threading.Thread, list[BaseException]]]:
    daemon = Daemon(config)
    with in_thread(daemon) as (thread, errors):
        yield daemon, thread, errors


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=30)


@pytest.fixture
def config(clip: Path, tiny_engine: Path) -> Config:
    return Config(
        streams={
            name: StreamConfig(source=str(clip), loop=True, realtime=True, max_fps=20)
            for name in ("gate", "yard")
        },
        engine=EngineConfig(name=str(tiny_engine), threads=1, backend="onnx"),
        publish=PublishConfig(endpoint="tcp://127.0.0.1:0"),
    )


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("broken", ENDS, ids=str)
def test_it_ends_with_the_reason_or_goes_on(
    broken: Broken, call: int, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    if broken.refined:
        refinement = RefinementConfig(level="live", every=2, priority="normal")
        config = msgspec.structs.replace(config, refinement=refinement)
    with running(config) as (daemon, thread, errors):
        deadline = time.monotonic() + LIMIT_S
        assert daemon.ready.wait(LIMIT_S), errors
        with (
            subscribe(daemon.endpoint, pictures=True) as masks,
            ControlClient(daemon.private_endpoint, timeout_s=0.5) as client,
        ):
            failed = break_at(monkeypatch, broken.place, call)
            while thread.is_alive() if broken.ends else not failed.is_set():
                assert time.monotonic() < deadline, "neither ended nor failed"
                with suppress(ControlError):
                    client.status()
                with suppress(TimeoutError, StreamsegError):
                    masks.read(0.02)
            assert failed.is_set()
            if broken.ends:
                assert "broken on purpose" in str(errors[0])
            else:
                with ControlClient(daemon.private_endpoint, timeout_s=LIMIT_S) as patient:
                    assert patient.status().state == "running"
                assert masks.read(LIMIT_S).stream in config.streams


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(
    "place", ["streamseg.sources.live:FrameMaker.frame", "streamseg.sources.frames:Turning.of"]
)
def test_a_decoder_that_fails_costs_its_own_stream_and_no_other(
    place: str, call: int, config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed = break_at(monkeypatch, place, call)
    with running(config) as (daemon, thread, errors):
        assert daemon.ready.wait(LIMIT_S), errors
        with (
            subscribe(daemon.endpoint) as masks,
            ControlClient(daemon.private_endpoint, timeout_s=LIMIT_S) as client,
        ):
            assert failed.wait(LIMIT_S)
            broken = until(lambda: [s for s in client.status().streams.values() if s.state == "failed"])
            assert "broken on purpose" in broken[0].error
            n = next(mask.n for mask in masks if mask.stream != broken[0].stream)
            assert next(mask for mask in masks if mask.n > n + 3).stream != broken[0].stream
            client.resume(broken[0].stream)  # and it plays again
            assert next(mask for mask in masks if mask.stream == broken[0].stream)
        assert thread.is_alive()
