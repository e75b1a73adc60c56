"""Builds a plan in a child process, or compares an engine with fp32 there.

A build may take minutes, hang, crash, or use every core. Its process runs at a low priority, ends when its
parent does, and may be killed at any moment: an unfinished plan is never loaded (cache.py).
"""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import msgspec

from streamseg.errors import EngineError, OutputError
from streamseg.inference.backends.protocol import BuildSpec, Choice, OnProgress
from streamseg.inference.plans.cache import PLANS, cannot_keep
from streamseg.inference.plans.recipe_key import recipe_of
from streamseg.inference.plans.verify import Measured
from streamseg.runtime.child import ChildProcess
from streamseg.runtime.folders import cache_folder
from streamseg.runtime.import_path import module_command

log = logging.getLogger(__name__)

END_WITHIN_S = 5.0  # for a child that has closed its output


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """What the child builds, and into which folder."""

    backend: str
    spec: BuildSpec
    folder: str
    again: bool = False  # even if there is a plan already
    quiet: bool = False  # at a low priority
    prove: bool = False  # build only where there is no plan, then measure


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A line from the child: progress, what was measured, and at the end an error or done."""

    progress: str = ""
    measured: Measured | None = None
    error: str = ""
    done: bool = False


class BuildStopped(EngineError):
    """A build was stopped by stop()."""


class Build:
    """One build in a child process. run() blocks; stop() may come from any thread."""

    def __init__(
        self,
        choice: Choice,
        folder: Path | None = None,
        *,
        again: bool = False,
        quiet: bool = False,
        prove: bool = False,
        progress: OnProgress | None = None,
    ) -> None:
        """folder: for the plan, unset the cache. again: build even if there is one.

        prove: also compare it with fp32, which `measured` has then; of a backend without plans only that.
        quiet: at a low priority. progress: called with lines of text; unset they are logged.
        """
        self._choice = choice
        self._given_folder = folder
        self._again = again
        self._quiet = quiet
        self._prove = prove
        self.measured: Measured | None = None
        self._progress = progress or (lambda text: log.info("engine %s: %s", choice.engine_id, text))
        self._lock = threading.Lock()  # guards _child and _stopped, so that no child starts after stop()
        self._child: ChildProcess | None = None
        self._stopped = False

    @property
    def _folder(self) -> Path:
        try:
            return self._given_folder or cache_folder(PLANS)
        except OutputError as error:
            raise EngineError(f"its plan cannot be kept: {error}") from error

    @property
    def log_file(self) -> Path:
        """The messages of the libraries that build."""
        return self._folder / f"{recipe_of(*self._choice).key}.log"

    def run(self) -> None:
        """Build; returns when the plan is written. Raises EngineError with the reason."""
        backend, spec = self._choice
        order = Order(
            backend=backend.name,
            spec=spec,
            folder=str(self._folder) if backend.suffix else "",
            again=self._again,
            quiet=self._quiet,
            prove=self._prove,
        )
        child = self._logging_child() if backend.suffix else self._start(None)
        last = Line()
        with child:
            child.send(order)
            for text in child.lines():
                last = msgspec.json.decode(text, type=Line)
                if last.progress:
                    self._progress(last.progress)
                self.measured = last.measured or self.measured
            how = child.end(END_WITHIN_S)
        if self._stopped:
            raise BuildStopped(f"engine {self._choice.engine_id}: its build was stopped")
        if last.error:
            raise EngineError(last.error)
        if not last.done:
            what = (
                f"the build ended by {how}; see {self.log_file}" if backend.suffix else f"it ended by {how}"
            )
            raise EngineError(f"engine {self._choice.engine_id}: {what}")

    def stop(self) -> None:
        """End the build, now or before it begins; run() raises BuildStopped."""
        with self._lock:
            self._stopped = True
            child = self._child
        if child is not None:
            child.kill()

    def _logging_child(self) -> ChildProcess:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with self.log_file.open("wb") as written:
                return self._start(written.fileno())
        except OSError as error:
            raise cannot_keep(self._folder, error) from error

    def _start(self, log_fd: int | None) -> ChildProcess:
        with self._lock:
            if self._stopped:
                raise BuildStopped(f"engine {self._choice.engine_id}: its build was stopped")
            self._child = ChildProcess(
                module_command("streamseg.inference.plans.worker"),
                pipes=True,
                stderr=log_fd,
                own_session=self._quiet,
            )
            return self._child
