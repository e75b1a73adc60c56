"""The daemon in a thread, or as a process that can be killed and started again at the same address."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from streamseg import Daemon
from streamseg.client.control import ControlClient
from streamseg.config import load_config
from streamseg.errors import StreamsegError
from tests.integration.children import ROOT
from tests.waiting import LIMIT_S, until


def environment() -> dict[str, str]:
    """That of a program which finds the package of this tree."""
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


class Lines:
    """What a process prints, line by line as it comes; ended with the process on leaving."""

    def __init__(self, command: Sequence[str | Path], *, errors: bool = False, cwd: Path = ROOT) -> None:
        self.lines: list[str] = []
        self._changed = threading.Condition()  # guards lines
        self.process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if errors else subprocess.PIPE,
            stderr=subprocess.PIPE if errors else None,
            text=True,
            cwd=cwd,
            env=environment(),
        )
        pipe = self.process.stderr if errors else self.process.stdout
        assert pipe is not None
        self._pipe = pipe
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def __enter__(self) -> Lines:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(LIMIT_S)
        self._thread.join(LIMIT_S)
        self._pipe.close()

    def more(self, after: int) -> str:
        """The line with this number, waiting for it."""
        with self._changed:
            came = self._changed.wait_for(
                lambda: len(self.lines) > after or not self._thread.is_alive(), LIMIT_S
            )
            assert came, f"only {len(self.lines)} lines came"
            assert len(self.lines) > after, f"it ended: {self.lines[-5:]}"
            return self.lines[after]

    def wait(self, text: str) -> str:
        """The first line that has `text` in it."""
        at = 0
        deadline = time.monotonic() + LIMIT_S
        while text not in (line := self.more(at)):
            assert time.monotonic() < deadline, f"no {text!r} in {self.lines}"
            at += 1
        return line

    def _read(self) -> None:
        for line in self._pipe:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()


def run_daemon(*words: str | Path) -> Lines:
    """Start `streamseg run …`; returns when it publishes."""
    daemon = Lines([sys.executable, "-m", "streamseg", "run", *words], errors=True)
    try:
        daemon.wait("publishing on")
    except BaseException:
        daemon.kill()
        raise
    return daemon


@contextmanager
def in_thread(daemon: Daemon) -> Iterator[tuple[threading.Thread, list[BaseException]]]:
    """Run a daemon in a thread of its own: that, and its error if it ends with one. Stopped at the end."""
    errors: list[BaseException] = []

    def run() -> None:
        try:
            daemon.run()
        except StreamsegError as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield thread, errors
    finally:
        daemon.stop()
        thread.join(LIMIT_S)
        assert not thread.is_alive(), "it hangs"


@contextmanager
def ready_daemon(path: Path, *, with_file: bool = True) -> Iterator[tuple[Daemon, ControlClient]]:
    """Run a daemon with what a file says in a thread: that, when it is ready, and a client of it."""
    daemon = Daemon(load_config(path), path if with_file else None)
    with in_thread(daemon) as (thread, errors):
        until(lambda: daemon.ready.is_set() or not thread.is_alive())
        assert daemon.ready.is_set(), errors
        with ControlClient(daemon.private_endpoint, timeout_s=LIMIT_S) as client:
            yield daemon, client
