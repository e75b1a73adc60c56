"""What systemd is told: over a real datagram socket, by a real daemon, and only when it is true."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from streamseg.config import Config, EngineConfig, PublishConfig, StreamConfig
from streamseg.daemon import Daemon
from streamseg.daemon.install import check_visible, uninstall_service, unit_files
from streamseg.daemon.systemd import Service
from streamseg.errors import UsageError
from streamseg.runtime.counters import ProgressWatch, Stats, on_their_way
from tests.media import draw_clip
from tests.waiting import LIMIT_S


class Manager:
    """systemd's side of the protocol."""

    def __init__(self, address: str) -> None:
        self.environ = {"NOTIFY_SOCKET": address}
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._sock.bind("\0" + address[1:] if address.startswith("@") else address)
        self.heard: list[str] = []

    def listen(self, timeout_s: float) -> str:
        """The next datagram; empty when none comes."""
        self._sock.settimeout(timeout_s)
        try:
            self.heard.append(self._sock.recv(4096).decode())
        except TimeoutError:
            return ""
        return self.heard[-1]

    def wait_for(self, text: str) -> str:
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            if text in (said := self.listen(1.0)):
                return said
        raise AssertionError(f"{text} was not said, but {self.heard}")

    def close(self) -> None:
        self._sock.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    manager = Manager(
        f"{tmp_path}/notify" if request.param == "path" else f"@streamseg-test-{os.getpid()}-{tmp_path.name}"
    )
    yield manager
    manager.close()


def test_messages_arrive_in_one_datagram_each(manager: Manager) -> None:
    service = Service(manager.environ)
    service.ready(Stats())
    service.stopping()
    assert manager.listen(LIMIT_S).split("\n")[0] == "READY=1"
    assert manager.listen(LIMIT_S) == "STOPPING=1\nSTATUS=stopping"


def test_without_a_manager_nothing_is_sent_and_nothing_fails() -> None:
    service = Service({})
    with service.busy("loading"):
        service.ready(Stats())
    service.alive()
    service.stopping()


