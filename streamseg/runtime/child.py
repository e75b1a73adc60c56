"""A child process: started, ended together with what it started, and how it ended in words."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, Self

import msgspec

from streamseg.runtime.import_path import python_environment

Policy = Literal["other", "batch", "idle"]
"""Linux's scheduling policies for everything that is not real-time; elsewhere they change nothing."""


class ChildProcess:
    """A process in a group of its own, owned by one thread; a context manager that ends it.

    A child is expected to end when its input (or its channel) closes, so it does not outlive a parent that is
    killed. Ctrl-C in a terminal does not reach it. It imports modules from where its parent does, but not
    from the working folder, nor does a Python that it starts.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        pipes: bool = False,
        stderr: int | None = None,
        own_session: bool = False,
        pass_fds: Sequence[int] = (),
    ) -> None:
        """Start it; raises OSError.

        pipes: for send() and lines(), else both are /dev/null. stderr: a descriptor, unset ours. own_session:
        with a share of the CPU of its own (Linux's autogroup), which lower_priority() then reduces.
        """
        stream = subprocess.PIPE if pipes else subprocess.DEVNULL
        self._process = subprocess.Popen(
            command,
            stdin=stream,
            stdout=stream,
            stderr=stderr,
            pass_fds=pass_fds,
            process_group=None if own_session else 0,
            start_new_session=own_session,
            env=python_environment(),
        )
        self._lock = threading.Lock()  # guards _ended: a process group's number may be given away after it
        self._ended = False

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, message: msgspec.Struct) -> None:
        """Write a line of JSON to its standard input. Nothing happens once that is closed or it has ended."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError, ValueError):
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()

    def lines(self) -> Iterator[bytes]:
        """What it prints, line by line, until it closes its standard output, usually by ending. Blocks."""
        assert self._process.stdout is not None
        yield from self._process.stdout

    def close_input(self) -> None:
        """Close its standard input, which asks it to end; from the threads that call send() only."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def kill(self) -> None:
        """Kill it and what it started. From any thread; fine when it has ended."""
        with self._lock:
            if not self._ended:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(self.pid, signal.SIGKILL)

    def end(self, within_s: float = 0.0) -> str:
        """Close its input, wait within_s for its end, and kill what is left; how it ended, in words.

        Blocks for within_s at most. "killed" means that it did not end by itself. Ending it twice is fine.
        """
        self.close_input()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(within_s)
        code = self._process.returncode
        self.kill()
        self._process.wait()
        with self._lock:
            self._ended = True
        if self._process.stdout is not None:
            self._process.stdout.close()
        return "killed" if code is None else how_it_ended(code)


def how_it_ended(code: int) -> str:
    """Put a return code of subprocess in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"signal {-code}"


def lower_priority(nice: int, policy: Policy = "other") -> None:
    """Lower the priority of this process, and of its whole session when it was started as one of its own.

    With policy idle it runs only when nothing else of its session wants to, and nice does not matter.
    """
    os.nice(nice)
    if os.getsid(0) == os.getpid():  # sessions share the CPU first, and nice counts only inside one
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(nice))
    if policy != "other" and hasattr(os, "sched_setscheduler"):
        with contextlib.suppress(OSError):
            os.sched_setscheduler(0, getattr(os, f"SCHED_{policy.upper()}"), os.sched_param(0))
