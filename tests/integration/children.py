"""Starting and ending the processes that tests talk to."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.waiting import LIMIT_S

ROOT = Path(__file__).resolve().parents[2]


class Child:
    """A process that says one line when it is ready, ends with its input, and says one JSON line then."""

    def __init__(self, module: str, *args: object) -> None:
        command = [sys.executable, "-m", f"tests.integration.{module}", *map(str, args)]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.says = self.process.stdout.readline().strip()
        assert self.says, f"{module} ended at once"

    def end(self) -> dict[str, Any]:
        """Close its input and read what it has to report."""
        out, _ = self.process.communicate("end\n", timeout=LIMIT_S)
        report: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
        return report

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()


class HeldUp:
    """Notes, in a thread, when this process did not get to run: (unix ns, ns late), 20 ms and above."""

    def __init__(self) -> None:
        self.times: list[tuple[int, int]] = []
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while True:
            begun_ns = time.monotonic_ns()
            time.sleep(0.005)
            late_ns = time.monotonic_ns() - begun_ns - 5_000_000
            if late_ns > 20_000_000:
                self.times.append((time.time_ns(), late_ns))


@contextmanager
def child(module: str, *args: object) -> Iterator[Child]:
    one = Child(module, *args)
    try:
        yield one
    finally:
        one.kill()
