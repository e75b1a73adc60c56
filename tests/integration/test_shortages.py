"""What a running daemon does when the machine has no more of something: one line, and on it goes or ends."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from streamseg.client import subscribe, subscribe_events
from streamseg.config import load_config
from streamseg.daemon.state import StateFolder
from tests.integration.children import ROOT
from tests.integration.daemons import Lines, environment, run_daemon
from tests.integration.test_mistakes import ROWS, expected
from tests.integration.test_stages_fail import running
from tests.media import draw_clip
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

STREAMSEG = (sys.executable, "-m", "streamseg")
# Root without the right to pass over permissions is as an ordinary user.
NO_RIGHTS = ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()


def site(folder: Path, engine: Path, more: str = "", endpoint: str = "") -> Path:
    """A configuration with one live stream."""
    clip = draw_clip(folder / "red.mp4", frames=20)
    path = folder / "site.toml"
    path.write_text(
        f'[streams.gate]\nsource = "{clip}"\nrealtime = true\nloop = true\nmax_fps = 20\nmax_age_ms = 2000\n'
        f'[engine]\nname = "{engine}"\nthreads = 1\n'
        f'[publish]\nendpoint = "{endpoint or f"tcp://127.0.0.1:{free_port()}"}"\n{more}'
    )
    return path


def run_in(folder: Path, *command: str | Path) -> tuple[list[str], int]:
    """What a command says, and its exit code."""
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True, text=True, timeout=LIMIT_S, check=False, cwd=folder, env=environment(),
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.stderr.splitlines(), done.returncode


def assert_told(name: str, lines: list[str], code: int | None) -> None:
    """A row of operating.md's tables is among the lines, once."""
    words = [line.removeprefix("streamseg: ") for line in lines]
    words = [word.partition(" ")[2].strip() if word.startswith(("WARN", "INFO")) else word for word in words]
    assert sum(bool(expected(name).fullmatch(word)) for word in words) == 1, lines
    assert ROWS[name][1] == ("goes on" if code is None else str(code))


@contextlib.contextmanager
def disk(folder: Path, size: str = "64k") -> Iterator[Path]:
    """A small disk of its own; full() fills it."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def endpoint_of(daemon: Lines) -> str:
    return daemon.wait("publishing on").split()[-1]


def test_a_log_on_a_full_disk_costs_no_mask(tmp_path: Path, tiny_engine: Path) -> None:
    with disk(tmp_path / "disk") as full:
        port = free_port()
        config = site(tmp_path, tiny_engine, endpoint=f"tcp://127.0.0.1:{port}")
        log = (full / "log").open("wb")
        fill(full)
        with log:
            daemon = subprocess.Popen(
                [sys.executable, "-m", "streamseg", "run", config], stderr=log, cwd=ROOT, env=environment()
            )
        try:
            with subscribe(f"tcp://127.0.0.1:{port}", newest=False, timeout_s=LIMIT_S) as masks:
                first = masks.read()
                assert next(mask for mask in masks if mask.n > first.n + 20).stream == "gate"
                assert masks.stats.lost == 0
            daemon.send_signal(signal.SIGTERM)
            # 120 is Python's own, when standard error cannot be written.
            assert daemon.wait(LIMIT_S) in (0, 120)
        finally:
            daemon.kill()
            daemon.wait()


def test_a_socket_on_a_full_disk_is_told(tmp_path: Path, tiny_engine: Path) -> None:
    with disk(tmp_path / "disk", "64k,nr_inodes=2") as full:
        fill(full)
        config = site(tmp_path, tiny_engine, endpoint=f"ipc://{full}/masks")
        lines, code = run_in(tmp_path, *STREAMSEG, "run", config)
    assert_told("a socket's folder on a full disk", lines, code)


def test_a_plan_on_a_full_disk_is_told_and_masks_go_on(tmp_path: Path, tiny_engine: Path) -> None:
    with disk(tmp_path / "disk", "64k,nr_inodes=2") as full:
        fill(full)
        building(tmp_path, tiny_engine, "a plan on a full disk", "env", f"XDG_CACHE_HOME={full}")


def test_plans_that_may_not_be_kept_are_told_and_masks_go_on(tmp_path: Path, tiny_engine: Path) -> None:
    locked = locked_folder(tmp_path)
    building(tmp_path, tiny_engine, "a plan in a folder of others", "env", f"XDG_CACHE_HOME={locked}")


EVENT = '[streams.gate.events.full]\nclasses = ["red"]\nabove = 0.5\n'


Eventful = Callable[[Path, str], None]


@pytest.fixture
def eventful(
    tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> Eventful:
    """Runs a daemon with this state folder, which says the row's line once and sends masks and events."""

    def run(state: Path, row: str) -> None:
        monkeypatch.setenv("STATE_DIRECTORY", str(state))
        config = site(tmp_path, tiny_engine)
        config.write_text(EVENT + config.read_text())
        with running(load_config(config)) as (daemon, _, errors):
            assert daemon.ready.wait(LIMIT_S), errors
            with (
                subscribe(daemon.endpoint, timeout_s=LIMIT_S) as masks,
                subscribe_events(daemon.endpoint, since={}) as events,
            ):
                found = [events.read(LIMIT_S) for _ in range(4)]
                assert masks.read().stream == "gate"
                assert events.stats.lost == 0
        assert [event.state for event in found] == ["begin", "end"] * 2
        assert_told(row, [f"WARN {line}" for line in caplog.messages], None)

    return run


