"""The unit under a real systemd: ready, watched, restarted, stopped."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg.client import subscribe
from streamseg.daemon.install import unit_files, unit_folder
from streamseg.net.curve_keys import make_keys
from tests.integration.boot import Machine, why_not
from tests.media import draw_clip
from tests.waiting import LIMIT_S, in_time

pytestmark = [pytest.mark.slow, pytest.mark.alone]

WATCHDOG_S = 10
SITE = """
[publish]
endpoint = "ipc:///run/streamseg/site/masks"
[engine]
name = "/etc/streamseg/engine"
threads = 1
[streams.gate]
source = "/etc/streamseg/clip.mp4"
realtime = true
loop = true
max_fps = 5
"""


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory, tiny_engine: Path) -> Iterator[Machine]:
    if reason := why_not():
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("machine")
    drop_in = f"WatchdogSec={WATCHDOG_S}\nTimeoutAbortSec=2\nRestartSec=100ms\n"
    shutil.copytree(tiny_engine, folder / "root.files/etc/streamseg/engine")
    draw_clip(folder / "root.files/etc/streamseg/clip.mp4")
    with Machine(folder, SITE, drop_in) as machine:
        machine.systemctl("start", "streamseg@site")
        yield machine


def masks_come(machine: Machine) -> None:
    """Wait for a mask that the service publishes now."""
    endpoint = f"ipc://{machine.path('/run/streamseg/site/masks')}"
    with subscribe(endpoint, snapshot=False, timeout_s=LIMIT_S) as masks:
        assert next(masks).stream == "gate"


def restarted(machine: Machine, before: int) -> None:
    machine.until(lambda: int(machine.show("NRestarts")) > before and machine.show("ActiveState") == "active")
    masks_come(machine)


def test_start_returns_when_masks_are_published_and_the_status_is_in_words(machine: Machine) -> None:
    assert machine.show("ActiveState") == "active", machine.journal()
    masks_come(machine)
    machine.until(lambda: "1 of 1 streams deliver" in machine.show("StatusText"))
    assert re.search(r"deliver, \d+\.\d masks/s", machine.show("StatusText"))
    status = Path(f"/proc/{machine.main_pid}/status").read_text()
    assert "NoNewPrivs:\t1" in status
    assert "CapEff:\t0000000000000000" in status
    assert int(re.findall(r"^Uid:\t(\d+)", status, re.MULTILINE)[0]) >= 61184  # a dynamic user


def test_a_killed_daemon_comes_back(machine: Machine) -> None:
    before = int(machine.show("NRestarts"))
    machine.kill(signal.SIGKILL)
    restarted(machine, before)


def test_a_stopped_process_is_noticed_by_the_watchdog_and_replaced(machine: Machine) -> None:
    before = int(machine.show("NRestarts"))
    machine.kill(signal.SIGSTOP)
    restarted(machine, before)
    assert "Fatal Python error: Aborted" in machine.journal()  # where each thread stood


def test_the_secret_key_comes_as_a_credential_and_files_are_found_beside_the_configuration(
    machine: Machine, tmp_path: Path
) -> None:
    site, robot = make_keys(tmp_path / "site"), make_keys(tmp_path / "robot")
    store, settings = machine.path("/etc/credstore"), machine.path("/etc/streamseg")
    store.mkdir(mode=0o700)
    shutil.copy(site[0], store / "streamseg.secure.key")  # 0600, root's
    (settings / "clients").mkdir()
    shutil.copy(robot[1], settings / "clients")
    keys = 'curve_secret_key_file = "$CREDENTIALS_DIRECTORY/curve.key"\nallowed_clients = "clients"\n'
    (store / "streamseg.secure.passwords").write_text("away Sesam!öffne\n")
    (store / "streamseg.secure.passwords").chmod(0o600)
    away = (
        '[streams.away]\nsource = "rtsp://eye@127.0.0.1:1/x"\n'
        'password_file = "$CREDENTIALS_DIRECTORY/passwords"\n'
    )
    (store / "streamseg.secure.token").write_text("a-token-that-is-long-enough\n")
    (store / "streamseg.secure.token").chmod(0o600)
    console = '[web]\nlisten = "0.0.0.0:5580"\ntoken_file = "$CREDENTIALS_DIRECTORY/web.token"\n'
    (settings / "secure.toml").write_text(
        SITE.replace("[engine]", keys + "[engine]").replace("/site/", "/secure/") + console + away
    )
    machine.systemctl("start", "streamseg@secure")
    endpoint = f"ipc://{machine.path('/run/streamseg/secure/masks')}"
    with subscribe(endpoint, server_key=site[1], client_key_file=robot[0], timeout_s=LIMIT_S) as masks:
        assert next(masks).stream == "gate"
    machine.until(lambda: "away: rtsp://eye@127.0.0.1:1/x: connection refused" in machine.journal())
    machine.until(lambda: "web: the console is at http://0.0.0.0:5580/" in machine.journal())
    assert "Sesam" not in machine.journal()
    assert "a-token" not in machine.journal()
    assert _asked(machine, "/readyz") == "200"
    assert _asked(machine, "/metrics") == "401"
    assert _asked(machine, "/metrics", Authorization="Bearer a-token-that-is-long-enough") == "200"
    machine.systemctl("stop", "streamseg@secure")


def _asked(machine: Machine, path: str, **headers: str) -> str:
    """The status with which the console answers inside the machine."""
    code = """import sys, urllib.request as r, urllib.error as e, json
