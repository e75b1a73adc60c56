"""SIGTERM at any moment: the process ends within 5 s, without error. What lies outside, in one line each."""

from __future__ import annotations

import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
import zmq

from tests.integration.children import ROOT
from tests.integration.daemons import Lines, environment
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, in_time, until

WITHIN_S = 5.0
SLOW_ENGINE = """
import sys, time
import streamseg.daemon.loading as loading
def start_engines(config):
    print("loading for an hour", file=sys.stderr, flush=True)
    time.sleep(3600)
loading.start_engines = start_engines
from streamseg.cli import main
main()
"""
SLOW_INFER = """
import time
import streamseg.live.pipeline as pipeline
infer = pipeline.infer
def slow(*args):
    time.sleep(0.5)
    return infer(*args)
pipeline.infer = slow
from streamseg.cli import main
main()
"""

HANGUP_AT_THE_IMPORTS = """
import os, signal, sys
class Import:
    def find_spec(self, name, path=None, target=None):
        if name == "click":
            os.kill(os.getpid(), signal.SIGHUP)
sys.meta_path.insert(0, Import())
from streamseg.__main__ import main
main()
"""


def site(folder: Path, engine: Path, streams: str, more: str = "") -> Path:
    path = folder / "site.toml"
    path.write_text(
        f'[publish]\nendpoint = "tcp://127.0.0.1:0"\n[engine]\nname = "{engine}"\nthreads = 1\n'
        f'backend = "onnx"\n{more}{streams}'
    )
    return path


def stopped(process: Lines) -> float:
    """Send SIGTERM; the seconds until it ended, without an error."""
    begun_s = time.monotonic()
    process.process.send_signal(signal.SIGTERM)
    assert process.process.wait(LIMIT_S) == 0, process.lines
    return time.monotonic() - begun_s


def streamseg(*words: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "streamseg", *words]


def python(code: str, *words: str | Path) -> list[str | Path]:
    return [sys.executable, "-c", code, *words]


@pytest.mark.alone
def test_while_the_engine_loads(tmp_path: Path, tiny_engine: Path) -> None:
    config = site(tmp_path, tiny_engine, '[streams.gate]\nsource = "demo:"\n')

    def took_s() -> float:
        with Lines(python(SLOW_ENGINE, "run", config), errors=True) as process:
            process.wait("loading for an hour")
            return stopped(process)

    in_time(WITHIN_S, took_s)


@pytest.mark.alone
def test_while_cameras_are_being_connected(tmp_path: Path, tiny_engine: Path) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=16) as silent:
        port = silent.getsockname()[1]
        streams = "".join(
            f'[streams.{kind}]\nsource = "{kind}://127.0.0.1:{port}/x"\ntimeout_s = 60\n'
            for kind in ("rtsp", "http", "rtmp")
        )
        config = site(tmp_path, tiny_engine, streams + '[streams.away]\nsource = "rtsp://192.0.2.1/x"\n')
        silent.settimeout(LIMIT_S)

        def took_s() -> float:
            with Lines(streamseg("run", config), errors=True) as process, ExitStack() as held:
                process.wait("publishing on")
                for _ in range(3):
                    held.enter_context(silent.accept()[0])
                return stopped(process)

        in_time(WITHIN_S, took_s)


@pytest.mark.alone
@pytest.mark.parametrize("replicas", [1, 3])
def test_with_a_full_pipeline_a_busy_crf_and_a_subscriber_that_does_not_read(
    replicas: int, tmp_path: Path, tiny_engine: Path
) -> None:
    clip = draw_clip(tmp_path / "red.mp4", frames=30)
    streams = "".join(f'[streams.s{i}]\nsource = "{clip}"\nloop = true\n' for i in range(4))
    config = site(tmp_path, tiny_engine, streams, f"replicas = {replicas}\n[refinement]\nlevel = 'live'\n")

    def took_s() -> float:
        with (
            Lines(python(SLOW_INFER, "run", config), errors=True) as process,
            zmq.Context() as context,
            context.socket(zmq.SUB) as stalled,
        ):
            stalled.setsockopt(zmq.LINGER, 0)
            stalled.setsockopt(zmq.RCVHWM, 1)
            stalled.subscribe(b"")
            stalled.connect(process.wait("publishing on").split()[-1])
            assert stalled.poll(LIMIT_S * 1000)
            took_s = stopped(process)
        late = any("did not stop in time" in line for line in process.lines)
        return took_s if not late else max(took_s, WITHIN_S)

    in_time(WITHIN_S, took_s)


