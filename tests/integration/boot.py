"""A real systemd for tests, in namespaces and on a root of its own (boot.sh)."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import streamseg
from streamseg.daemon.install import systemd_version, unit_files
from tests.waiting import LIMIT_S

TOOLS = ("unshare", "nsenter", "pivot_root", "systemctl")
_TARGETS = ("basic", "sysinit", "shutdown", "network-online", "multi-user")
_counter = itertools.count()


def why_not() -> str:
    """Why no systemd can be booted here; empty when it can."""
    if os.geteuid() != 0:
        return "needs root, to boot a systemd in namespaces"
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        return f"needs {', '.join(missing)} (packages systemd and util-linux)"
    if not Path("/lib/systemd/systemd").exists():
        return "needs the package systemd"
    if _cgroup2() is None:
        return "needs a cgroup2 file system that can be written"
    tried = subprocess.run(
        ["unshare", "--fork", "--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup", "true"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    return "" if tried.returncode == 0 else f"no namespaces here: {tried.stderr.strip()}"


class Machine:
    """systemd with our unit installed, and /etc/streamseg/site.toml. A context manager."""

    def __init__(
        self, folder: Path, site_toml: str, drop_in: str = "", readable: tuple[Path, ...] = ()
    ) -> None:
        self._root = folder / "root"
        self._root.mkdir()
        self.log = folder / "boot.log"
        files = folder / "root.files"
        units, settings = files / "etc/systemd/system", files / "etc/streamseg"
        units.mkdir(parents=True)
        for target in _TARGETS:
            (units / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
        package = Path(streamseg.__file__).resolve().parents[1]
        command = files / "opt/streamseg/bin/streamseg"
        command.parent.mkdir(parents=True)
        command.write_text(
            f"#!{sys.executable}\nimport os, sys\nsys.path.insert(0, {str(package)!r})\n"
            f"os.environ['PYTHONPATH'] = {str(package)!r}\n"  # its children are of this tree, too
            "from streamseg.cli import main\nmain()\n"
        )
        command.chmod(0o755)
        for name, text in unit_files(
            Path("/opt/streamseg/bin/streamseg"), gpu=False, version=systemd_version()
        ).items():
            (units / name).parent.mkdir(exist_ok=True)
            (units / name).write_text(text)
        prefixes = {Path(sys.prefix), Path(sys.base_prefix), package}
        self._readable = [str(p.resolve()) for p in (*prefixes, *readable) if not p.is_relative_to("/usr")]
        temporary = [path for path in self._readable if path.startswith(("/tmp/", "/var/tmp/"))]
        for unit in ("streamseg@.service.d", "streamseg-relay@.service.d", "streamseg-forward@.service.d"):
            (units / unit).mkdir(exist_ok=True)
            (units / unit / "test.conf").write_text(
                "[Service]\n"
                "StandardOutput=append:/run/streamseg.log\nStandardError=append:/run/streamseg.log\n"
                # The Python of these tests may lie in a home or temporary folder; an installed one must not.
                f"ProtectHome=no\nBindReadOnlyPaths={' '.join(temporary)}\n{drop_in}"
            )
        settings.mkdir(parents=True, exist_ok=True)
        (settings / "site.toml").write_text(site_toml)
        self._cgroup: Path | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._pid = 0

    def __enter__(self) -> Machine:
        above = _cgroup2()
        assert above is not None
        self._cgroup = above / f"streamseg-test-{os.getpid()}-{next(_counter)}"
        self._cgroup.mkdir()
        script = Path(__file__).with_name("boot.sh")
        spaces = ["--pid", "--mount", "--uts", "--ipc", "--net", "--cgroup"]
        boot = ["sh", str(script), str(self._root), *self._readable]
        inner = ["unshare", "--fork", "--kill-child", *spaces, *boot]
        enter = f'echo $$ > {self._cgroup}/cgroup.procs; exec "$@"'
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(
                ["sh", "-c", enter, "sh", *inner], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        try:
            self.until(lambda: self._first_process() > 0)
            self._pid = self._first_process()
            self.until(lambda: self.systemctl("is-active", "multi-user.target") == "active")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.kill()  # --kill-child: PID 1 goes with it, and all else with PID 1
            self._process.wait(LIMIT_S)
        if self._cgroup is not None:
            self.until(self._remove_cgroup)

    def systemctl(self, *arguments: str) -> str:
        """What systemctl says inside, on standard output."""
        done = subprocess.run(
            ["nsenter", "-t", str(self._pid), "-m", "-p", "-n", "-i", "systemctl", *arguments],
            capture_output=True, text=True, check=False, timeout=LIMIT_S,
        )  # fmt: skip
        return done.stdout.strip()

    def show(self, name: str, unit: str = "streamseg@site") -> str:
        """A property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit)

    @property
    def main_pid(self) -> int:
        return self.pid_of("streamseg@site")

    def pid_of(self, unit: str) -> int:
        """The main process of a unit, by the number it has outside; 0 while there is none."""
        inside = self.show("MainPID", unit)
        ours = os.readlink(f"/proc/{self._pid}/ns/pid")
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                if os.readlink(status.with_name("ns") / "pid") != ours:
                    continue
                for line in status.read_text().splitlines():
                    if line.startswith("NSpid:") and line.split()[2:] == [inside]:
                        return int(line.split()[1])
        return 0

    def kill(self, number: int, unit: str = "streamseg@site") -> None:
        """Send a unit's main process a signal."""
        pid = self.pid_of(unit)
        assert pid > 0, f"{unit} does not run"  # kill(0) would hit the tests themselves
        os.kill(pid, number)

    def path(self, path: str) -> Path:
        """A path inside, as this process reaches it."""
        return Path(f"/proc/{self._pid}/root{path}")

    def journal(self) -> str:
        """What the daemon has logged."""
        try:
            return self.path("/run/streamseg.log").read_text()
        except FileNotFoundError:
            return ""

    def until(self, true: Callable[[], bool], timeout_s: float = LIMIT_S) -> float:
        """Wait until it is true; returns the seconds it took."""
        begun_s = time.monotonic()
        while not true():
            if time.monotonic() - begun_s > timeout_s:
                said = self.log.read_text(errors="replace")[-3000:]
                raise AssertionError(f"timed out after {timeout_s:g} s\n{said}\n{self.journal()[-3000:]}")
            if self._process is not None and self._process.poll() not in (None, -9):
                raise AssertionError(self.log.read_text(errors="replace")[-3000:])
            time.sleep(0.02)
        return time.monotonic() - begun_s

    def _first_process(self) -> int:
        """systemd, seen from outside: the child of unshare that has become it."""
        assert self._process is not None
        try:
            children = (
                Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
            )
            return int(children[0]) if Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n" else 0
        except (OSError, IndexError):
            return 0

    def _remove_cgroup(self) -> bool:
        assert self._cgroup is not None
        for folder, _, _ in os.walk(self._cgroup, topdown=False):
            with contextlib.suppress(OSError):
                os.rmdir(folder)
        return not self._cgroup.exists()


def _cgroup2() -> Path | None:
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, where, kind, options, *_ = line.split()
        if kind == "cgroup2" and "rw" in options.split(","):
            return Path(where)
    return None