def test_events_on_a_full_disk_go_on(tmp_path: Path, eventful: Eventful) -> None:
    with disk(tmp_path / "disk") as full:
        fill(full)
        eventful(full, "events on a full disk")


def test_events_without_a_state_folder_go_on(tmp_path: Path, eventful: Eventful) -> None:
    (tmp_path / "file").write_text("")
    eventful(tmp_path / "file/state", "a state folder that cannot be written")


def test_events_beside_another_daemon_of_the_same_folder_go_on(tmp_path: Path, eventful: Eventful) -> None:
    state = StateFolder(tmp_path / "x.toml", [])
    state.path = tmp_path / "state"
    with contextlib.closing(state):
        state.hold()
        eventful(tmp_path / "state", "a state folder of another daemon")


def test_events_after_a_damaged_journal_go_on(tmp_path: Path, eventful: Eventful) -> None:
    journal = tmp_path / "state/events.journal"
    journal.parent.mkdir()
    journal.write_bytes(b"damaged\n")
    eventful(journal.parent, "a damaged journal of events")
    assert (tmp_path / "state/events.journal.damaged").read_bytes() == b"damaged\n"


def building(folder: Path, engine: Path, row: str, *env: str) -> None:
    """A daemon that wants to build a plan says that it cannot, and serves."""
    config = site(folder, engine)
    config.write_text(config.read_text().replace("threads = 1\n", 'threads = 1\nbackend = "aoti"\n'))
    with Lines([*NO_RIGHTS, *env, *STREAMSEG, "run", config], errors=True) as daemon:
        endpoint = endpoint_of(daemon)
        daemon.wait("cannot write plans")
        assert_told(row, daemon.lines, None)
        with subscribe(endpoint, timeout_s=LIMIT_S) as masks:
            assert masks.read().stream == "gate"


def locked_folder(folder: Path) -> Path:
    if NO_RIGHTS and shutil.which(NO_RIGHTS[0]) is None:
        pytest.skip("needs setpriv (package util-linux)")
    locked = folder / "locked"
    locked.mkdir(mode=0o500)
    return locked


def test_a_socket_in_a_folder_of_others_is_told(tmp_path: Path, tiny_engine: Path) -> None:
    config = site(tmp_path, tiny_engine, endpoint=f"ipc://{locked_folder(tmp_path)}/masks")
    lines, code = run_in(tmp_path, *NO_RIGHTS, *STREAMSEG, "run", config)
    assert_told("a socket in a folder of others", lines, code)


