"""What the machine may run short of: file descriptors, memory; and a clock that is set while we run."""

from __future__ import annotations

import contextlib
import resource
import time

import msgspec

from streamseg.config import Config
from streamseg.errors import StreamsegError

OWN_FILES = 64  # libraries, sockets, pipes and children; 60 were counted with the CRF and the console
FILES_OF_A_STREAM = 4  # a camera's sockets; a file and its log
FEWEST_CONNECTIONS = 8
MOST_FILES = 65536  # asked for where the machine sets no bound
STEP_S = 1.0  # a clock that is only slewed moves by half a millisecond a second

_NO_MEMORY = ("out of memory", "out_of_memory", "bad_alloc", "failed to allocate", "alloc_failed")
_GPU = ("cuda", "cublas", "cudnn", "gpu", "tensorrt")


def file_limit() -> int:
    """How many files this process may have open, after taking all that it may."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # forbidden: what there is must do
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST_FILES if soft == resource.RLIM_INFINITY else soft


def fit_connections(config: Config, limit: int) -> tuple[Config, str]:
    """The settings with as many connections as fit beside the streams' files, and a line where that is fewer.

    So cameras find a file descriptor, however many want to connect. Raises StreamsegError where nothing fits.
    """
    needed = OWN_FILES + FILES_OF_A_STREAM * len(config.streams)
    wanted = config.publish.max_connections
    room = limit - needed - (config.control.max_connections if config.control.endpoint else 0)
    if room >= wanted:
        return config, ""
    if room < FEWEST_CONNECTIONS:
        raise StreamsegError(
            f"open files: {limit} are allowed, and {needed + FEWEST_CONNECTIONS} are needed for "
            f"{len(config.streams)} streams and {FEWEST_CONNECTIONS} connections; raise LimitNOFILE= of the "
            "service, or ulimit -n"
        )
    publish = msgspec.structs.replace(config.publish, max_connections=room)
    return msgspec.structs.replace(config, publish=publish), (
        f"open files: {limit} are allowed, so publish.max_connections is {room} instead of {wanted}; "
        "raise LimitNOFILE= of the service, or ulimit -n"
    )


class WallClock:
    """Notices that the machine's clock was set."""

    def __init__(self) -> None:
        self._ahead_ns = _ahead_ns()

    def stepped_s(self) -> float:
        """By how much it was set ahead since the last call (back: negative); 0 where it was not."""
        before_ns, self._ahead_ns = self._ahead_ns, _ahead_ns()
        step_s = (self._ahead_ns - before_ns) / 1e9
        return step_s if abs(step_s) >= STEP_S else 0.0


def _ahead_ns() -> int:
    """The wall clock's lead over one that nobody sets and that goes on while the machine sleeps."""
    boot_clock = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
    return time.time_ns() - time.clock_gettime_ns(boot_clock)


def failed_inside(error: BaseException, engine: str) -> str:
    """One line for what a library raised: what is missing and what to do, where that is known."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    small = text.lower()
    if isinstance(error, MemoryError) or any(word in small for word in _NO_MEMORY):
        if any(word in small for word in _GPU):
            return (
                f"engine {engine}: the GPU is out of memory; end what else runs on it, or set a smaller "
                f"engine.input_size or engine.max_batch ({text[:200]})"
            )
        return (
            f"engine {engine}: this machine is out of memory; end what else runs on it, raise MemoryMax= "
            f"where that is set, or set a smaller engine.input_size or engine.max_batch ({text[:200]})"
        )
    return f"failed inside: {text}"
