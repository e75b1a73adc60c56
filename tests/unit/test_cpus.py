"""Threads follow what a container gives: quotas of both versions of cgroups, at any height, and CPU sets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamseg.config import EngineConfig
from streamseg.inference.backends.protocol import threads_of_replica
from streamseg.runtime import cpus
from streamseg.runtime.cpus import cpu_quota, memory_limit, resources, usable_cores
from tests.integration.daemons import environment
from tests.waiting import LIMIT_S

V1 = "4:memory:/box\n3:cpuset:/\n2:cpu,cpuacct:/box/inner\n1:name=systemd:/\n0::/\n"


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(cpus, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cpus, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    return tmp_path


def write(groups: Path, files: dict[str, str], own: str) -> None:
    (groups / "own").write_text(own)
    for name, text in files.items():
        path = groups / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")


@pytest.mark.parametrize(
    ("own", "files", "quota", "cores"),
    [
        ("0::/box/inner\n", {"box/cpu.max": "200000 100000", "box/inner/cpu.max": "max 100000"}, 2.0, 2),
        ("0::/box/inner\n", {"box/cpu.max": "max 100000", "box/inner/cpu.max": "150000 100000"}, 1.5, 1),
        ("0::/box\n", {"box/cpu.max": "50000 100000"}, 0.5, 1),
        ("0::/\n", {"cpu.max": "300000 100000"}, 3.0, 3),  # a container sees its own group on top
        ("0::/system.slice/docker-1.scope\n", {"cpu.max": "300000 100000"}, 3.0, 3),
        ("0::/../other\n", {"cpu.max": "max 100000"}, None, 8),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "400000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 4, 4),
        (V1, {"cpu/box/inner/cpu.cfs_quota_us": "-1", "cpu/box/inner/cpu.cfs_period_us": "100000"}, None, 8),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"}, 2.0, 2),
        ("0::/\n", {"cpu.max": "1600000 100000"}, 16.0, 8),
        ("0::/\n", {"cpu.max": "rubbish"}, None, 8),
        ("", {}, None, 8),
    ],
)  # fmt: skip
def test_threads_follow_the_quota(
    groups: Path, own: str, files: dict[str, str], quota: float | None, cores: int
) -> None:
    write(groups, files, own)
    assert cpu_quota() == quota
    assert usable_cores() == cores
    assert threads_of_replica(EngineConfig(replicas=2)) == max(1, cores // 2)


def test_what_may_be_used_is_said_in_words(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    write(groups, {"cpu.max": "150000 100000", "memory.max": str(512 << 20)}, "0::/\n")
    assert resources() == (
        "8 of 16 CPU cores, a quota of 1.5 cores, so 1 thread for the network, 512 MiB of memory"
    )
    write(groups, {"cpu.max": "max 100000", "memory.max": "max"}, "0::/\n")
    assert resources() == "8 of 16 CPU cores"


def test_version_1_has_a_number_for_no_limit_of_memory(groups: Path) -> None:
    write(groups, {"memory/box/memory.limit_in_bytes": "9223372036854771712"}, V1)
    assert memory_limit() is None
    write(groups, {"memory/memory.limit_in_bytes": "1000000"}, V1)
    assert memory_limit() == 1000000


def test_in_a_real_cgroup_the_quota_counts() -> None:
    group = Path(f"/sys/fs/cgroup/cpu/streamseg-test-{os.getpid()}")
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup of version 1 can be made here ({error.strerror})")
    look = (
        "import os, sys; open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from streamseg.runtime.cpus import cpu_quota, usable_cores\nprint(cpu_quota(), usable_cores())"
    )
    try:
        (group / "cpu.cfs_quota_us").write_text("100000")
        done = subprocess.run(
            [sys.executable, "-c", look, str(group)],
            env=environment(), capture_output=True, text=True, timeout=LIMIT_S,
        )  # fmt: skip
        assert done.stdout == "1.0 1\n", done.stderr
    finally:
        group.rmdir()