def test_without_a_folder_for_the_control_socket_it_runs_without_control(
    tmp_path: Path, tiny_engine: Path
) -> None:
    env = ("env", f"XDG_RUNTIME_DIR={locked_folder(tmp_path)}")
    with Lines([*NO_RIGHTS, *env, *STREAMSEG, "run", site(tmp_path, tiny_engine)], errors=True) as daemon:
        with subscribe(endpoint_of(daemon), timeout_s=LIMIT_S) as masks:
            assert masks.read().stream == "gate"
        assert_told("a folder of others for the control socket", daemon.lines, None)


def test_a_port_that_is_taken_when_the_file_is_read_again_changes_nothing(
    tmp_path: Path, tiny_engine: Path
) -> None:
    config = site(tmp_path, tiny_engine)
    with socket.create_server(("127.0.0.1", 0)) as taken, run_daemon(config) as daemon:
        endpoint = endpoint_of(daemon)
        with subscribe(endpoint, newest=False, timeout_s=LIMIT_S) as masks:
            masks.read()
            text = config.read_text().replace(endpoint, f"tcp://127.0.0.1:{taken.getsockname()[1]}")
            config.write_text(text)
            daemon.process.send_signal(signal.SIGHUP)
            daemon.wait("publish.endpoint: takes effect when the daemon is restarted")
            last = masks.read().n
            assert next(mask for mask in masks if mask.n > last + 5)
            assert masks.stats.lost == 0


@pytest.mark.parametrize("limit", [30, 60])
def test_too_few_open_files_end_the_start_with_what_is_needed(
    tmp_path: Path, tiny_engine: Path, limit: int
) -> None:
    limited = ("prlimit", f"--nofile={limit}:{limit}")
    lines, code = run_in(tmp_path, *limited, *STREAMSEG, "run", site(tmp_path, tiny_engine))
    assert_told("too few open files allowed", lines, code)


def test_a_crowd_of_connections_costs_who_is_connected_nothing(tmp_path: Path, tiny_engine: Path) -> None:
    config = site(tmp_path, tiny_engine)
    with (
        Lines(["prlimit", "--nofile=64:120", *STREAMSEG, "run", config], errors=True) as daemon,
        contextlib.ExitStack() as owned,
    ):
        endpoint = endpoint_of(daemon)  # the soft limit has been raised to the hard one
        assert_told("fewer open files allowed than connections", daemon.lines, None)
        with subscribe(endpoint, newest=False, timeout_s=LIMIT_S) as masks:
            first = masks.read()
            for _ in range(300):
                owned.enter_context(connected(endpoint))
            last = next(mask for mask in masks if mask.n > first.n + 40)
            assert (last.stream, masks.stats.lost) == ("gate", 0)
        until(
            lambda: any(
                re.search("disconnected a client|refused a connection", line) for line in daemon.lines
            ),
            "it was not told",
        )


def test_when_no_file_is_left_it_goes_on_and_takes_in_again_what_came_meanwhile(
    tmp_path: Path, tiny_engine: Path
) -> None:
    port = free_port()
    away = f'[streams.yard]\nsource = "http://127.0.0.1:{port}/red.mp4"\nloop = true\ntimeout_s = 5\n'
    config = site(tmp_path, tiny_engine, away)
    with run_daemon(config) as daemon, contextlib.ExitStack() as owned:
        endpoint, pid = endpoint_of(daemon), daemon.process.pid
        with subscribe(endpoint, ["gate"], newest=False, timeout_s=LIMIT_S) as masks:
            first = masks.read()
            before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
            highest = max(int(name) for name in os.listdir(f"/proc/{pid}/fd"))
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (highest + 1, before[1]))

            def told(text: str) -> bool:
                if len(held) < 200:  # into what is free below
                    held.append(owned.enter_context(connected(endpoint)))
                return any(text in line for line in daemon.lines)

            held: list[socket.socket] = []
            until(lambda: told("refused a connection"), "no connection was refused")
            until(lambda: told("(no file descriptor is left"), "the camera was not told")
            # libzmq spins until the guard looks at its sockets, every half second
            until(lambda: cpu_share(pid) < 0.5, "it spins")
            assert next(mask for mask in masks if mask.n > first.n + 20)
            owned.close()
            resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
            owned.enter_context(files_behind_http(tmp_path, port))
            with subscribe(endpoint, ["yard"], timeout_s=LIMIT_S) as late:
                assert late.read().stream == "yard"
            assert next(mask for mask in masks if mask.n > first.n + 40)
            assert masks.stats.lost == 0
        for row, words in (("connection", "refused a connection"), ("camera", "(no file descriptor")):
            line = next(line for line in daemon.lines if words in line)
            assert_told(f"no open file left for a {row}", [line], None)


