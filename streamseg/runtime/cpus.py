"""The CPU and the memory that this process may use: of the machine, of its CPU set, and of its cgroups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_cores() -> int:
    """How many threads can run at once: cores of this process, or what its cgroups' CPU quota comes to.

    A quota of part of a core is left to decoding and the rest: a network's threads wait for one another, so
    one that is throttled stops all.
    """
    cores = len(os.sched_getaffinity(0))
    quota = cpu_quota()
    return cores if quota is None else max(1, min(cores, int(quota + 1e-6)))


def cpu_quota() -> float | None:
    """The lowest CPU quota of this process's cgroups, in cores; None where there is none."""
    return min((quota for folder in _folders("cpu") if (quota := _quota(folder)) is not None), default=None)


def memory_limit() -> int | None:
    """The lowest memory limit of this process's cgroups in bytes; None where there is none."""
    limits = []
    for folder in _folders("memory"):
        for name in ("memory.max", "memory.limit_in_bytes"):
            value = _read(folder / name)
            if value.isdecimal() and int(value) < 1 << 60:  # v1 has a number for none
                limits.append(int(value))
    return min(limits, default=None)


def resources() -> str:
    """What may be used, in words for the log."""
    cores, quota, limit = len(os.sched_getaffinity(0)), cpu_quota(), memory_limit()
    parts = [f"{cores} of {os.cpu_count() or cores} CPU cores"]
    if quota is not None and quota < cores:
        parts.append(f"a quota of {quota:g} cores, so {_threads(usable_cores())}")
    if limit is not None:
        parts.append(f"{limit / 2**20:.0f} MiB of memory")
    return ", ".join(parts)


def _threads(count: int) -> str:
    return "1 thread for the network" if count == 1 else f"{count} threads for the network"


def _folders(controller: str) -> Iterator[Path]:
    """The cgroup of this process and those above it, of version 2 and of version 1's controller.

    In a container the path is often that of the machine, where the container sees its own group on top.
    """
    for line in _read(OWN_GROUPS).splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        for mount in (
            [CGROUPS / controller, CGROUPS / controllers] if controllers else [CGROUPS, CGROUPS / "unified"]
        ):
            group = mount / path.lstrip("/")
            while True:
                yield group
                if group == mount or mount not in group.parents:
                    break
                group = group.parent


def _quota(folder: Path) -> float | None:
    maximum, _, period = _read(folder / "cpu.max").partition(" ")
    if not maximum:
        maximum, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
    if not maximum.isdecimal() or not period.isdecimal() or int(period) == 0:
        return None
    return int(maximum) / int(period)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode("ascii", "replace").strip()
    except OSError:
        return ""
