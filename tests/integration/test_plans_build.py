"""Builds in real processes that are killed, raced, stopped; and a live stream that does not notice them."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from streamseg import Daemon, Mask, subscribe
from streamseg.config import BackendName, Config, EngineConfig, PublishConfig, StreamConfig
from streamseg.errors import EngineError
from streamseg.inference.backends.protocol import Choice
from streamseg.inference.backends.select import choices
from streamseg.inference.plans.build import Build, BuildStopped
from streamseg.inference.plans.cache import PLANS, keep_plan
from streamseg.inference.plans.load import load_choice, load_engine, ready_plan
from streamseg.runtime.folders import cache_folder
from tests.media import draw_clip
from tests.waiting import LIMIT_S, in_time, until

needs_openvino = pytest.mark.skipif(
    importlib.util.find_spec("openvino") is None, reason="needs the extra openvino"
)
needs_aoti = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None or shutil.which("g++") is None,
    reason="needs the extra torch and a C++ compiler",
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("CACHE_DIRECTORY", raising=False)


def chosen(engine: Path, backend: BackendName = "openvino") -> Choice:
    return choices(EngineConfig(name=str(engine), backend=backend, threads=1))[0]


def children_of(pid: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = path.read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(path.parent.name))
    return found


def exists(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    return False


@needs_openvino
def test_a_build_is_kept_with_its_agreement_and_loaded_by_the_next(tiny_engine: Path) -> None:
    choice = chosen(tiny_engine)
    assert ready_plan(choice) is None
    load_choice(choice).close()
    plan = ready_plan(choice)
    assert plan is not None
    agreement = plan.manifest.agreement
    assert agreement is not None
    assert agreement.argmax_percent == 100
    written_ns = plan.path.stat().st_mtime_ns
    load_choice(choice).close()
    assert plan.path.stat().st_mtime_ns == written_ns


@needs_openvino
def test_a_builder_that_is_done_prints_nothing_of_its_own(
    tiny_engine: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    Build(chosen(tiny_engine, "onnx"), prove=True).run()  # its standard error is ours
    assert capfd.readouterr().err == ""


def test_killing_a_build_at_any_moment_leaves_nothing_that_is_loaded(tiny_engine: Path) -> None:
    choice = chosen(tiny_engine)
    begun = time.monotonic()
    Build(choice, again=True).run()
    whole_s = time.monotonic() - begun
    shutil.rmtree(cache_folder(PLANS))
    moments = random.Random(3)
    for _ in range(5):
        build = Build(choice, again=True)
        thread = threading.Thread(target=lambda build=build: suppressed(build.run))
        thread.start()
        time.sleep(moments.uniform(0.3, 1.0) * whole_s)  # the moment is the point here
        build.stop()  # SIGKILL to all its processes
        thread.join()
        plan = ready_plan(choice)
        if plan is not None:  # it was through already: then it is whole
            load_choice(choice).close()
    Build(choice).run()
    load_choice(choice).close()
    folder = cache_folder(PLANS)
    assert not list(folder.glob("*.part*"))


def suppressed(run: Callable[[], None]) -> None:
    with contextlib.suppress(BuildStopped):
        run()


@needs_openvino
@pytest.mark.parametrize("damage", ["cut", "not one of its own"])
def test_a_plan_that_cannot_be_used_is_built_again(tiny_engine: Path, damage: str) -> None:
    choice = chosen(tiny_engine)
    Build(choice).run()
    plan = ready_plan(choice)
    assert plan is not None
    if damage == "cut":
        plan.path.write_bytes(plan.path.read_bytes()[:-100])
        assert ready_plan(choice) is None
    else:  # a whole artifact with a true manifest that OpenVINO refuses
        part = plan.path.with_name(f"{plan.manifest.key}.part.blob")
        part.write_bytes(b"no blob of OpenVINO's")
        keep_plan(
            part, plan.manifest.recipe, engine="tiny", device="cpu", suffix=".blob", took_s=0, agreement=None
        )
    engine = load_choice(choice)
    engine.warm_up((48, 64))
    engine.close()
    again = ready_plan(choice)
    assert again is not None
    assert again.manifest.recipe == plan.manifest.recipe
    assert again.manifest.agreement is not None


@needs_openvino
def test_two_processes_that_want_the_same_plan_build_it_once(tiny_engine: Path) -> None:
    said: list[str] = []
    builds = [Build(chosen(tiny_engine), progress=said.append) for _ in range(3)]
    threads = [threading.Thread(target=build.run) for build in builds]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(text.startswith("built in") for text in said) == 1
    assert said.count("another process has built it") == 2
    assert ready_plan(chosen(tiny_engine)) is not None


@needs_openvino
def test_a_builder_ends_with_whoever_asked_for_it_even_when_that_is_killed(tiny_engine: Path) -> None:
    code = (
        "import sys; from streamseg.config import EngineConfig;"
        "from streamseg.inference.backends.select import choices;"
        "from streamseg.inference.plans.build import Build;"
        "choice = choices(EngineConfig(name=sys.argv[1], backend='openvino'))[0];"
        "print(flush=True); [Build(choice, again=True).run() for _ in range(1000)]"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tiny_engine)], stdout=subprocess.PIPE)
    assert parent.stdout is not None
    parent.stdout.readline()
    (child, *_) = until(lambda: children_of(parent.pid), "a builder started")
    parent.kill()
    parent.wait()
    parent.stdout.close()
    until(lambda: not exists(child), "the builder ended")


@needs_openvino
def test_what_a_builder_cannot_build_is_told_in_one_line(tiny_engine: Path, tmp_path: Path) -> None:
    import hashlib

    folder = tmp_path / "broken"
    shutil.copytree(tiny_engine, folder)
    known = (tiny_engine / "tiny.onnx").read_bytes()
    other = known.replace(b"AveragePool", b"AveragePond")  # an operation that nobody has
    (folder / "tiny.onnx").write_bytes(other)
    text = (folder / "engine.toml").read_text()
    old, new = (hashlib.sha256(graph).hexdigest() for graph in (known, other))
    (folder / "engine.toml").write_text(text.replace(old, new))
    with pytest.raises(EngineError, match="OpenVINO cannot compile it in fp32") as caught:
        load_engine(EngineConfig(name=str(folder), backend="openvino"))
    assert "\n" not in str(caught.value)


# --- the daemon -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def live(engine: EngineConfig, clip: Path) -> Iterator[tuple[Daemon, threading.Thread]]:
    """A daemon with one realtime stream, once it publishes; stopped at the end."""
    config = Config(
        streams={"gate": StreamConfig(source=str(clip), loop=True, realtime=True)},
        engine=engine,
        publish=PublishConfig(endpoint="tcp://127.0.0.1:0", queue=1000),
    )
    daemon = Daemon(config)
    thread = threading.Thread(target=daemon.run)
    thread.start()
    try:
        until(daemon.ready.is_set, "the daemon is ready")
        yield daemon, thread
    finally:
        daemon.stop()
        thread.join(LIMIT_S)
        assert not thread.is_alive()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return draw_clip(tmp_path / "clip.mp4", frames=60)


@pytest.mark.parametrize(
    "backend",
    [
        pytest.param("openvino", marks=needs_openvino),
        pytest.param("aoti", marks=[needs_aoti, pytest.mark.soak, pytest.mark.timeout(600)]),
    ],
)
def test_a_live_stream_goes_over_to_the_built_engine_without_losing_a_mask(
    tiny_engine: Path, clip: Path, backend: BackendName
) -> None:
    engine = EngineConfig(name=str(tiny_engine), backend=backend, threads=1)
    got: list[Mask] = []
    with (
        live(engine, clip) as (daemon, _),
        subscribe(daemon.endpoint, newest=False, snapshot=False, timeout_s=LIMIT_S) as masks,
    ):
        after = 0
        for mask in masks:
            got.append(mask)
            after += mask.engine.endswith(backend)
            if after == 40:
                break
        assert daemon.engine.state == "running"
        assert daemon.engine.id == f"tiny/fp32/{backend}"
    assert got[0].engine == "tiny/fp32/onnx"
    ids = [mask.engine for mask in got]
    assert ids == ["tiny/fp32/onnx"] * (len(ids) - 40) + [f"tiny/fp32/{backend}"] * 40, "once, and not back"
    around = [mask.n for mask in got[-60:]]  # the last 20 before it and 40 after
    assert around == list(range(around[0], around[0] + len(around)))
    assert {mask.label_set for mask in got} == {"tiny-4"}
    assert {mask.run for mask in got} == {got[0].run}


@needs_openvino
def test_the_next_start_serves_on_the_built_engine_at_once(tiny_engine: Path, clip: Path) -> None:
    engine = EngineConfig(name=str(tiny_engine), backend="openvino", threads=1)
    load_engine(engine).close()
    with live(engine, clip) as (daemon, _), subscribe(daemon.endpoint, timeout_s=LIMIT_S) as masks:
        assert next(iter(masks)).engine == "tiny/fp32/openvino"


@needs_aoti
def test_a_daemon_that_builds_stops_within_5_s_and_leaves_no_builder(tiny_engine: Path, clip: Path) -> None:
    engine = EngineConfig(name=str(tiny_engine), backend="aoti", threads=1)

    def stopped_after_s() -> float:
        with live(engine, clip) as (daemon, thread), subscribe(daemon.endpoint, timeout_s=LIMIT_S) as masks:
            assert next(iter(masks)).engine == "tiny/fp32/onnx"
            until(lambda: list((cache_folder(PLANS)).glob("*.lock")), "the build has begun")
            assert daemon.engine.state == "fallback"
            builders = [p for p in children_of(os.getpid()) if b"plans.worker" in cmdline(p)]
            assert builders
            begun = time.monotonic()
            daemon.stop()
            thread.join(LIMIT_S)
            took_s = time.monotonic() - begun
        until(lambda: not any(map(exists, builders)), "the builder ended")
        assert not list((cache_folder(PLANS)).glob("*.json"))
        return took_s

    in_time(5, stopped_after_s)


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@needs_openvino
def test_a_failed_build_is_said_once_and_masks_go_on(
    tiny_engine: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))  # no folder can be made there
    engine = EngineConfig(name=str(tiny_engine), backend="openvino", threads=1)
    with (
        live(engine, clip) as (daemon, _),
        subscribe(daemon.endpoint, newest=False, timeout_s=LIMIT_S) as masks,
    ):
        got = [mask for mask, _ in zip(masks, range(30), strict=False)]
        until(lambda: "failed: " in daemon.engine.text, "the build failed")
        assert daemon.engine.state == "fallback"
    assert {mask.engine for mask in got} == {"tiny/fp32/onnx"}
    told = [r for r in caplog.records if "keeps serving" in r.message]
    assert len(told) == 1
    assert "set XDG_CACHE_HOME" in told[0].message


@needs_openvino
def test_a_builder_killed_from_outside_is_a_failed_build(tiny_engine: Path) -> None:
    build = Build(chosen(tiny_engine), again=True)
    raised: list[BaseException] = []

    def run() -> None:
        try:
            build.run()
        except EngineError as error:
            raised.append(error)

    thread = threading.Thread(target=run)
    before = set(children_of(os.getpid()))
    thread.start()
    (builder,) = until(lambda: set(children_of(os.getpid())) - before, "a builder started")
    os.kill(builder, signal.SIGKILL)
    thread.join(LIMIT_S)
    assert "ended by signal SIGKILL" in str(raised[0])
    assert str(build.log_file) in str(raised[0])


def test_a_manifest_survives_the_way_to_disk_and_back(tiny_engine: Path) -> None:
    choice = chosen(tiny_engine, "onnx")
    assert msgspec.json.decode(msgspec.json.encode(choice.spec), type=type(choice.spec)) == choice.spec
