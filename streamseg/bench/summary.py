"""What every measurement says about a set of times, and about the machine it was taken on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from streamseg.errors import StreamsegError


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Percentiles of a set of times, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    count: int


def spread_of(times_ms: Sequence[float]) -> Spread:
    """Percentiles of times in milliseconds; raises StreamsegError for none."""
    if not times_ms:
        raise StreamsegError("nothing was measured: no time was taken")
    p50, p95, p99 = (round(float(p), 3) for p in np.percentile(times_ms, (50, 95, 99)))
    return Spread(p50_ms=p50, p95_ms=p95, p99_ms=p99, count=len(times_ms))


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where a measurement was taken."""

    processor: str
    cores: int
    python: str
    versions: dict[str, str]


def this_machine(*packages: str) -> Machine:
    """Describe this machine, with the versions of the packages that mattered."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        models = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        processor = models[0].split(":", 1)[1].strip() if models else processor
    return Machine(
        processor=processor,
        cores=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        versions={name: importlib.metadata.version(name) for name in packages},
    )