@pytest.mark.parametrize("source", ["/nonexistent.mp4", "rtsp://192.0.2.1:1/x"])
def test_a_stream_that_failed_before_does_not_make_the_end_that_was_asked_for_a_failure(
    tmp_path: Path, tiny_engine: Path, source: str
) -> None:
    streams = (
        '[streams.gate]\nsource = "demo:"\nrealtime = true\nloop = true\n'
        f'[streams.gone]\nsource = "{source}"\nretry_at_start = false\ntimeout_s = 1\n'
    )
    with Lines(streamseg("run", site(tmp_path, tiny_engine, streams)), errors=True) as process:
        process.wait("publishing on")
        process.wait("ERROR gone: ")
        stopped(process)


@pytest.mark.alone
def test_a_source_that_nobody_writes_does_not_hold_the_end_up(tmp_path: Path, tiny_engine: Path) -> None:
    """A pipe is opened inside FFmpeg, which waits there for a writer and cannot be woken."""
    os.mkfifo(tmp_path / "camera.ts")
    config = site(tmp_path, tiny_engine, f'[streams.gate]\nsource = "{tmp_path}/camera.ts"\n')

    def took_s() -> float:
        with Lines(streamseg("run", config), errors=True) as process:
            process.wait("publishing on")
            return stopped(process)

    in_time(WITHIN_S, took_s)


def test_a_hangup_while_the_daemon_starts_is_a_reload_once_it_runs(tmp_path: Path, tiny_engine: Path) -> None:
    config = site(tmp_path, tiny_engine, '[streams.gate]\nsource = "demo:"\nrealtime = true\nloop = true\n')
    with Lines(python(HANGUP_AT_THE_IMPORTS, "run", config), errors=True) as process:
        process.wait("reload: nothing has changed")
        stopped(process)
    at = [line.partition("INFO")[2].strip() for line in process.lines]
    assert next(i for i, line in enumerate(at) if line.startswith("publishing on")) < at.index(
        "reload: nothing has changed"
    )


def test_sigterm_while_the_modules_are_imported_is_a_clean_end() -> None:
    code, said = ended(python(HANGUP_AT_THE_IMPORTS.replace("SIGHUP", "SIGTERM"), "run", "site.toml"))
    assert (code, said) == (0, [])


def ended(words: Sequence[str | Path], limit: int | None = None) -> tuple[int, list[str]]:
    """Run a command to its end; its exit code, and what it said of errors. limit: of open files."""

    def before() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))

    done = subprocess.run(
        [str(word) for word in words], cwd=ROOT, env=environment(), capture_output=True, text=True,
        timeout=LIMIT_S, check=False, preexec_fn=before,
    )  # fmt: skip
    return done.returncode, [line for line in done.stderr.splitlines() if line.startswith("streamseg: ")]


@pytest.mark.parametrize("limit", [12, 16])
def test_too_few_file_descriptors_end_the_start_with_one_line(
    tmp_path: Path, tiny_engine: Path, limit: int
) -> None:
    config = site(tmp_path, tiny_engine, '[streams.gate]\nsource = "demo:"\n')
    code, said = ended([sys.executable, "-m", "streamseg", "run", config], limit)
    assert code == 1  # before libzmq looks for some, and aborts
    assert len(said) == 1, said
    assert said[0].startswith("streamseg: open files: ")
    assert f" connections, {limit} allowed; " in said[0]


@pytest.mark.parametrize("section", ["publish", "control"])
def test_a_port_that_is_taken_ends_the_start_with_one_line(
    tmp_path: Path, tiny_engine: Path, section: str
) -> None:
    port = free_port()
    config = site(tmp_path, tiny_engine, '[streams.gate]\nsource = "demo:"\n', '[control]\nendpoint = ""\n')
    text = config.read_text()
    old = "tcp://127.0.0.1:0" if section == "publish" else '[control]\nendpoint = "'
    new = f"tcp://127.0.0.1:{port}"
    config.write_text(text.replace(old, new if section == "publish" else old + new))
    with socket.create_server(("127.0.0.1", port)):
        code, said = ended([sys.executable, "-m", "streamseg", "run", config])
    assert code == 1
    assert said == [
        f"streamseg: tcp://127.0.0.1:{port}: is in use; stop the other process or choose another port"
    ]


def test_a_full_disk_is_named_when_a_snapshot_is_saved(tmp_path: Path, tiny_engine: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    clip = draw_clip(tmp_path / "red.mp4", frames=5)
    config = site(tmp_path, tiny_engine, f'[streams.gate]\nsource = "{clip}"\nloop = true\nrealtime = true\n')
    with Lines([sys.executable, "-m", "streamseg", "run", config], errors=True) as process:
        process.wait("publishing on")
        ctl = [sys.executable, "-m", "streamseg", "ctl", "--config", config, "snapshot", "gate"]
        tried: list[tuple[int, list[str]]] = []

        def shown() -> bool:
            tried.append(ended([*ctl, "--out", "/dev/full"]))
            return "there has been no mask yet" not in str(tried[-1])

        until(shown, "a mask")
    assert tried[-1] == (1, ["streamseg: /dev/full: cannot be written (No space left on device)"])