try: print(r.urlopen(r.Request(sys.argv[1], headers=json.loads(sys.argv[2]))).status)
except e.HTTPError as error: print(error.code)"""
    enter = ["nsenter", "-t", str(machine.main_pid), "-n", sys.executable, "-c", code]
    asked = [*enter, f"http://127.0.0.1:5580{path}", json.dumps(headers)]
    return subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip()


def reload(machine: Machine, text: str) -> str:
    """Write the site's configuration and have the service reloaded; what the job came to."""
    machine.path("/etc/streamseg/site.toml").write_text(text)
    machine.systemctl("reload", "streamseg@site")
    return machine.show("ReloadResult")


def test_a_reload_takes_effect_and_a_bad_one_fails_and_changes_nothing(machine: Machine) -> None:
    endpoint = f"ipc://{machine.path('/run/streamseg/site/masks')}"
    pid = machine.main_pid
    with subscribe(endpoint, newest=False, queue=100_000, snapshot=False, timeout_s=LIMIT_S) as masks:
        first = next(masks)
        yard = SITE[SITE.index("[streams.gate]") :].replace("gate", "yard")  # in real time: none is lost
        two = SITE + yard
        assert reload(machine, two) == "success", machine.journal()
        while next(masks).stream != "yard":
            pass
        assert reload(machine, two.replace("max_fps = 5", "max_fps = -5")) == "exit-code"
        assert "reload refused: streams.gate.max_fps: must be a number above 0" in machine.journal()
        assert "reload refused: streams.yard.max_fps: must be a number above 0" in machine.journal()
        machine.kill(signal.SIGHUP)
        machine.until(lambda: machine.journal().count("reload refused: streams.gate.max_fps") == 2)
        machine.until(lambda: machine.show("ActiveState") == "active")
        assert reload(machine, SITE) == "success"
        last = next(mask for mask in masks if mask.stream == "gate" and mask.n > first.n + 20)
        assert (last.run, last.stream) == (first.run, "gate")
        assert masks.stats.lost == 0
    assert machine.main_pid == pid
    assert machine.show("ActiveState") == "active"


def test_it_stops_within_five_seconds_and_leaves_nothing(machine: Machine) -> None:
    def stopped_after_s() -> float:
        machine.systemctl("start", "streamseg@site")  # where it was stopped too late
        masks_come(machine)
        begun_s = time.monotonic()
        machine.systemctl("stop", "streamseg@site")
        return time.monotonic() - begun_s

    in_time(5, stopped_after_s)
    assert machine.show("ActiveState") == "inactive"
    assert machine.show("Result") == "success"
    assert not machine.path("/run/streamseg/site").exists()


def test_a_wrong_configuration_is_named_and_not_tried_again(machine: Machine) -> None:
    machine.path("/etc/streamseg/wrong.toml").write_text(SITE.replace("max_fps = 5", "max_fps = -5"))
    machine.systemctl("start", "streamseg@wrong")
    assert machine.systemctl("show", "--value", "-p", "ActiveState", "streamseg@wrong") == "failed"
    assert machine.systemctl("show", "--value", "-p", "ExecMainStatus", "streamseg@wrong") == "2"
    assert "streams.gate.max_fps: must be a number above 0" in machine.journal()


RELAY = "streamseg-relay@hall"


