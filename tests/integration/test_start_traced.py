"""What a start asks of the system, seen by strace: no name that nobody configured, no file elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from streamseg import subscribe
from tests.integration.children import ROOT
from tests.integration.daemons import Lines
from tests.ports import free_port
from tests.waiting import LIMIT_S

CALLS = "%network,openat,open,creat,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat"
LOOKS_UP = re.compile(r"resolv\.conf|nsswitch|/etc/hosts|nscd|htons\(53\)")
PEER = re.compile(r'sin6?_addr=inet_(?:addr\("|pton\(AF_INET6, ")([^"]+)')
MADE = re.compile(r'^\d+ +(?:open\w*|creat|mkdir\w*|rename\w*|link\w*|symlink\w*)\(.*?"(/[^"]*)"(.*)')
OURS = ("/proc/", "/dev/null", "/dev/tty")


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose name leaves room for those of sockets."""
    with tempfile.TemporaryDirectory(prefix="seg", dir="/tmp") as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize("web", [False, True], ids=["alone", "console"])
def test_a_start_asks_for_no_name_and_leaves_nothing_outside_its_folders(
    web: bool, tiny_engine: Path, tmp_path: Path, short: Path
) -> None:
    """Takes some seconds: each call of every process is written down."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    trace, home = tmp_path / "trace", tmp_path / "home"
    for folder in ("home", "tmp"):
        (tmp_path / folder).mkdir(mode=0o700)
    environment = {
        "PATH": os.environ["PATH"], "HOME": str(home), "XDG_RUNTIME_DIR": str(short),
        "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }  # fmt: skip
    config = tmp_path / "config.toml"
    config.write_text(
        '[streams.gate]\nsource = "demo:"\nrealtime = true\nloop = true\nmax_fps = 5\n'
        f'[engine]\nname = "{tiny_engine}"\n[refinement]\nlevel = "live"\n'
        '[publish]\nendpoint = "tcp://127.0.0.1:0"\n'
        + (f'[web]\nlisten = "127.0.0.1:{free_port()}"\n' if web else "")
    )
    traced = ["strace", "-f", "-qq", "-s", "300", "-e", f"trace={CALLS}", "-o", str(trace)]
    clean = ["env", "-i", *(f"{name}={value}" for name, value in environment.items())]
    with Lines(
        [*clean, *traced, sys.executable, "-P", "-m", "streamseg", "run", config], errors=True
    ) as daemon:
        endpoint = daemon.wait("publishing on").split()[-1]
        if web:
            daemon.wait("the console is at")
        with subscribe(endpoint, timeout_s=LIMIT_S) as masks:
            for _ in range(5):
                masks.read()
        child = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text().split()[0]
        os.kill(int(child), signal.SIGTERM)
        assert daemon.process.wait(LIMIT_S) == 0
    calls = trace.read_text(errors="replace").splitlines()
    assert len(calls) > 1000
    assert [call for call in calls if LOOKS_UP.search(call)] == []
    peers = {peer for call in calls for peer in PEER.findall(call)}
    assert peers <= {"127.0.0.1", "::1", "0.0.0.0", "::"}
    made = {
        found[1]
        for call in calls
        if (found := MADE.match(call)) and not re.search("ENOENT|EEXIST", call)
        if not re.match(r"\d+ +open", call) or re.search("O_(WRONLY|RDWR|CREAT)", found[2])
    }
    assert {path for path in made if not path.startswith((str(home), str(short), *OURS))} == set()
    left = {path.relative_to(home).parts[:2] for path in home.rglob("*") if path.is_file()}
    assert left <= {(".cache", "streamseg")}
    assert list((tmp_path / "tmp").iterdir()) == []
