"""The machine: what this process uses of it, what may run short, and a clock that is set."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
import threading
import time
from importlib.metadata import PackageNotFoundError, version

import msgspec

from streamseg.config import Config
from streamseg.errors import StreamsegError, one_line

log = logging.getLogger(__name__)

OWN_FILES = 64  # libraries, sockets, pipes and children; 60 were counted with the CRF and the console
FILES_OF_A_STREAM = 4  # a camera's sockets; a file and its log
MIN_CONNECTIONS = 8
MAX_FILES = 65536  # where the machine sets no limit
LIBRARIES = ("av", "numpy", "onnxruntime", "opencv-python-headless", "pynacl")
STEP_S = 1.0  # a clock that is only slewed moves by half a millisecond a second

_NO_MEMORY = ("out of memory", "out_of_memory", "bad_alloc", "failed to allocate", "alloc_failed")
_GPU = ("cuda", "cublas", "cudnn", "gpu", "tensorrt")


def file_limit() -> int:
    """How many files this process may have open, after raising its soft limit as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # not allowed: the present limit stays
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MAX_FILES if soft == resource.RLIM_INFINITY else soft


def fit_connections(config: Config, limit: int) -> tuple[Config, str]:
    """The settings with as many connections as the file limit allows, and a warning where that is fewer.

    So there is a file descriptor for each camera, however many subscribers connect. Raises StreamsegError
    where the limit is too low even for MIN_CONNECTIONS.
    """
    needed = OWN_FILES + FILES_OF_A_STREAM * len(config.streams)
    wanted = config.publish.max_connections
    room = limit - needed - (config.control.max_connections if config.control.endpoint else 0)
    if room >= wanted:
        return config, ""
    if room < MIN_CONNECTIONS:
        raise StreamsegError(
            f"open files: {needed + MIN_CONNECTIONS} needed for {len(config.streams)} streams and "
            f"{MIN_CONNECTIONS} connections, {limit} allowed; raise LimitNOFILE= of the service, or ulimit -n"
        )
    publish = msgspec.structs.replace(config.publish, max_connections=room)
    return msgspec.structs.replace(config, publish=publish), (
        f"open files: {limit} are allowed, so publish.max_connections is {room} instead of {wanted}; "
        "raise LimitNOFILE= of the service, or ulimit -n"
    )


class WallClock:
    """Notices when the machine's clock is set."""

    def __init__(self) -> None:
        self._offset_ns = _offset_ns()

    def stepped_s(self) -> float:
        """By how much it was set ahead since the last call (back: negative); 0 where it was not."""
        before_ns, self._offset_ns = self._offset_ns, _offset_ns()
        step_s = (self._offset_ns - before_ns) / 1e9
        return step_s if abs(step_s) >= STEP_S else 0.0

    def log_step(self) -> None:
        """Warn where it was set since the last call."""
        if step_s := self.stepped_s():
            where = "forward" if step_s > 0 else "back"
            log.warning("clock: this machine's was set %s by %.1f s; streams continue", where, abs(step_s))


def _offset_ns() -> int:
    """Wall clock minus CLOCK_BOOTTIME, which is never set and counts while the machine sleeps."""
    boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.time_ns() - time.clock_gettime_ns(boot_clock)


def failed_inside(error: BaseException, engine: str) -> str:
    """One line for an error that a library raised: what to do about it, where that is known."""
    text = one_line(f"{type(error).__name__}: {error}", 2000)
    small = text.lower()
    if isinstance(error, MemoryError) or any(word in small for word in _NO_MEMORY):
        if any(word in small for word in _GPU):
            return (
                f"engine {engine}: the GPU is out of memory; stop other programs on it, or set a smaller "
                f"engine.input_size or engine.max_batch ({text[:200]})"
            )
        return (
            f"engine {engine}: this machine is out of memory; stop other programs on it, raise MemoryMax= "
            f"where that is set, or set a smaller engine.input_size or engine.max_batch ({text[:200]})"
        )
    return f"failed inside: {text}"


def library_versions() -> dict[str, str]:
    """The versions of the libraries that the daemon runs on."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def memory_bytes() -> int:
    """The resident memory of this process; its peak where there is no /proc."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def open_files() -> int:
    """File descriptors of this process; 0 where they cannot be counted, as when none is left."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


def thread_count() -> int:
    """Threads of this process, including those of libraries."""
    try:
        return len(os.listdir("/proc/self/task"))
    except OSError:
        return threading.active_count()