def connected(endpoint: str) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(endpoint.rpartition(":")[2])), timeout=LIMIT_S)


def cpu_share(pid: int, over_s: float = 1.0) -> float:
    """The share of one core that a process takes."""
    process = psutil.Process(pid)
    process.cpu_percent()
    time.sleep(over_s)  # what is measured
    share: float = process.cpu_percent() / 100
    return share


@contextlib.contextmanager
def files_behind_http(folder: Path, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "-d", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            yield
        finally:
            server.kill()


def test_setting_the_clock_is_told_and_costs_no_mask(
    tmp_path: Path, tiny_engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    set_by_s = 0.0
    now_s, now_ns = time.time, time.time_ns
    monkeypatch.setattr(time, "time", lambda: now_s() + set_by_s)
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + int(set_by_s * 1e9))
    caplog.set_level("INFO", "streamseg")
    with running(load_config(site(tmp_path, tiny_engine))) as (daemon, _, errors):
        assert daemon.ready.wait(LIMIT_S), errors
        with subscribe(daemon.endpoint, newest=False, timeout_s=LIMIT_S) as masks:
            for step_s, words in ((3600.0, "set forward by 3600.0 s"), (-3600.0, "set back by 7200.0 s")):
                set_by_s = step_s
                n = masks.read().n
                assert next(mask for mask in masks if mask.n > n + 15).stream == "gate"
                until(lambda words=words: words in caplog.text, f"no {words}")
            assert masks.stats.lost == 0
            assert daemon.pipeline is not None
            assert daemon.pipeline.stats.of("gate").drops["stale"] == 0
    assert_told("the machine's clock is set", [f"WARN {line}" for line in caplog.messages[:-1]], None)


MEMORY = """
import sys
from streamseg.inference.backends.onnx import OnnxEngine
import streamseg.daemon.loading as loading
{error}
calls, original = 0, OnnxEngine.__call__
def run(self, batch):
    global calls
    calls += 1
    if calls > {after}:
        raise error
    return original(self, batch)
OnnxEngine.__call__ = run
from streamseg.cli import main
main()
"""
GPU = """
import torch
error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\\nGPU 0 has 8 GiB")
"""


@pytest.mark.parametrize("after", [0, 1, 5], ids=["at the first run", "at the first batch", "later"])
@pytest.mark.parametrize(
    ("row", "error"),
    [
        ("the GPU is out of memory", GPU),
        ("the GPU is out of memory", 'error = RuntimeError("CUDA error: out of memory")'),
        ("the machine is out of memory", "error = MemoryError()"),
    ],
    ids=["torch", "CUDA", "CPU"],
)
def test_without_memory_it_ends_with_a_line_for_systemd_to_start_it_again(
    tmp_path: Path, tiny_engine: Path, row: str, error: str, after: int
) -> None:
    code = MEMORY.format(error=error, after=after)
    config = site(tmp_path, tiny_engine)
    config.write_text(config.read_text().replace("threads = 1\n", 'threads = 1\nbackend = "onnx"\n'))
    lines, code = run_in(tmp_path, sys.executable, "-c", code, "run", config)
    assert_told(row, [line for line in lines if line.startswith("streamseg: ")], code)