def test_a_manager_that_is_gone_is_logged_and_nothing_fails(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Service({"NOTIFY_SOCKET": f"{tmp_path}/none"}).stopping()
    assert ": STOPPING=1 (" in caplog.text


def test_more_time_is_asked_for_while_something_takes_long(
    manager: Manager, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamseg.daemon.systemd.EXTEND_EVERY_S", 0.01)
    with Service(manager.environ).busy("building the engine"):
        said = [manager.listen(LIMIT_S) for _ in range(3)]
    assert said == ["EXTEND_TIMEOUT_USEC=20000000\nSTATUS=building the engine"] * 3


@pytest.mark.parametrize(
    ("environ", "watchdog_s", "tick_s"),
    [
        ({}, None, 1.0),
        ({"WATCHDOG_USEC": "30000000"}, 30.0, 1.0),
        ({"WATCHDOG_USEC": "2000000"}, 2.0, 0.5),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None, 1.0),  # meant for another process
        ({"WATCHDOG_USEC": "soon"}, None, 1.0),
    ],
)
def test_the_watchdogs_time_is_taken_from_the_environment(
    environ: dict[str, str], watchdog_s: float | None, tick_s: float
) -> None:
    service = Service(environ)
    assert (service.watchdog_s, service.tick_s) == (watchdog_s, tick_s)


def test_the_route_moves_when_masks_go_out_or_nothing_is_on_its_way() -> None:
    stats = Stats()
    gate = stats.of("gate")
    watch = ProgressWatch()

    def moves() -> bool:
        return watch.moves(stats.all().values())

    assert moves()
    assert moves()  # no picture: nothing to do
    gate.decoded = 3
    assert not moves()  # three came, none left
    gate.decoded, gate.drops["slow engine"] = 50, 47
    assert not moves()  # replaced by newer ones while they waited: the engine does nothing
    gate.published = 1
    assert moves()
    assert not moves()
    gate.drops["stale"] = 1
    assert moves()
    gate.drops.update({"skipped": 5, "corrupt": 7, "disconnected": 1})  # never decoded
    assert not moves()
    assert on_their_way(gate) == 1
    stats.of("yard").decoded = 1
    gate.published += 1
    assert moves()
    stats.of("yard").published = 1
    assert moves()
    assert on_their_way(gate) == 0
    assert moves()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_clip(tmp_path_factory.mktemp("clips") / "red.mp4", frames=30)


def run_daemon(manager: Manager, monkeypatch: pytest.MonkeyPatch, engine: Path, **stream: Any) -> Daemon:
    monkeypatch.setenv("NOTIFY_SOCKET", manager.environ["NOTIFY_SOCKET"])
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    daemon = Daemon(
        Config(
            streams={"gate": StreamConfig(**stream)},
            engine=EngineConfig(name=str(engine), threads=1),
            publish=PublishConfig(endpoint="tcp://127.0.0.1:0"),
        )
    )
    threading.Thread(target=daemon.run, name="daemon").start()
    return daemon


def join_daemon() -> None:
    for thread in threading.enumerate():
        if thread.name == "daemon":
            thread.join(LIMIT_S)
            assert not thread.is_alive()


@pytest.mark.parametrize("manager", ["path"], indirect=True)
@pytest.mark.parametrize("realtime", [True, False])
def test_a_daemon_tells_its_life_and_a_stuck_engine_silences_the_watchdog(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, clip: Path, tiny_engine: Path, realtime: bool
) -> None:
    import streamseg.live.pipeline as pipeline

    stuck, original = threading.Event(), pipeline.infer
    go_on = threading.Event()

    def infer(*args: Any) -> Any:
        if stuck.is_set():
            go_on.wait(LIMIT_S)
        return original(*args)

    monkeypatch.setattr(pipeline, "infer", infer)
    daemon = run_daemon(manager, monkeypatch, tiny_engine, source=str(clip), loop=True, realtime=realtime)
    try:
        manager.wait_for("EXTEND_TIMEOUT_USEC=")
        manager.wait_for("READY=1")
        assert not any("WATCHDOG" in said for said in manager.heard)
        for _ in range(3):
            manager.wait_for("WATCHDOG=1")
        stuck.set()
        silent_until(manager, lambda: quiet_for(manager, 2.0))
        go_on.set()
        manager.wait_for("WATCHDOG=1")
        manager.wait_for("STATUS=1 of 1 streams deliver")
    finally:
        go_on.set()
        daemon.stop()
        join_daemon()
    manager.wait_for("STOPPING=1")
    stats = daemon.pipeline.stats.of("gate") if daemon.pipeline else None
    assert stats is not None
    assert stats.published > 0


def silent_until(manager: Manager, true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + LIMIT_S
    while not true():
        assert time.monotonic() < deadline, "it went on telling the watchdog"


def quiet_for(manager: Manager, seconds: float) -> bool:
    """Whether no ping comes for so long: five times the watchdog's time."""
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        if "WATCHDOG=1" in manager.listen(left_s):
            return False
    return True


@pytest.mark.parametrize("manager", ["path"], indirect=True)
def test_no_frame_is_left_on_its_way_when_a_file_has_been_published(
    manager: Manager, monkeypatch: pytest.MonkeyPatch, clip: Path, tiny_engine: Path
) -> None:
    daemon = run_daemon(manager, monkeypatch, tiny_engine, source=str(clip))
    join_daemon()
    assert daemon.pipeline is not None
    stats = daemon.pipeline.stats.of("gate")
    assert (stats.decoded, stats.published, on_their_way(stats)) == (30, 30, 0)


def test_the_unit_names_the_installed_command_and_backs_off_where_systemd_can() -> None:
    old = unit_files(Path("/opt/x/bin/streamseg"), gpu=False, version=252)
    assert list(old) == ["streamseg@.service", "streamseg-relay@.service", "streamseg-forward@.service"]
    assert "ExecStart=/opt/x/bin/streamseg relay $RELAY\n" in old["streamseg-relay@.service"]
    assert "ExecStart=/opt/x/bin/streamseg run /etc/streamseg/%i.toml\n" in old["streamseg@.service"]
    new = unit_files(Path("/opt/x/bin/streamseg"), gpu=True, version=254)
    assert "DeviceAllow=char-nvidia rw" in new["streamseg@.service.d/gpu.conf"]
    for unit in old:
        assert "RestartMaxDelaySec=60" in new[f"{unit}.d/restart-backoff.conf"]


def test_a_program_that_services_cannot_see_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^/home/me/venv/bin/streamseg: services cannot see /home"):
        check_visible(Path("/home/me/venv/bin/streamseg"))
    check_visible(Path("/opt/streamseg/bin/streamseg"))


def test_uninstalling_removes_what_was_installed_and_nothing_else(tmp_path: Path) -> None:
    for name, text in unit_files(Path("/opt/streamseg/bin/streamseg"), gpu=True, version=254).items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    own = tmp_path / "streamseg@.service.d" / "mine.conf"
    own.write_text("[Service]\n")
    other = tmp_path / "other.service"
    other.write_text("[Service]\n")
    assert uninstall_service(tmp_path)
    assert sorted(path for path in tmp_path.rglob("*") if path.is_file()) == [other, own]
    assert not (tmp_path / "streamseg-relay@.service.d").exists()
    assert uninstall_service(tmp_path) == []
