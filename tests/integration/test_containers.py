"""The daemon in a read-only file system, as a user whom nobody knows, with and without /dev/shm."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from streamseg import subscribe
from tests.integration.children import ROOT
from tests.integration.daemons import Lines
from tests.ports import free_port
from tests.waiting import LIMIT_S, until

# In a mount namespace of its own; /dev is a new one, so that no folder of the machine's is touched.
BOX = """
set -e
mount --make-rprivate /
mount -t tmpfs none /mnt
for one in null zero full random urandom; do touch /mnt/$one; mount --bind /dev/$one /mnt/$one; done
[ "$SHM" = none ] || mkdir -m 1777 /mnt/shm
mount -o remount,ro /mnt
mount --rbind /mnt /dev
[ "$SHM" = none ] || mount -t tmpfs -o mode=1777,$SHM none /dev/shm
mount --bind / / && mount -o remount,ro,bind /
for one in $(findmnt -rno TARGET | grep -vE '^/(proc|sys|dev|mnt)(/|$)|^/$'); do
  mount -o remount,ro,bind "$one" 2> /dev/null || true
done
cd /
exec env -i PATH="$PATH" PYTHONPATH="$PYTHONPATH" PYTHONUNBUFFERED=1 STREAMSEG_BACKENDS="$BACKENDS" $HOMES \\
  setpriv --reuid 54321 --regid 54321 --clear-groups --inh-caps +dac_read_search \\
  --ambient-caps +dac_read_search "$@"
"""


def in_box(shm: str, homes: str, backends: str, *words: str | Path) -> list[str | Path]:
    if os.getuid() != 0 or not all(map(shutil.which, ("unshare", "setpriv", "findmnt"))):
        pytest.skip("needs root, unshare, setpriv and findmnt")
    settings = [f"SHM={shm}", f"HOMES={homes}", f"BACKENDS={backends}"]
    box = ["env", *settings, "unshare", "-m", "bash", "-c", BOX, "bash"]
    look = subprocess.run([*box, "true"], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": ""})
    if look.returncode:
        pytest.skip(f"this kernel does not allow it: {look.stderr.strip()}")
    return [*box, sys.executable, "-P", "-m", "streamseg", *words]


@pytest.mark.slow
@pytest.mark.parametrize("shm", ["none", "ro", "rw"])
@pytest.mark.parametrize("homes", ["", "HOME=/nonexistent XDG_RUNTIME_DIR=/run/none"])
def test_it_serves_masks_health_and_control_and_says_what_it_does_without(
    shm: str, homes: str, tiny_engine: Path
) -> None:
    web = free_port()
    words = (
        "run", "--source", "demo:", "--realtime", "--loop", "--engine", tiny_engine, "--max-fps", "10",
        "--endpoint", "tcp://127.0.0.1:0", "--web", f"127.0.0.1:{web}",
    )  # fmt: skip
    with Lines(in_box(shm, homes, "onnx", *words), errors=True, cwd=ROOT) as daemon:
        endpoint = daemon.wait("publishing on").split()[-1]
        with subscribe(endpoint, timeout_s=LIMIT_S) as masks:
            assert masks.read().stream == "video"

        def healthy() -> bool:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{web}/healthz", timeout=2) as answer:
                    return bool(answer.status == 200)
            except OSError:
                return False

        until(healthy)
        control = daemon.wait("control: ")
        assert ("/dev/shm/streamseg-54321" in control.partition("the control socket")[2]) == (shm == "rw")
        if shm != "rw":
            name = re.search(r" as (\S+)$", control)
            assert name is not None
            status = in_box(shm, homes, "onnx", "ctl", "--timeout", str(LIMIT_S), "--name", name[1], "status")
            done = subprocess.run(status, capture_output=True, text=True, timeout=LIMIT_S)
            assert f"{name[1]}: running" in done.stdout, done.stderr
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(LIMIT_S) == 0
    assert not [line for line in daemon.lines if "Traceback" in line]
    assert not any("ERROR" in line for line in daemon.lines)


@pytest.mark.slow
def test_a_plan_that_cannot_be_kept_is_said_in_one_line(tiny_engine: Path) -> None:
    pytest.importorskip("openvino")
    words = ("run", "--source", "demo:", "--realtime", "--loop", "--engine", tiny_engine)
    with Lines(in_box("none", "", "openvino,onnx", *words), errors=True, cwd=ROOT) as daemon:
        said = daemon.wait("its plan cannot be kept: this user has no home folder; set XDG_CACHE_HOME")
        assert said.endswith("keeps serving")
        daemon.process.send_signal(signal.SIGTERM)
        assert daemon.process.wait(LIMIT_S) == 0