def test_a_relay_is_ready_comes_back_when_killed_or_stuck_and_stops(machine: Machine, tmp_path: Path) -> None:
    hall, robot = make_keys(tmp_path / "hall"), make_keys(tmp_path / "robot")
    store, settings = machine.path("/etc/credstore"), machine.path("/etc/streamseg")
    store.mkdir(mode=0o700, exist_ok=True)
    shutil.copy(hall[0], store / "streamseg-relay.hall.key")  # 0600, root's
    shutil.copy(robot[1], settings / "hall-clients")
    (settings / "near.toml").write_text(
        SITE.replace("ipc:///run/streamseg/site/masks", "tcp://127.0.0.1:5590")
    )
    (settings / "hall.relay").write_text(
        "RELAY=tcp://127.0.0.1:5590 --endpoint ipc:///run/streamseg-relay/hall/masks \\\n"
        "  --curve-secret-key-file $CREDENTIALS_DIRECTORY/curve.key --allowed-clients hall-clients\n"
    )
    machine.systemctl("start", RELAY)  # returns when it has bound its sockets; the daemon is not there yet
    assert machine.show("ActiveState", RELAY) == "active", machine.journal()
    assert machine.show("StatusText", RELAY) == "waiting for the daemons"
    machine.systemctl("start", "streamseg@near")

    def masks_pass() -> None:
        endpoint = f"ipc://{machine.path('/run/streamseg-relay/hall/masks')}"
        keys = {"server_key": hall[1], "client_key_file": robot[0]}
        with subscribe(endpoint, snapshot=False, timeout_s=LIMIT_S, **keys) as masks:
            assert next(masks).stream == "gate"

    masks_pass()
    status = Path(f"/proc/{machine.pid_of(RELAY)}/status").read_text()
    assert int(re.findall(r"^Uid:\t(\d+)", status, re.MULTILINE)[0]) >= 61184  # a dynamic user
    for number in (signal.SIGKILL, signal.SIGSTOP):
        before = int(machine.show("NRestarts", RELAY))
        machine.kill(number, RELAY)
        machine.until(lambda before=before: int(machine.show("NRestarts", RELAY)) > before)
        machine.until(lambda: machine.show("ActiveState", RELAY) == "active")
        masks_pass()

    def stopped_after_s() -> float:
        machine.systemctl("start", RELAY)  # where it was stopped too late
        machine.until(lambda: machine.show("StatusText", RELAY).startswith("1 of 1 daemons, "))
        begun_s = time.monotonic()
        machine.systemctl("stop", RELAY)
        return time.monotonic() - begun_s

    in_time(5, stopped_after_s)
    assert (machine.show("ActiveState", RELAY), machine.show("Result", RELAY)) == ("inactive", "success")
    assert not machine.path("/run/streamseg-relay/hall").exists()
    machine.systemctl("stop", "streamseg@near")


def test_a_relay_with_wrong_words_is_told_and_not_tried_again(machine: Machine) -> None:
    machine.path("/etc/streamseg/wrong.relay").write_text("RELAY=tcp://h:5570 --endpoint tcp://*:5570\n")
    machine.systemctl("start", "streamseg-relay@wrong")
    assert machine.show("ActiveState", "streamseg-relay@wrong") == "failed"
    assert machine.show("ExecMainStatus", "streamseg-relay@wrong") == "2"
    assert "--endpoint: tcp://*:5570 is reachable from other machines" in machine.journal()


FORWARD = "streamseg-forward@site"


def test_a_forwarder_is_ready_comes_back_when_killed_opens_its_files_again_and_stops(
    machine: Machine,
) -> None:
    machine.path("/etc/streamseg/site.forward.toml").write_text(
        'endpoint = "tcp://127.0.0.1:5599"\n[file.log]\npath = "$LOGS_DIRECTORY/events.jsonl"\n'
    )
    machine.systemctl("start", FORWARD)
    assert machine.show("ActiveState", FORWARD) == "active", machine.journal()
    log = machine.path("/var/log/private/streamseg-forward/site/events.jsonl")
    machine.until(log.exists)
    assert machine.path("/var/lib/private/streamseg-forward/site/queue.sqlite").exists()
    log.rename(log.with_suffix(".1"))
    machine.systemctl("reload", FORWARD)
    before = int(machine.show("NRestarts", FORWARD))
    machine.kill(signal.SIGKILL, FORWARD)
    machine.until(lambda: int(machine.show("NRestarts", FORWARD)) > before)
    machine.until(lambda: machine.show("ActiveState", FORWARD) == "active")
    machine.until(log.exists)
    machine.until(lambda: "is not connected" in machine.show("StatusText", FORWARD))
    machine.systemctl("stop", FORWARD)
    assert (machine.show("ActiveState", FORWARD), machine.show("Result", FORWARD)) == ("inactive", "success")


@pytest.mark.parametrize("name", ["streamseg@", "streamseg-relay@", "streamseg-forward@"])
def test_the_unit_is_without_fault_and_its_exposure_at_most_two(tmp_path: Path, name: str) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze (package systemd)")
    unit = tmp_path / f"{name}site.service"
    unit.write_text(unit_files(Path("/bin/true"), gpu=False, version=252)[f"{name}.service"])
    verified = subprocess.run(
        ["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False
    )
    assert (verified.returncode, verified.stderr) == (0, "")
    scored = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", str(unit)],
        capture_output=True,
        text=True,
        check=False,
    )
    found = re.search(r"exposure level for \S+: (\d+\.\d)", scored.stdout)
    assert found is not None, scored.stdout + scored.stderr
    assert float(found[1]) <= 2.0
    assert (unit_folder() / "gpu.conf").read_text().count("DeviceAllow=char-nvidia") >= 3
